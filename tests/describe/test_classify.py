"""The classify prompt: the model picks a class of the list, and anything else is no answer."""

from __future__ import annotations

import json
import math
import re

import pytest

from gpt4image.core.errors import ConfigError, DescriptionError
from gpt4image.core.options import DataOptions, TextOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.describe.options import DescribeOptions
from gpt4image.descriptions.description_set import described_set
from gpt4image.descriptions.exchange import export_descriptions, import_descriptions
from gpt4image.descriptions.picks import read_picks
from gpt4image.descriptions.prompts import load_prompts
from gpt4image.descriptions.prompts.choices import Choices, Pick
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.llm.base import NO_CHOICE, Token
from gpt4image.quality.texts import ImageFacts, collect_texts
from gpt4image.workflows.describe import run_description, run_estimate
from gpt4image.workflows.inputs import find_descriptions
from support.batching import batched
from support.batching import records as batch_records
from support.describing import ALL, cost_of, described, opened, records, store_in
from support.running import KEY_NAME, options, scenario, start, wait_until
from support.stub_scenario import MODEL, Fault, Scenario
from support.stub_server import StubProcess, StubServer

IMAGES = 36
CLASSES = ("blue", "green", "red")
PETS = Choices(("cat", "cattle", "n02", "C++"), ("cat", "cattle", "sled dog", "C++"))


def picks(work) -> dict[str, Pick]:
    return {record.image_id: Pick.from_json(record.pick) for record in records(work) if record.pick}


def labels_of(images) -> dict[str, str]:
    return {key.decode(): images.classes[label] for key, label in zip(images.ids, images.labels, strict=True)}


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("cat", "cat"),
        (" Cat.\n", "cat"),
        ('- **"CATTLE"**', "cattle"),
        ("sled_dog", "n02"),
        ("n02", "n02"),
        ("c++", "C++"),
        ("None.", None),
    ],
)
def test_an_answer_is_a_name_of_the_list_but_for_case_and_punctuation_around_it(answer, name):
    assert PETS.pick(answer).name == name


@pytest.mark.parametrize("answer", ["a cat", "cat or cattle", "cats", "dog", "The answer is cat", "none of these", "1"])
def test_an_answer_in_any_other_form_is_refused(answer):
    with pytest.raises(ValueError, match=re.escape(answer)):
        PETS.pick(answer)


def test_a_class_called_none_and_classes_of_one_name_are_told_apart():
    assert Choices(("none", "dog"), ("none", "dog")).listing == "- none\n- dog\n- none of these"
    with pytest.raises(ConfigError, match=r"the classes 'Bus_Stop' and 'bus stop' are both called.*class_names"):
        Choices(("Bus_Stop", "bus stop"), ("Bus_Stop", "bus stop")).check()


def likely(text: str, share: float, **others: float) -> Token:
    return Token(text, math.log(share), tuple((name, math.log(other)) for name, other in others.items()))


def test_log_probabilities_of_tokens_become_those_of_classes():
    """Of the first token, 0.1 is not listed and goes to all five options; "ca" is cat or cattle."""
    found = PETS.pick("cat", [likely("c", 0.8, s=0.1), likely("at", 0.75, aw=0.25), likely("", 1.0, tle=0.0001)])
    expected = {"cat": 0.8 * 0.75, "n02": 0.1}
    rest = 0.1
    for name, share in expected.items():
        mass = share * 0.9999 if name == "cat" else share
        assert found.probabilities[name] == pytest.approx((mass + rest / 5) / (0.8 * 0.75 + 0.1 + rest), abs=2e-3)
    assert sum(found.probabilities.values()) <= 1 + 1e-9
    again = Pick.from_json(found.to_json())
    assert again.name == "cat"
    assert again.probabilities == pytest.approx(found.probabilities, abs=1e-4)


def test_log_probabilities_after_thinking_and_of_quoted_names_count():
    tokens = [likely('"', 0.9), likely("cat", 0.6, sled=0.4), likely("tle", 0.5, **{'"': 0.5})]
    found = PETS.pick('"cattle"', tokens).probabilities
    assert found["cattle"] == pytest.approx(found["cat"], rel=0.05)
    assert found["n02"] > found["cat"]


def test_models_pick_classes_and_log_probabilities_are_kept(image_set, tmp_path):
    with StubServer(Scenario(logprobs="send")) as server:
        tally = described(image_set, tmp_path, server.base_url, prompts=("classify",))
        with opened(image_set, tmp_path, server.base_url, prompts=("classify",)) as job:
            labels = labels_of(job.images)
            assert not len(job.plan())
    assert (tally.answered, tally.exit_status) == (IMAGES, 0)
    found = picks(tmp_path)
    assert {key: pick.name for key, pick in found.items()} == labels
    for pick in found.values():
        assert pick.probabilities[pick.name] == pytest.approx(0.7, abs=0.01)
        assert len(pick.probabilities) == 4
    asked = next(entry for entry in server.log if entry.mark)
    assert asked.settings["top_logprobs"] == 20
    assert all(f"- {name}\n" in asked.question for name in CLASSES)


