"""From images to descriptions and on: real models, prompts that need a trained run, estimate, sample, check, export."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from gpt4image import describe_images, described_set, load_images
from gpt4image.cli.main import main
from gpt4image.core.errors import ConfigError, DescribeError, DescriptionError
from gpt4image.core.options import DataOptions, TextOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.describe.options import DescribeOptions
from gpt4image.descriptions.class_texts import ClassTexts
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.workflows.describe import run_class_texts, run_description, run_estimate, run_sample
from gpt4image.workflows.inputs import open_descriptions
from support.describing import ALL, described, records
from support.drawings import write_image_set
from support.image_files import class_folders, noise, raw_tar
from support.stub_scenario import Fault, Scenario
from support.stub_server import MODEL, StubServer

TINY = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--epochs", "1", "--batch-size", "8"]
CLASSES = ("blue", "green", "red")
HOSTILE_NAME = "a<b>\x1b[31m\u202e.png"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return write_image_set(tmp_path_factory.mktemp("few") / "images", per_class=3)


@pytest.fixture(scope="module")
def baseline(image_set, tmp_path_factory):
    """A trained run, for its confusion matrix."""
    work = tmp_path_factory.mktemp("baseline")
    assert main(["train", str(image_set), "--work", str(work), "--arm", "baseline", *TINY]) == 0
    return work / "runs" / "baseline-0"


def run(folder, work, server, *more: str) -> int:
    where = [str(folder), "--work", str(work), "--base-url", server.base_url, "--model", MODEL]
    return main(["describe", *where, *more])


@pytest.mark.slow
def test_real_model_in_this_process(few, tiny_vlm, tmp_path):
    options = {"describer": "local", "model": str(tiny_vlm), "max_tokens": 8, "splits": ("train",), "local_batch": 4}
    tally = describe_images(few, tmp_path, **options, prompts=("plain", "questions"))
    assert tally.answered > 0 and not tally.failures
    found = records(tmp_path)
    assert {record.describer for record in found} == {"local"}
    assert all(record.tokens_in and record.tokens_out and record.cost == 0 for record in found)
    assert describe_images(few, tmp_path, **options, prompts=("plain", "questions")).total == 0


@pytest.mark.slow
def test_same_model_behind_a_real_server(few, tiny_vlm, vlm_server, tmp_path):
    options = {"model": str(tiny_vlm), "max_tokens": 8, "at_once": 2, "splits": ("train",)}
    tally = described(few, tmp_path, vlm_server, **options)
    assert tally.answered > 0 and not tally.failures
    assert all(record.text and record.tokens_in for record in records(tmp_path))
    assert described(few, tmp_path, vlm_server, **options).total == 0


@pytest.mark.slow
def test_contrast_prompt_names_the_classes_a_run_confuses(image_set, baseline, tmp_path):
    with StubServer() as server:
        options = DescribeOptions(base_url=(server.base_url,), prompts=("contrast",), confusions=baseline)
        tally = run_description(DataOptions(str(image_set)), options, tmp_path)
        questions = {entry.question for entry in server.log if entry.endpoint == "chat"}
    assert tally.answered == 25
    assert len(questions) == 3
    red = next(question for question in questions if "picture of: red" in question)
    assert "mistaken for: blue, green" in red or "mistaken for: green, blue" in red


@pytest.mark.slow
def test_contrast_prompt_stays_the_same_when_a_folder_grows(image_set, baseline, tmp_path, monkeypatch):
    """A new confusion matrix of the same run would name other classes, and ask everything again."""
    from gpt4image.compare import predictions as confusion

    folder, work = tmp_path / "set", tmp_path / "work"
    shutil.copytree(image_set, folder)
    turned = [np.eye(3, k=1, dtype=np.int64), np.eye(3, k=-1, dtype=np.int64)[::-1]]
    monkeypatch.setattr(confusion, "validation_confusion", lambda *_: turned.pop(0))
    with StubServer() as server:
        options = DescribeOptions(base_url=(server.base_url,), prompts=("contrast",), confusions=baseline, splits=ALL)
        assert run_description(DataOptions(str(folder)), options, work).answered == 36
        new = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        for name in ("red", "green"):
            Image.fromarray(new + (name == "red")).save(folder / name / "new.png")
        assert run_description(DataOptions(str(folder)), options, work).total == 2
        assert set(server.paid_by_mark.values()) == {1}


@pytest.mark.slow
def test_training_uses_the_embedded_descriptions(image_set, tmp_path, capsys):
    with StubServer() as server:
        for prompts in (("plain",), ("attributes",)):
            describe_images(image_set, tmp_path, base_url=(server.base_url,), prompts=prompts)
    where = [str(image_set), "--work", str(tmp_path)]
    assert main(["embed", *where, "--use-prompts", "plain"]) == 0
    assert "25 distinct texts of 25 images" in capsys.readouterr().out
    assert main(["train", *where, *TINY]) == 0
    assert "25 texts" not in capsys.readouterr().err
    images = load_images(image_set, work=tmp_path)
    assert described_set(DescriptionStore(tmp_path / "descriptions"), images).texts == 25
    assert main(["embed", *where, "--use-prompts", "plane"]) == 1
    assert "Did you mean 'plain'" in capsys.readouterr().err


@pytest.mark.slow
def test_another_work_directory_trains_on_the_same_descriptions(image_set, tmp_path, capsys):
    """Nothing is asked again."""
    first, second = tmp_path / "first", tmp_path / "second"
    with StubServer() as server:
        described(image_set, first, server.base_url, prompts=("plain", "attributes"))
    where, train = [str(image_set), "--work", str(first)], [*TINY, "--arm", "described"]
    assert main(["train", *where, *train]) == 0
    where[-1] = str(second)
    assert main(["train", *where, *train, "--epochs", "2"]) == 1
    assert "set --text to a file or another work directory that holds some" in " ".join(capsys.readouterr().err.split())
    assert main(["embed", *where, "--text", str(first), "--use-prompts", "plain"]) == 0
    assert "36 distinct texts of 36 images" in capsys.readouterr().out
    assert main(["train", *where, *train, "--epochs", "2", "--text", str(first)]) == 0
    assert DescriptionStore(second / "descriptions").is_empty


@pytest.mark.slow
def test_estimate_shows_tokens_by_picture_size(image_set, tmp_path):
    folder = tmp_path / "set"
    for path in image_set.rglob("*.png"):
        target = folder / path.relative_to(image_set)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((900, 700)).save(target)
    with StubServer() as server:
        options = DescribeOptions(base_url=(server.base_url,), model=MODEL, price_in=1.0, price_out=2.0)
        found = run_estimate(DataOptions(str(folder)), options, tmp_path / "work")
        assert list(found.trials) == [256, 512, 768, 900]
        assert found.trials[256] < found.trials[900]
        assert found.remaining == 25 - 8
        kept = server.paid_by_mark.total()
        run_description(DataOptions(str(folder)), options, tmp_path / "work")
        assert server.paid_by_mark.total() - kept == 25 - 8


def test_unknown_option_is_rejected(image_set, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'prompts'"):
        describe_images(image_set, tmp_path, prompt="plain")


@pytest.mark.slow
def test_estimate_measures_small_and_large_pictures(image_set, tmp_path):
    folder = tmp_path / "set"
    for number, path in enumerate(sorted(image_set.rglob("*.png"))):
        target = folder / path.relative_to(image_set)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((700, 700) if number % 4 == 0 else (60, 60)).save(target)
    with StubServer() as server:
        options = DescribeOptions(base_url=(server.base_url,), model=MODEL, splits=("train", "validation", "test"))
        found = run_estimate(DataOptions(str(folder)), options, tmp_path / "work")
        rest = run_description(DataOptions(str(folder)), options, tmp_path / "work")
    assert found.tokens_in * rest.answered == pytest.approx(rest.tokens_in, rel=0.1)


def test_prompt_file_is_used_when_no_prompt_is_named(image_set, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[short]\nturns = ["What is it?"]\n')
    with StubServer() as server:
        describe_images(image_set, tmp_path, base_url=(server.base_url,), prompt_file=path)
    assert {record.prompt for record in records(tmp_path)} == {"short"}


@pytest.mark.slow
def test_drop_undo_and_retry_of_a_check(image_set, tmp_path, capsys):
    with StubServer(Scenario(faults=(Fault("refusal_text", every=5),))) as server:
        describe_images(image_set, tmp_path, base_url=(server.base_url,))
    check = ["describe", "check", str(image_set), "--work", str(tmp_path)]
    whole = len(records(tmp_path))
    assert main([*check, "--drop", "refusal"]) == 0
    assert len(records(tmp_path)) == whole - 5
    export = ["describe", "export", str(image_set), "--work", str(tmp_path), "--out"]
    assert main([*export, str(tmp_path / "dropped")]) == 0
    assert "5 texts dropped by describe check" in capsys.readouterr().out
    assert "Refusals" not in (tmp_path / "dropped" / "README.md").read_text(), "dropped texts are not exported"
    assert main([*check, "--undo"]) == 0
    assert len(records(tmp_path)) == whole
    assert main([*export, str(tmp_path / "whole")]) == 0
    assert "Refusals" in (tmp_path / "whole" / "README.md").read_text()
    assert main([*check, "--retry", "refusal"]) == 0
    with StubServer() as server:
        describe_images(image_set, tmp_path, base_url=(server.base_url,))
    assert main([*export, str(tmp_path / "again")]) == 0
    assert "Refusals" not in (tmp_path / "again" / "README.md").read_text(), "the retry has replaced them"


def test_check_without_descriptions_names_the_command(image_set, tmp_path, capsys):
    assert main(["describe", "check", str(image_set), "--work", str(tmp_path)]) == 1
    assert "Write some: gpt4image describe" in " ".join(capsys.readouterr().err.split())


def test_copies_are_described_once_and_said(tmp_path, capsys):
    class_folders(tmp_path / "set", {"cat": 3, "dog": 3})
    shutil.copy(tmp_path / "set/cat/000.png", tmp_path / "set/cat/again.png")
    where = [str(tmp_path / "set"), "--work", str(tmp_path / "work"), "--validation-share", "0", "--test-share", "0"]
    with StubServer() as server:
        assert main(["describe", *where, "--base-url", server.base_url, "--yes"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "duplicates: 1 copy of 1 image; 6 are distinct" in said
    assert "descriptions: 6 to write" in said and "copies are described once (1 here)" in said


def test_a_sample_in_which_all_fail_says_why_once(tmp_path, capsys):
    class_folders(tmp_path / "set", {"cat": 3, "dog": 3})
    where = [str(tmp_path / "set"), "--work", str(tmp_path / "work"), "--validation-share", "0", "--test-share", "0"]
    with StubServer(Scenario(faults=(Fault("invalid_image"),))) as server:
        assert main(["describe", *where, "--base-url", server.base_url, "--sample", "3"]) == 1
        written = capsys.readouterr()
        assert (written.err + written.out).count("You uploaded an unsupported") == 1
        assert written.out.count("failed: refused by the server (400)\n") == 3
        assert main(["describe", *where, "--base-url", server.base_url, "--estimate"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("You uploaded an unsupported") == 1 and ".." not in said and said.endswith("'webp'].")


def test_address_without_v1_is_corrected(image_set, tmp_path):
    with StubServer() as server, pytest.raises(DescribeError, match=r"Did you mean http://.*/v1\?"):
        describe_images(image_set, tmp_path, base_url=(server.base_url.removesuffix("/v1"),))


def test_exported_card_shows_own_prompts(few, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('[mine]\nturns = ["Which colour has the {class} thing?"]\n')
    where = [str(few), "--work", str(tmp_path / "work")]
    with StubServer() as server:
        asked = ["--base-url", server.base_url, "--model", MODEL, "--prompt-file", str(own)]
        assert main(["describe", *where, *asked]) == 0
    for more, shown in (([], False), (["--prompt-file", str(own)], True)):
        out = tmp_path / f"set-{shown}"
        assert main(["describe", "export", *where, "--out", str(out), *more]) == 0
        assert ("Which colour has the {class} thing?" in (out / "README.md").read_text("utf-8")) == shown


def test_sample_is_shown_and_kept(image_set, tmp_path, capsys):
    with StubServer() as server:
        assert run(image_set, tmp_path, server, "--sample", "5") == 0
        first = capsys.readouterr().out
        assert run(image_set, tmp_path, server, "--sample", "5") == 0
        assert capsys.readouterr().out == first
        assert server.paid_by_mark.total() == 5
        assert run(image_set, tmp_path, server, "--sample", "0") == 1
    assert first.count("A picture of 48 x 48 pixels") == 5
    page = (tmp_path / "descriptions" / "preview.html").read_text("utf-8")
    assert page.count("A picture of 48 x 48 pixels") == 5
    assert "Describe the image in detail." in page


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be files there")
def test_hostile_names_and_texts_are_escaped(image_set, tmp_path, capsys):
    folder = tmp_path / "set"
    shutil.copytree(image_set, folder)
    for path in list(folder.rglob("*.png")):
        path.rename(path.with_name(path.stem + HOSTILE_NAME))
    with StubServer(Scenario(faults=(Fault("hostile"),))) as server:
        assert run(folder, tmp_path / "work", server, "--sample", "4") == 0
        assert run(folder, tmp_path / "work", server) == 0
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert not set("\x1b\x00\u202e\x07") & set(shown)
    assert r"\x1b[31m" in shown
    page = (tmp_path / "work" / "descriptions" / "preview.html").read_text("utf-8")
    assert "<script" not in page and "&lt;script" in page
    assert not set("\x1b\x00\u202e") & set(page)
    assert {path.name for path in tmp_path.iterdir()} == {"set", "work"}


def test_captions_of_a_webdataset_are_found_and_named(tmp_path, capsys):
    members = [(f"{n}.{kind}", data) for n in range(4) for kind, data in (("png", noise(n)), ("txt", b"text %d" % n))]
    path = raw_tar(tmp_path / "a.tar", [*members, *((f"{n}.cls", b"%d" % (n % 2)) for n in range(4))])
    images = load_images(path, validation_share=0, test_share=0)
    found = open_descriptions(images, TextOptions(), WorkDir(tmp_path / "work"))
    assert {text for _, text in found.pairs()} == {"text 0", "text 1", "text 2", "text 3"}
    assert "texts: column txt" in capsys.readouterr().err


@pytest.mark.parametrize(("faults", "status"), [((), 0), ((Fault("invalid_image", every=2),), 3)])
def test_exit_status_of_a_sample_tells_whether_some_failed(few, tmp_path, faults, status):
    with StubServer(Scenario(faults=faults)) as server:
        assert run(few, tmp_path, server, "--sample", "4") == status


def look(image_set, work, url: str, **options) -> None:
    run_sample(DataOptions(str(image_set)), DescribeOptions(model=MODEL, base_url=(url,), **options), work, 4)


def texts_for_training(image_set, work, **text):
    return open_descriptions(load_images(image_set, work=work), TextOptions(**text), WorkDir(work))


def test_look_at_another_prompt_is_no_training_data_until_it_is_run_or_named(image_set, tmp_path, capsys):
    with StubServer() as server:
        whole = describe_images(image_set, tmp_path, model=MODEL, base_url=(server.base_url,)).answered
        look(image_set, tmp_path, server.base_url, prompts=("class-conditioned",))
        assert "trials: 4 descriptions" in capsys.readouterr().err
        assert texts_for_training(image_set, tmp_path).origins == {("plain", MODEL): whole}
        said = " ".join(capsys.readouterr().err.split())
        assert f"texts: plain by {MODEL} ({whole})" in said
        assert f"left out: class-conditioned by {MODEL} (4)" in said
        named = texts_for_training(image_set, tmp_path, use_prompts=("class-conditioned",))
        assert named.origins == {("class-conditioned", MODEL): 4}
        both = texts_for_training(image_set, tmp_path, use_models=(MODEL,))
        assert both.origins == {("plain", MODEL): whole}
        describe_images(image_set, tmp_path, model=MODEL, base_url=(server.base_url,), prompts=("class-conditioned",))
        assert set(server.paid_by_mark.values()) == {2}, "the look was not paid for again"
    found = texts_for_training(image_set, tmp_path)
    assert found.origins == {("class-conditioned", MODEL): whole, ("plain", MODEL): whole} and not found.trials


def test_look_at_other_settings_or_another_model_is_no_training_data(image_set, tmp_path):
    with StubServer(Scenario(models=(MODEL, "other"))) as server:
        whole = describe_images(image_set, tmp_path, model=MODEL, base_url=(server.base_url,)).answered
        look(image_set, tmp_path, server.base_url, temperature=0.5)
        options = DescribeOptions(model="other", base_url=(server.base_url,))
        run_estimate(DataOptions(str(image_set)), options, tmp_path)
    found = texts_for_training(image_set, tmp_path)
    assert found.origins == {("plain", MODEL): whole}
    assert found.trials == {("plain", "other"): 8, ("plain", MODEL): 4}
    assert texts_for_training(image_set, tmp_path, use_models=("other",)).origins == {("plain", "other"): 8}


def test_look_does_not_replace_the_texts_that_images_come_with(image_set, tmp_path):
    table = tmp_path / "images.csv"
    rows = [f"{path},{path.parent.name},a text of {path.name}" for path in sorted(image_set.rglob("*.png"))]
    table.write_text("\n".join(["path,label,description", *rows]) + "\n")
    with StubServer() as server:
        look(table, tmp_path / "work", server.base_url)
        assert texts_for_training(table, tmp_path / "work").source == "column description"
        describe_images(table, tmp_path / "work", model=MODEL, base_url=(server.base_url,))
    assert texts_for_training(table, tmp_path / "work").origins


def test_model_that_answered_in_place_of_another_is_named(image_set, tmp_path, capsys):
    served = Fault("model", text="another-model", every=5)
    with StubServer(Scenario(faults=(served,))) as server:
        assert run(image_set, tmp_path, server, "--yes") == 0
    assert "5 answers from 'another-model', not from the requested model" in " ".join(capsys.readouterr().err.split())
    origins = texts_for_training(image_set, tmp_path).origins
    assert origins == {("plain", MODEL): 20, ("plain", f"{MODEL}, answered by another-model"): 5}


def test_store_of_nothing_but_looks_is_refused_with_the_remedy(image_set, tmp_path):
    with StubServer() as server:
        look(image_set, tmp_path, server.base_url)
    with pytest.raises(DescriptionError, match=r"only trials: plain by .* \(4\).*set use_prompts"):
        texts_for_training(image_set, tmp_path)


def test_declined_estimate_leaves_no_training_data(image_set, tmp_path, capsys):
    with StubServer() as server:
        options = DescribeOptions(model=MODEL, base_url=(server.base_url,), price_in=1.0, price_out=1.0)
        run_description(DataOptions(str(image_set)), options, tmp_path, confirm=lambda estimate: False)
    assert "trials: 8 descriptions" in capsys.readouterr().err
    assert not DescriptionStore(WorkDir(tmp_path).description_store).current()


def test_further_look_at_a_prompt_that_was_stopped_counts(image_set, tmp_path):
    with StubServer() as server:
        limited = {"budget": 0.05, "price_in": 10.0, "price_out": 10.0, "max_tokens": 20}
        tally = describe_images(image_set, tmp_path, model=MODEL, base_url=(server.base_url,), **limited)
        assert tally.stopped and tally.answered > 0
        look(image_set, tmp_path, server.base_url, max_tokens=20)
    assert not texts_for_training(image_set, tmp_path).trials


def test_classes_are_described_once_without_pictures_and_their_table_is_a_file_of_classes(few, tmp_path, capsys):
    said = "- A {} thing on a pale ground.\n\n2. It is {}.\n"
    faults = tuple(Fault("text", text=said.format(name, name), numbers=(at + 1,)) for at, name in enumerate(CLASSES))
    with StubServer(Scenario(faults=faults)) as server:
        where = [str(few), "--work", str(tmp_path), "--base-url", server.base_url, "--model", MODEL, "--at-once", "1"]
        prices = ["--price-in", "10", "--price-out", "20"]
        assert main(["describe", "classes", *where, *prices, "--yes"]) == 0
        chats = [entry for entry in server.log if entry.endpoint == "chat"]
        assert len(chats) == 3
        assert not any(entry.mark for entry in chats)
        assert all("blue, green, red" in entry.question for entry in chats)
        assert "$" in capsys.readouterr().out
        assert main(["describe", "classes", *where, *prices, "--yes", "--json"]) == 0
        assert len([entry for entry in server.log if entry.endpoint == "chat"]) == 3, "nothing is asked twice"
    texts = ClassTexts.read(tmp_path / "classes.csv")
    assert sorted(texts.names) == list(CLASSES)
    assert all(len(own) == 2 and own[0].endswith("on a pale ground.") for own in texts.texts)
    assert not records(tmp_path)
    with pytest.raises(ConfigError, match="leave engine and describer"):
        run_class_texts(DataOptions(str(few)), DescribeOptions(engine="local"), tmp_path, tmp_path / "x.csv")


def test_class_that_was_not_described_keeps_its_name_in_the_table(few, tmp_path):
    with StubServer(Scenario(faults=(Fault("status", status=400, numbers=(1,)),))) as server:
        where = [str(few), "--work", str(tmp_path), "--base-url", server.base_url, "--model", MODEL, "--at-once", "1"]
        assert main(["describe", "classes", *where, "--yes", "--out", str(tmp_path / "mine.csv")]) == 3
    texts = ClassTexts.read(tmp_path / "mine.csv")
    assert sum(own[0].startswith("a picture of") for own in texts.texts) == 1


def test_answers_with_unknown_finish_reasons_and_cut_ones_are_counted(image_set, tmp_path, capsys):
    faults = (Fault("finish", text="preempted", every=5), Fault("length", every=7))
    with StubServer(Scenario(faults=faults)) as server:
        assert run(image_set, tmp_path, server, "--yes") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "5 answers ended with the unknown finish reason 'preempted' and may be cut off" in said
    assert "3 answers cut off: raise --max-tokens" in said
