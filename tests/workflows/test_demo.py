"""The demo on a part of its images: killed, resumed, and asked for again."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import save_file

from gpt4image import Recipe
from gpt4image.core.invocation import Invocation, invoked
from gpt4image.workflows import demo
from support import CLIPART12
from support.training import same_weights

RUNS = 3 + 3 + 2


class Killed(BaseException):
    """Nothing handles it, like the end of the process."""


@pytest.fixture
def run_small_demo(tmp_path, monkeypatch):
    """The demo with every tenth image, a tiny network and one epoch."""
    images, weights = tmp_path / "clipart", tmp_path / "weights.safetensors"
    images.mkdir()
    for split in ("train", "validation", "test"):
        table = pq.read_table(CLIPART12 / f"{split}.parquet")
        pq.write_table(table.take(list(range(0, len(table), 10))), images / f"{split}.parquet")
    torch.manual_seed(0)
    save_file(
        {k: v.contiguous() for k, v in timm.create_model("test_resnet", num_classes=12).state_dict().items()}, weights
    )
    recipe = Recipe(backbone="test_resnet", checkpoint=str(weights), image_size=32, epochs=1, batch_size=32)
    monkeypatch.setattr(demo, "example_images", lambda: images)
    monkeypatch.setattr(demo, "packaged_weights", lambda target: target)
    monkeypatch.setattr(demo, "demo_recipe", lambda checkpoint: recipe)

    def run(runs_at_once=1, work="work"):
        with invoked(Invocation("gpt4image", ("demo",))):
            return demo.run_demo(tmp_path / work, seeds=1, runs_at_once=runs_at_once)

    return run


@pytest.mark.slow
def test_killed_demo_trains_only_what_is_missing_and_a_finished_one_nothing(
    run_small_demo, tmp_path, monkeypatch, capsys
):
    from gpt4image.compare import training

    train, runs = training.train_run, []

    def train_or_die(spec, *rest):
        if len(runs) == RUNS // 2:
            raise Killed
        runs.append(spec.layout.folder)
        return train(spec, *rest)

    monkeypatch.setattr(training, "train_run", train_or_die)
    with pytest.raises(Killed):
        run_small_demo()
    work = tmp_path / "work"
    assert not (work / "cases.html").exists()
    weights = {path: path.stat().st_mtime_ns for path in work.glob("runs/*/best.safetensors")}
    assert len(weights) == RUNS // 2
    monkeypatch.setattr(training, "train_run", train)
    capsys.readouterr()

    found = run_small_demo()
    log = capsys.readouterr().err
    assert f"Case 2 of 3, run {RUNS // 2 + 1} of {RUNS}" in log and f"Case 3 of 3, run {RUNS} of {RUNS}" in log
    assert f"run {RUNS // 2} of" not in log
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert len(list(work.glob("runs/*/best.safetensors"))) == RUNS
    assert [each.experiment for each in found.comparisons] == [case.experiment for case in demo.CASES]
    assert [each.difference.arm for each in found.comparisons] == ["text-labels", "text-labels", "described"]
    for comparison in found.comparisons:
        assert (work / "experiments" / comparison.experiment / "report.html").exists()
        # What is advised names the images as the demo reads them.
        assert comparison.command.images == (str(tmp_path / "clipart"), "--leaks", "drop")
    assert "10 labels a class" in (work / "cases.html").read_text()
    assert "10 labels a class: labels alone " in found.lines[0]

    monkeypatch.setattr(training, "train_run", None)  # nothing may be trained
    page = (work / "cases.html").stat().st_mtime_ns
    capsys.readouterr()
    assert run_small_demo() == found
    log = capsys.readouterr().err
    assert "The demo is finished" in log and "images" not in log.replace("same images", "")  # and none is read
    assert (work / "cases.html").stat().st_mtime_ns == page
    (work / "cases.svg").unlink()
    assert run_small_demo().lines == found.lines
    assert (work / "cases.svg").exists()


@pytest.mark.slow
def test_cases_that_share_the_processors_end_like_one_after_another(run_small_demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "CASES", (demo.CASES[0], demo.CASES[2]))  # in the first an arm waits for the baseline
    one = run_small_demo()
    capsys.readouterr()
    together = run_small_demo(runs_at_once=2, work="together")
    log = capsys.readouterr().err
    assert [each.difference for each in together.comparisons] == [each.difference for each in one.comparisons]
    assert together.lines == one.lines
    assert log.index("Case 2 of 2, run 5 of 5") < log.index("Case 1 of 2, run 3 of 5")  # which waited
    assert log.count("All 5 runs: 5 of 5") == 1
    weights = sorted((tmp_path / "work").glob("runs/*/best.safetensors"))
    assert len(weights) == 5
    for path in weights:
        assert same_weights(path, tmp_path / "together" / path.relative_to(tmp_path / "work"))