@pytest.mark.parametrize(
    ("logprobs", "top", "kept"), [("five", 5, True), ("refuse", None, False), ("ignore", 20, False)]
)
def test_server_that_sends_fewer_or_no_log_probabilities_is_remembered(
    image_set, tmp_path, logprobs, top, kept, capsys
):
    with StubServer(Scenario(logprobs=logprobs)) as server:
        tally = described(image_set, tmp_path, server.base_url, prompts=("classify",), at_once=1)
    assert (tally.answered, tally.tried_again) == (IMAGES, 0)
    assert all(bool(pick.probabilities) == kept for pick in picks(tmp_path).values())
    answered = [entry for entry in server.log if entry.paid]
    assert {entry.settings.get("top_logprobs") for entry in answered} == {top}
    chats = sum(entry.endpoint == "chat" for entry in server.log)
    assert chats - IMAGES == {"five": 1, "refuse": 2, "ignore": 0}[logprobs]
    assert ("sends no log-probabilities" in capsys.readouterr().err) == (logprobs == "refuse")


@pytest.mark.slow
def test_answer_that_is_no_class_is_asked_again_then_counted_with_examples(image_set, tmp_path):
    once = Fault("text", text="It is a dog.", every=3, times=1)
    with StubServer(Scenario(faults=(once,))) as server:
        tally = described(
            image_set, tmp_path / "once", server.base_url, prompts=("classify",), price_in=10, price_out=20
        )
        assert tally.answered == IMAGES
        assert tally.tried_again > 0
        assert tally.cost == pytest.approx(cost_of(server.log))
        assert store_in(tmp_path / "once").spent().cost == pytest.approx(cost_of(server.log))
    marks = sorted({entry.mark for entry in server.log if entry.mark})[:2]
    faults = [Fault("text", text=f"It is {number}.", mark=mark) for number, mark in enumerate(marks)]
    with StubServer(Scenario(faults=tuple(faults))) as server:
        tally = described(image_set, tmp_path / "always", server.base_url, prompts=("classify",))
        sent = [entry.mark for entry in server.log]
        with opened(image_set, tmp_path / "always", server.base_url) as job:
            facts, store = ImageFacts(job.images), job.store
    with pytest.raises(DescriptionError, match=r'No text to check.*2 not one of the classes, such as "It is'):
        collect_texts(store, facts, None, load_prompts(["classify"]), None)
    assert tally.failures == {NO_CHOICE: 2}
    assert sent.count(marks[0]) == sent.count(marks[1]) > 1
    (line,) = tally.failure_lines()
    assert '"It is 0."' in line
    assert '"It is 1."' in line
    assert "retry_failed" in tally.retry_line()
    with StubServer(Scenario(faults=tuple(faults))) as server:
        described(image_set, tmp_path / "cold", server.base_url, prompts=("classify",), temperature=0)
        assert [entry.mark for entry in server.log].count(marks[0]) == 1, "the same answer would come again"


def test_changed_list_of_classes_makes_other_tasks_and_the_same_list_none(image_set, tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("class,text\nred,the colour of blood\nyellow,\n")
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, prompts=("classify",))
        again = described(image_set, tmp_path, server.base_url, prompts=("classify",))
        other = described(image_set, tmp_path, server.base_url, prompts=("classify",), classes=path)
    assert (again.total, other.answered) == (0, IMAGES)
    assert "- red: the colour of blood\n- yellow\n- none" in server.log[-1].question
    found = picks(tmp_path)
    by_list = {}
    for record in records(tmp_path):
        pick = Pick.from_json(record.pick)
        by_list.setdefault(pick.choices, []).append(pick.name)
    assert len(found) == IMAGES
    assert sorted(map(set, by_list.values()), key=len)[0] == {"red", None}
    assert len(by_list) == 2


def test_prompt_that_picks_the_class_must_not_name_it(tmp_path):
    path = tmp_path / "prompts.toml"
    path.write_text('[mine]\nturns = ["It is a {class}. Which one? {choices}"]\n')
    with pytest.raises(ConfigError, match=r"\{choices\} has the model pick the class, and \{class\} gives it away"):
        load_prompts(["mine"], path)


def test_class_of_an_image_is_not_in_its_question(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, prompts=("classify",))
    assert len({entry.question for entry in server.log if entry.question}) == 1


