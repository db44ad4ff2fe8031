"""Experiments of one work directory: they share runs, never settings, and look at test images at the end only."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from gpt4image import compare_arms
from gpt4image.cli.main import main
from gpt4image.compare.experiments import Experiment, experiment_layouts, read_sweep
from gpt4image.compare.records import Comparison
from gpt4image.compare.run_table import RunRow, filter_rows, list_runs, runs_csv, runs_table
from gpt4image.core.errors import ConfigError
from gpt4image.core.workdir import WorkDir
from gpt4image.train.run import open_run, train_run
from support.training import StoppedError, observe


@pytest.fixture
def begun(work, tmp_path):
    """A copy of a finished comparison of two seeds, and its recipe."""
    folder, recipe = work
    return shutil.copytree(folder, tmp_path / "work"), recipe


@pytest.fixture
def trained(monkeypatch):
    """The runs that are trained, as arm and seed; opened ones do not count."""
    found = []

    def train(spec, *arguments):
        if not spec.layout.result.exists():
            found.append((spec.arm.name, spec.seed))
        return train_run(spec, *arguments)

    monkeypatch.setattr("gpt4image.compare.training.train_run", train)
    return found


def said(capfd) -> str:
    return " ".join(capfd.readouterr().err.split())


@pytest.mark.slow
def test_changed_weight_trains_only_the_arms_that_it_concerns(begun, images, descriptions, store, trained, capfd):
    folder, recipe = begun
    first = Comparison.load(folder / "comparison.json")
    second = compare_arms(images, descriptions, store, replace(recipe, weight=1.0), folder, seeds=(0, 1))
    assert trained == [("described", 0), ("described", 1)]
    printed = said(capfd)
    assert "4 runs: 2 finished before, 2 to train." in printed
    assert "Differs from earlier runs: the weight of the alignment was 0.3, is 1." in printed
    assert not re.search(r"[0-9a-f]{16}|[{}]", printed)
    assert [run.test_accuracy for run in second.arms[0].runs] == [run.test_accuracy for run in first.arms[0].runs]
    assert {run.folder for run in first.arms[1].runs}.isdisjoint(run.folder for run in second.arms[1].runs)
    kept = Comparison.load(folder / "experiments" / first.experiment / "comparison.json")
    assert kept == first
    assert Comparison.load(folder / "comparison.json") == second
    assert second.experiment == "described-weight-1-2-seeds"


@pytest.mark.slow
def test_added_seeds_and_arms_train_only_what_is_missing(begun, images, descriptions, store, trained):
    folder, recipe = begun
    compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1, 2))
    assert trained == [("baseline", 2), ("described", 2)]
    trained.clear()
    compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1))
    assert trained == []
    assert len(experiment_layouts(WorkDir(folder))) == 2


@pytest.mark.slow
def test_added_images_are_said_in_words(begun, images, descriptions, store, trained, capfd):
    folder, recipe = begun
    fewer = replace(images, rows=images.rows.take(np.setdiff1d(np.arange(len(images)), images.split("train")[:2])))
    compare_arms(fewer, descriptions, store, recipe, folder, seeds=(0, 1))
    assert len(trained) == 4
    assert "2 images were removed" in said(capfd)
    trained.clear()
    compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1))
    assert trained == []


def test_changed_test_images_need_no_training(begun, images, descriptions, store, trained):
    folder, recipe = begun
    fewer = replace(images, rows=images.rows.take(np.setdiff1d(np.arange(len(images)), images.split("test")[:1])))
    comparison = compare_arms(fewer, descriptions, store, recipe, folder, seeds=(0, 1))
    assert trained == []
    assert np.sum(comparison.arms[0].confusion) == 2 * (len(images.split("test")) - 1)


@pytest.mark.slow
def test_test_images_are_read_after_all_runs_and_once(images, descriptions, store, small_recipe, tmp_path, monkeypatch):
    """Bytes of test images are read in no run, and in no summary before the last run has ended."""
    events, tested = [], set(images.split("test").tolist())
    read = type(images).image

    def image(table, row):
        events.append("test" if int(row) in tested else "other")
        return read(table, row)

    def train(spec, *arguments):
        events.append("begin")
        run = train_run(spec, *arguments)
        events.append("end")
        return run

    monkeypatch.setattr(type(images), "image", image)
    monkeypatch.setattr("gpt4image.compare.training.train_run", train)
    compare_arms(images, descriptions, store, small_recipe(epochs=1), tmp_path, seeds=(0, 1))
    assert events.count("end") == 4
    assert "other" in events
    assert events.index("test") > len(events) - events[::-1].index("end") - 1


@pytest.mark.slow
def test_interrupted_run_is_resumed_and_nothing_is_mixed(
    begun, images, descriptions, store, trained, monkeypatch, capfd
):
    folder, recipe = begun
    changed = replace(recipe, weight=1.0)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=6)
        compare_arms(images, descriptions, store, changed, folder, seeds=(0, 1), checkpoint_seconds=0)
    capfd.readouterr()
    other = compare_arms(images, descriptions, store, replace(recipe, weight=2.0), folder, seeds=(0, 1))
    comparison = compare_arms(images, descriptions, store, changed, folder, seeds=(0, 1))
    assert "1 to resume" in said(capfd)
    for found, weight in ((comparison, 1.0), (other, 2.0)):
        runs = [open_run(folder / "runs" / run.folder) for run in found.arms[1].runs]
        assert [run.recipe.weight for run in runs] == [weight, weight]
        assert all(len(run.history) == recipe.epochs for run in runs)
    assert len(list(folder.glob("runs/*/result.json"))) == 8
    assert not list(folder.glob("runs/*/checkpoint.pt"))


@pytest.mark.slow
def test_sweep_chooses_on_validation_and_only_the_chosen_answer_the_test_images(
    begun, images, descriptions, store, trained
):
    folder, recipe = begun
    sweep = {"weight": [0.3, 1.0], "lr": [recipe.lr, 1e-4]}
    comparison = compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1), sweep=sweep)
    assert trained.count(("baseline", 0)) == 1  # for the other learning rate; no weight concerns it
    assert trained.count(("described", 0)) == 3
    titles = [variant.title for variant in comparison.variants]
    assert titles[:2] == [f"baseline, lr {recipe.lr:g}", "baseline, lr 0.0001"]
    assert titles[-1] == "described, weight 1, lr 0.0001" and len(titles) == 6
    for arm in comparison.arms:
        variants = [variant for variant in comparison.variants if variant.arm == arm.name]
        (chosen,) = (variant for variant in variants if variant.chosen)
        assert chosen.mean == max(variant.mean for variant in variants)
        assert chosen.validation_accuracy == [run.validation_accuracy for run in arm.runs]
    answered = {run.folder for arm in comparison.arms for run in arm.runs} | {
        f"{arm}-{seed}"
        for arm in ("baseline", "described")
        for seed in (0, 1)  # in the experiment before
    }
    assert {path.parent.name for path in folder.glob("runs/*/test.safetensors")} == answered


@pytest.mark.slow
def test_names_keep_earlier_experiments(begun, images, descriptions, store, capfd):
    folder, recipe = begun
    compare_arms(images, descriptions, store, recipe, folder, seeds=(0,), name="mine")
    first = Comparison.load(folder / "experiments" / "mine" / "comparison.json")
    compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1), name="mine")
    assert "Earlier experiment mine, created with different settings, is now called mine-2" in said(capfd)
    assert Comparison.load(folder / "experiments" / "mine-2" / "comparison.json").arms == first.arms
    assert Comparison.load(folder / "experiments" / "mine" / "comparison.json").difference.seeds == [0, 1]
    with pytest.raises(ConfigError, match="letters, digits"):
        compare_arms(images, descriptions, store, recipe, folder, seeds=(0,), name="../elsewhere")


def test_comparison_of_a_version_without_experiments_is_kept(begun, images, descriptions, store):
    folder, recipe = begun
    shutil.rmtree(folder / "experiments")
    before = (folder / "comparison.json").read_bytes()
    compare_arms(images, descriptions, store, recipe, folder, seeds=(0,))
    assert (folder / "experiments" / "earlier" / "comparison.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wieght=1"], "Did you mean 'weight'"),
        (["weight"], "must have the form NAME=VALUE"),
        (["weight=1", "weight=2"], "twice"),
        (["weight=-1"], "sweep.*weight"),
        (["loss=clop"], "clop"),
    ],
)
def test_sweep_is_checked_before_anything_is_opened(words, message):
    with pytest.raises(ConfigError, match=message):
        read_sweep(words)


def row(**changes) -> RunRow:
    fields = {
        "experiment": "described-2-seeds",
        "arm": "described+text-labels",
        "seed": 12,
        "differs": "weight 0.1, lr 0.002, freeze conv_stem bn1 blocks.0",
        "epochs": 100,
        "planned": 1000,
        "finished": False,
        "validation": None,
        "test": None,
        "folder": "described-12",
    }
    return RunRow(**(fields | changes))


def test_table_of_runs_fits_80_columns_and_steers_no_terminal():
    rows = [
        row(),
        row(arm="a" * 70, differs="\x1b[31mred"),
        row(experiment="", finished=True, validation=0.5, test=1.0),
    ]
    table = runs_table(rows)
    assert max(map(len, table.splitlines())) <= 80
    assert "\x1b" not in table
    assert "100.0%" in table
    assert "100/1000" in table


@pytest.mark.slow
def test_runs_are_listed_filtered_and_written_as_csv(begun, images, descriptions, store, capsys):
    folder, recipe = begun
    compare_arms(images, descriptions, store, replace(recipe, weight=1.0), folder, seeds=(0, 1))
    rows = list_runs(WorkDir(folder))
    assert len(rows) == 8
    assert {found.differs for found in rows if found.arm == "baseline"} == {""}
    comparison = Comparison.load(folder / "comparison.json")
    expected = {(arm.name, run.seed): run.test_accuracy for arm in comparison.arms for run in arm.runs}
    listed = {(found.arm, found.seed): found.test for found in rows if found.experiment == comparison.experiment}
    assert listed == expected
    some = list(filter_rows(rows, ["arm=described", comparison.experiment]))
    assert [found.seed for found in some] == [0, 1]
    assert len(runs_csv(rows).splitlines()) == 9
    with pytest.raises(ConfigError, match="Did you mean 'arm'"):
        list(filter_rows(rows, ["arms=described"]))
    assert main(["runs", "--work", str(folder), "--json", "--filter", "seed=1"]) == 0
    assert {found["seed"] for found in json.loads(capsys.readouterr().out)["runs"]} == {1}


def test_record_of_an_experiment_names_its_runs(work):
    (layout,) = experiment_layouts(WorkDir(work[0]))
    record = Experiment.load(layout.record)
    assert record.finished
    assert sorted(run.folder for run in record.runs) == ["baseline-0", "baseline-1", "described-0", "described-1"]
