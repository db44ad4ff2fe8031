"""Work directories, models and datasets written by version 0.1 keep working: nothing is paid for or computed twice.

Version 0.1 wrote `data/work_0_1`, see `support/make_work_directory.py`; the tests repeat its commands. They use only
the command line and the public names of the package, so they survive any change inside it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.resnet import ResNet
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from gpt4image import DescriptionStore, EmbeddingStore, SoftLabels, load_images, open_run
from gpt4image.__main__ import main
from support import make_work_directory as made
from support.make_work_directory import CONFUSIONS, DATA, INTERRUPTED, PAIR_BATCH, PLAIN, TEACHER, TINY
from support.stub_scenario import Scenario
from support.stub_server import StubServer

KEPT = Path(__file__).parent / "data" / "work_0_1"
ALL = ["--splits", "train", "validation", "test"]
COMPUTED = {".npy", ".safetensors", ".json"}
STEPS_AN_EPOCH = 3


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Copy the data, make the copy the current folder, and return what version 0.1 reported about it."""
    shutil.copytree(KEPT, tmp_path / "kept")
    monkeypatch.chdir(tmp_path / "kept")
    return json.loads(Path("said.json").read_text("utf-8"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that succeeds, and return what it prints."""

    def run(*words: str) -> str:
        capsys.readouterr()
        ended = main(words)
        printed = capsys.readouterr()
        assert ended == 0, printed.err
        return printed.out

    return run


def describe(server: StubServer, *words: str) -> int:
    return main(["describe", *DATA, *made.PAID, "--base-url", server.base_url, "--yes", *words])


def paid(server: StubServer) -> list[tuple[str, int]]:
    """Return picture and turn of every paid request."""
    return sorted((entry.mark, entry.turn) for entry in server.log if entry.paid)


def cost(server: StubServer, share: float = 1.0) -> float:
    return share * sum(10.0 * entry.tokens_in + 20.0 * entry.tokens_out for entry in server.log if entry.paid) / 1e6


def store() -> DescriptionStore:
    return DescriptionStore("work/descriptions")


def texts_of(prompt: str) -> list[str]:
    return [record.text for record in store().current() if record.prompt == prompt and record.answered]


def figures(printed: str) -> set[str]:
    """Return the numbers in a text, whatever the words around them."""
    return set(re.findall(r"\d+(?:\.\d+)?", printed))


def files(*folders: str) -> dict[str, tuple[bytes, int]]:
    """Return content and modification time of computed files."""
    found = (path for folder in folders for path in Path(folder).rglob("*") if path.suffix in COMPUTED)
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def draws_as_recorded() -> bool:
    """Say whether torch draws the numbers here that it drew for the data, to the last bit.

    That depends on the processor. Elsewhere a backbone that is not pretrained starts from other weights, so that what
    its frozen part says is computed anew.
    """
    drawn = torch.empty(64).normal_(generator=torch.Generator().manual_seed(0))
    return hashlib.sha256(drawn.numpy().tobytes()).hexdigest().startswith("e1275a785936ab2f")


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the batches that a vision model sees, and the optimizer steps, inside the block."""
    counts: Counter[str] = Counter()

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, ResNet) and inputs[0].any():  # loading a teacher tries it on a blank picture
            counts["batches"] += 1

    def step(*_: object) -> None:
        counts["steps"] += 1

    hooks = [register_module_forward_pre_hook(look), register_optimizer_step_post_hook(step)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def test_scan_cache_opens_and_images_keep_their_ids_and_splits(said, run):
    (scan,) = Path("work/images").rglob("*.parquet")
    before = pq.read_table(scan).to_pylist()
    assert len(before) == 36
    run("images", *DATA)
    after = [row for part in Path("work/images").rglob("*.parquet") for row in pq.read_table(part).to_pylist()]
    assert all(row in after for row in before), "a part of another version would be deleted as damaged"
    images = load_images("photos", work="work")
    for split, marks in said["marks"].items():
        assert {name.decode()[:12] for name in images.ids[images.split(split)].tolist()} == set(marks)


def test_description_store_opens_with_all_texts_failures_marks_and_costs(said):
    assert {path.suffix for path in Path("work/descriptions/parts").iterdir()} >= {".jsonl", ".parquet"}
    found = made.account(store())
    assert found.pop("cost") == pytest.approx(said["store"].pop("cost"))
    assert found == said["store"]
    assert sum(1 for _ in store().payments()) > 0
    assert {record.key for record in store().current(dropped=True)} > {record.key for record in store().current()}


def test_describe_requests_only_missing_and_failed_descriptions(said):
    with StubServer() as server:
        assert describe(server, *ALL, "--prompts", "plain") == 3, "what failed before is still missing"
        assert describe(server, "--prompts", "contrast", *CONFUSIONS, "--splits", "validation") == 0
        assert paid(server) == []
        assert describe(server, "--splits", "validation", "--prompts", "attributes") == 0
        assert paid(server) == [(mark, 1) for mark in said["unpaid"]["no money"]]
        assert describe(server, *ALL, "--prompts", "plain", "--retry-failed") == 0
        assert Counter(mark for mark, _ in paid(server)) == Counter(chain.from_iterable(said["unpaid"].values()))
        assert store().failures() == {}
        assert store().spent().cost == pytest.approx(said["store"]["cost"] + cost(server))


def test_open_conversations_resume_at_their_next_turn(said):
    missing = {mark: range(turns + 1, 4) for mark, turns in said["turns"].items()}
    with StubServer() as server:
        for _ in range(2):
            assert describe(server, "--splits", "train", "--prompts", "questions") == 0
            assert paid(server) == sorted((mark, turn) for mark, turns in missing.items() for turn in turns)
        assert store().spent().cost == pytest.approx(said["store"]["cost"] + cost(server))
    texts = texts_of("questions")
    assert len(texts) == 18 and all(text.count("This is answer") == 3 for text in texts)


def test_pending_batch_is_collected(said):
    with StubServer(Scenario(batch_polls=1), state=Path("server")) as server:
        (state,) = Path("work/descriptions/batches/jobs").glob("*/state.json")
        state.write_text(state.read_text().replace(f":{made.PORT}/", f":{server.port}/"))
        assert describe(server, "--splits", "validation", "--prompt-file", "pair.toml") == 0
        assert paid(server) == [], "requests inside a batch are not sent again"
        for _ in range(2):
            assert describe(server, *PAIR_BATCH) == 0
            assert paid(server) == sorted((mark, 2) for mark in said["marks"]["validation"])
        assert not any(entry.endpoint in ("create", "upload", "chat") for entry in server.log)
    texts = texts_of("pair")
    assert len(texts) == 6 and all("This is answer 1" in text and "This is answer 2" in text for text in texts)
    assert store().spent().cost > said["store"]["cost"] + cost(server, 0.5)


def test_budget_counts_earlier_spending(said, capsys):
    with StubServer() as server:
        stopped = describe(server, "--prompts", "attributes", "--budget", f"{said['store']['cost'] + 1e-4:.6f}")
        assert stopped == 1
        assert paid(server) == []
    assert "budget" in capsys.readouterr().err


@pytest.mark.slow
def test_embeddings_and_soft_labels_are_reused(said, run):
    before = files("work/embeddings", "work/labels")
    with counted() as counts:
        printed = {
            "embed": run("embed", *DATA, *PLAIN),
            "label": run("label", *DATA, *PLAIN),
            "embed images": run("embed", "images", *DATA, *TEACHER, "--views", "2"),
            "label images": run("embed", "images", *DATA, "--teacher", "run:work/runs/baseline-0"),
        }
    assert not counts, "a finished stage runs no model"
    after = files("work/embeddings", "work/labels").items()
    assert {name: content for name, content in after if "text-minilm" not in name} == before  # text labels are new
    for command, found in printed.items():
        assert figures(said["printed"][command]) <= figures(found), command
    images = load_images("photos", work="work")
    train = images.ids[images.split("train")]
    text, teacher = (EmbeddingStore(f"work/embeddings/{name}") for name in ("minilm", "images-timm-tiny_resnet"))
    assert (text.find(images.ids) >= 0).sum() == 32 and (teacher.find(train) >= 0).all()
    vectors, there = text.lookup(train)
    torch.testing.assert_close(vectors[there].norm(dim=1), torch.ones(15), atol=1e-2, rtol=0)
    of_texts, of_run = (SoftLabels(Path("work/labels", name)) for name in ("minilm", "run-work-runs-baseline-0"))
    assert (len(of_texts), len(of_run)) == (15, 18)
    assert of_texts.classes == of_run.classes == images.classes


@pytest.mark.slow
def test_finished_comparison_reports_the_recorded_numbers_without_training(said, run):
    before, recorded = files("work/runs"), json.loads(Path("work/comparison.json").read_text())
    with counted() as counts:
        printed = run("compare", *DATA, *PLAIN, *TINY, *made.COMPARED)
    assert not counts, "a finished stage runs no model"
    assert files("work/runs") == before
    # the command that version 0.1 advised had another number of seeds
    lines = [line for line in said["printed"]["compare"].splitlines() if not line.strip().startswith("gpt4image")]
    too_far = {"146.3", "171.3"}  # its interval reached beyond 100 points, which no difference can
    assert too_far < figures("\n".join(lines))
    assert figures("\n".join(lines)) - too_far <= figures(printed)
    found = json.loads(Path("work/comparison.json").read_text())
    for record in (*found["per_class"], *recorded["per_class"]):
        low, high = record.pop("low"), record.pop("high")  # version 0.1 had intervals of width zero for few images
        assert low <= record["difference"] <= high
    assert found["difference"].pop("needed")  # what it takes to tell more, which version 0.1 did not record
    interval = recorded["difference"]
    assert interval["low"] < -1 and interval["high"] > 1
    interval |= {"low": -1.0, "high": 1.0}
    recorded["recipe"] |= {"keep": "best", "labelled_share": 0.5}  # settings that came later
    recorded["recipe"]["unlabelled"] = "align"  # the default changed; all images of this set have a label
    shown, known = (figures("\n".join(record.pop("notes"))) for record in (found, recorded))
    assert shown == known  # the words of notes may change, their figures may not
    for name in recorded.keys() - {"version", "created", "device"}:
        assert common(found[name], recorded[name]) == recorded[name], name


def common(found, recorded):
    """Return found records without the fields that version 0.1 did not record."""
    if isinstance(found, dict):
        return {name: common(value, recorded[name]) for name, value in found.items() if name in recorded}
    if isinstance(found, list) and len(found) == len(recorded):
        return [common(*pair) for pair in zip(found, recorded, strict=True)]
    return found


@pytest.mark.slow
def test_recipe_setting_that_version_0_1_did_not_have_makes_no_other_run(said, run):
    for path in Path("work/runs").glob("*/settings.json"):
        settings = json.loads(path.read_text("utf-8"))
        for name in ("repeats", "color_jitter", "compile"):
            del settings["recipe"][name]
        path.write_text(json.dumps(settings), "utf-8")
    with counted() as counts:
        run("compare", *DATA, *PLAIN, *TINY, *made.COMPARED)
    assert not counts["steps"]


@pytest.mark.slow
def test_report_renders_from_recorded_comparison(said, run):
    Path("work/report.html").unlink()
    run("report", "--work", "work")
    page = Path("work/report.html").read_text("utf-8")
    recorded, gallery = (json.loads(Path("work", name).read_text()) for name in ("comparison.json", "gallery.json"))
    for arm in recorded["arms"]:
        mean = sum(each["test_accuracy"] for each in arm["runs"]) / len(arm["runs"])
        assert f"{100 * mean:.1f}" in page
    assert f"{100 * abs(recorded['difference']['mean']):.1f}" in page
    assert all(name in page for name in recorded["classes"])
    assert gallery["items"] and all(item["thumbnail"] in page for item in gallery["items"])


def test_finished_runs_open_and_export_the_same_weights(said, run):
    recorded = json.loads(Path("work/comparison.json").read_text())
    for arm in recorded["arms"]:
        for each in arm["runs"]:
            opened = open_run(Path("work/runs", f"{arm['name']}-{each['seed']}"))
            assert (opened.best_epoch, opened.best_accuracy) == (each["best_epoch"], each["validation_accuracy"])
            assert list(opened.classes) == recorded["classes"]
    kept = load_file("model/model.safetensors")
    run("export", *DATA, "--run", "work/runs/described-0", "--out", "model", "--no-onnx")
    again = load_file("model/model.safetensors")
    assert kept.keys() == again.keys() and all(torch.equal(kept[name], again[name]) for name in kept)


@pytest.mark.slow
def test_interrupted_training_resumes_from_its_checkpoint(said, run):
    features = files("work/features")
    with counted() as counts:
        run("train", *DATA, *PLAIN, *TINY, *INTERRUPTED)
    trained = open_run(Path("work/runs/described-5"))
    epochs = trained.recipe.epochs
    assert counts["steps"] == epochs * STEPS_AN_EPOCH - made.STEPS_BEFORE_SIGNAL
    assert len(said["history"]) == 3 and len(trained.history) == epochs
    assert trained.history[:3] == said["history"], "finished epochs are not trained again"
    assert not Path("work/runs/described-5/checkpoint.pt").exists()
    assert features.items() <= files("work/features").items()
    if draws_as_recorded():
        assert files("work/features") == features
    with counted() as counts:
        run("train", *DATA, *PLAIN, *TINY, *INTERRUPTED)
    assert not counts


def test_exported_model_predicts_the_same_classes(said, run):
    head, *rows = (line.split("\t") for line in run("predict", "model", "photos/test", "--top", "1").splitlines())
    assert head == ["path", "class_1", "probability_1", "error"]
    expected = [line.split("\t") for line in said["printed"]["predict"].splitlines()]
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    assert [float(row[2]) for row in rows] == pytest.approx([float(row[2]) for row in expected], abs=1e-3)
    assert timm.create_model("local-dir:model", pretrained=True).num_classes == 3


@pytest.mark.slow
def test_dropped_descriptions_stay_dropped_until_undone(said, run):
    check = ["describe", "check", *DATA, *PLAIN]
    whole = len(store().current(dropped=True))
    assert len(said["store"]["dropped"]) == 2
    run(*check)
    assert len(store().current()) == whole - 2
    run(*check, "--undo")
    assert len(store().current()) == whole


def test_exported_dataset_imports_with_texts_models_and_costs(said, run):
    kept = {record.key: record for record in store().current() if record.key in said["store"]["texts"]}
    run("describe", "import", "photos", "--work", "other", "--from", "shared")
    taken = {record.key: record for record in DescriptionStore("other/descriptions").current()}
    assert Counter(record.prompt for record in taken.values()) == {"plain": 32, "contrast": 6, "attributes": 5}
    for key, record in taken.items():
        assert (record.text, record.model, record.cost) == (kept[key].text, kept[key].model, kept[key].cost)
    with StubServer() as server:
        where = ["photos", "--work", "other", *made.PAID, "--base-url", server.base_url, "--yes"]
        assert main(["describe", *where, *ALL, "--prompts", "plain"]) == 0
        described = {record.image_id[:12] for record in taken.values() if record.prompt == "plain"}
        assert {mark for mark, _ in paid(server)} == set(chain.from_iterable(said["marks"].values())) - described


def test_exported_dataset_serves_as_recording_and_as_image_source(said):
    asked = ["--prompts", "attributes", "--splits", "validation"]
    some_failed = 3
    words = ["describe", "photos", "--work", "replayed", "--describer", "replay", "--recording", "shared", *asked]
    assert main(words) == some_failed
    replayed = DescriptionStore("replayed/descriptions")
    assert sorted(record.text for record in replayed.current() if record.answered) == sorted(texts_of("attributes"))
    assert replayed.spent().cost == 0 and replayed.failures().total() == 1
    images = load_images("shared/data")
    assert set(images.ids.tolist()) <= set(load_images("photos").ids.tolist()) and len(images.classes) == 3


def test_dataset_card_lists_findings_of_an_earlier_check(said, run):
    lines = {}
    for name in ("with", "without"):
        run("describe", "export", *DATA, "--out", name)
        lines[name] = len(Path(name, "README.md").read_text("utf-8").splitlines())
        Path("work/descriptions/check.json").unlink(missing_ok=True)
    assert lines["with"] > lines["without"]
