"""A finished comparison answers at once, and only while nothing has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from gpt4image.cli.main import main

SETTINGS = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--epochs", "1", "--batch-size", "8"]
SETTINGS += ["--warmup-epochs", "0", "--seeds", "1"]
WITHOUT_TORCH = """
import sys
from gpt4image.cli.main import main
status = main(sys.argv[1:])
assert "torch" not in sys.modules and "sklearn" not in sys.modules
sys.exit(status)
"""


class ComparedError(Exception):
    """Something is compared that was not finished."""


@pytest.fixture(scope="module")
def finished(image_set, descriptions_file, tmp_path_factory):
    """Images, descriptions and the work directory of a comparison."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(image_set, folder / "images")
    shutil.copy(descriptions_file, folder / "texts.jsonl")
    compare(folder)
    return folder


def words(folder, *more):
    place = [str(folder / "images"), "--text", str(folder / "texts.jsonl"), "--work", str(folder / "work")]
    return ["compare", *place, "--orphan-texts", "skip", *SETTINGS, *more]


def compare(folder, *more):
    assert main(words(folder, *more)) == 0


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **options):
        raise ComparedError

    monkeypatch.setattr("gpt4image.compare.arms.compare_arms", refuse)


@pytest.fixture
def restored(finished):
    """The same, with every file put back after the test."""
    kept = finished.with_name(finished.name + "-kept")
    shutil.copytree(finished, kept)
    yield finished
    shutil.rmtree(finished)
    kept.rename(finished)


@pytest.mark.slow
def test_finished_comparison_says_the_same_again(finished, no_training, capsys):
    compare(finished)
    first = capsys.readouterr().out
    assert "report: " in first
    compare(finished)
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_finished_comparison_loads_no_model(finished):
    command = [sys.executable, "-c", WITHOUT_TORCH, *words(finished)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "is finished: same images" in " ".join(answer.stderr.split())


@pytest.mark.slow
def test_finished_experiment_becomes_the_latest_again(finished, no_training):
    work = finished / "work"
    for name in ("comparison.json", "report.html"):
        (work / name).write_text("another experiment")
    compare(finished)
    for name in ("comparison.json", "report.html"):
        assert (work / name).read_bytes() == next(work.glob(f"experiments/*/{name}")).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["weights", "result", "report", "comparison", "text", "image", "label"])
def test_changed_file_is_noticed(restored, no_training, change):
    work, images = restored / "work", restored / "images"
    match change:
        case "weights":
            (work / "runs" / "described-0" / "best.safetensors").unlink()
        case "result":
            os.utime(work / "runs" / "baseline-0" / "result.json")
        case "report":
            next(work.glob("experiments/*/report.html")).unlink()
        case "comparison":
            record = next(work.glob("experiments/*/comparison.json"))
            record.write_text(record.read_text().replace("0", "1", 1))
        case "text":
            lines = (restored / "texts.jsonl").read_text().splitlines()
            lines[0] = json.dumps(json.loads(lines[0]) | {"text": "Something else."})
            (restored / "texts.jsonl").write_text("\n".join(lines))
        case "image":
            shutil.copy(images / "red" / "000.png", images / "blue" / "new.png")
        case "label":
            (images / "red" / "000.png").rename(images / "blue" / "moved.png")
    with pytest.raises(ComparedError):
        compare(restored)


@pytest.mark.slow
def test_other_setting_is_another_comparison(finished, no_training):
    for change in (["--lr", "0.5"], ["--seeds", "2"], ["--split-seed", "1"]):
        with pytest.raises(ComparedError):
            compare(finished, *change)