def test_last_answer_of_a_conversation_picks_the_class_and_alone_is_asked_again(image_set, tmp_path):
    path = tmp_path / "prompts.toml"
    path.write_text('[two]\nturns = ["What do you see?", "{choices}\\nWhich?"]\njoin = " | "\n')
    fault = Fault("text", text="well", turn=2, times=1)
    with StubServer(Scenario(faults=(fault,), logprobs="send")) as server:
        tally = described(image_set, tmp_path, server.base_url, prompt_file=path)
    turns = [entry.turn for entry in server.log if entry.paid]
    assert (tally.answered, turns.count(1), turns.count(2)) == (IMAGES, IMAGES, 2 * IMAGES)
    assert all("top_logprobs" not in entry.settings for entry in server.log if entry.turn == 1)
    record = records(tmp_path)[0]
    assert record.text.endswith(f" | {Pick.from_json(record.pick).name}")


def test_batch_reads_picks_and_asks_again_for_those_that_are_none(image_set, tmp_path):
    fault = Fault("text", on="line", text="No idea", times=1, every=4)
    with StubServer(Scenario(faults=(fault,))) as server:
        tally = batched(image_set, tmp_path, server.base_url, ("classify",))
        assert tally.answered == IMAGES
        assert sum(entry.endpoint == "line" for entry in server.log) > IMAGES
    assert all(Pick.from_json(record.pick).name in CLASSES for record in batch_records(tmp_path) if record.answered)


def test_picks_are_no_descriptions(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, prompts=("classify",))
        with (
            opened(image_set, tmp_path, server.base_url) as job,
            pytest.raises(DescriptionError, match="no descriptions"),
        ):
            described_set(job.store, job.images)
        described(image_set, tmp_path, server.base_url)
        with opened(image_set, tmp_path, server.base_url) as job:
            assert {prompt for prompt, _ in described_set(job.store, job.images).origins} == {"plain"}


def test_use_prompts_selects_descriptions_and_picks(image_set, tmp_path):
    workdir = WorkDir(tmp_path)
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, prompts=("plain", "classify"))
        with opened(image_set, tmp_path, server.base_url) as job:
            images = job.images
    found = {
        names: find_descriptions(images, TextOptions(use_prompts=names), workdir)
        for names in ((), ("plain",), ("plain", "classify"))
    }
    assert {names: len(each) for names, each in found.items()} == dict.fromkeys(found, IMAGES)
    assert {names for names, each in found.items() if each.picks is None} == {("plain",)}
    alone = find_descriptions(images, TextOptions(text="none"), workdir)
    assert len(alone.picks.ids) == IMAGES
    assert not len(alone)
    with pytest.raises(ConfigError, match="only one that picks classes"):
        find_descriptions(images, TextOptions(use_prompts=("classify",)), workdir)


def test_check_and_export_know_picks_from_texts(image_set, tmp_path):
    with StubServer(Scenario(logprobs="send")) as server:
        described(image_set, tmp_path, server.base_url, prompts=("plain", "classify"))
        with opened(image_set, tmp_path, server.base_url) as job:
            images, store = job.images, job.store
    collected = collect_texts(store, ImageFacts(images), None, load_prompts(["plain", "classify"]), None)
    assert {text.prompt for text in collected.texts} == {"plain"}
    assert not collected.missing
    assert not collected.failed
    export_descriptions(store, images, tmp_path / "shared")
    other = DescriptionStore(tmp_path / "other")
    import_descriptions(tmp_path / "shared", images, other)
    assert {record.key: record.pick for record in other.current()} == {r.key: r.pick for r in store.current()}
    assert described_set(other, images).texts == IMAGES


def test_estimate_measures_picks_like_any_answer(image_set, tmp_path):
    with StubServer() as server:
        where = {"model": MODEL, "base_url": (server.base_url,), "splits": ALL, "price_in": 10.0, "price_out": 20.0}
        options = DescribeOptions(**where, prompts=("classify",))
        found = run_estimate(DataOptions(str(image_set)), options, tmp_path)
    assert found.remaining == IMAGES - len(found.records)
    assert found.dollars() > 0
    assert read_picks(store_in(tmp_path), CLASSES) is None, "a look is no evidence"


@pytest.mark.slow
def test_killed_run_resumes_without_asking_for_a_pick_again(image_set, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_NAME, "key-of-the-engine-test")
    with StubProcess(scenario(latency=0.2, logprobs="send")) as server:
        process = start(image_set, tmp_path, server, 1, 4, "--prompts", "classify")
        wait_until(lambda: sum(entry.paid for entry in server.log) >= 8)
        process.kill()
        process.communicate()
        resumed = options(server, engine="here", prompts=("classify",))  # waits for the worker that is left over
        run_description(DataOptions(str(image_set)), resumed, tmp_path)
        asked = server.answers_by_mark
    assert len(picks(tmp_path)) == IMAGES
    assert set(asked.values()) == {1}
    assert json.loads(records(tmp_path)[0].pick)["class"] in CLASSES
