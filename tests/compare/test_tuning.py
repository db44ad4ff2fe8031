"""The search for settings: the same effort for every arm, on validation images, whatever kills it."""

from __future__ import annotations

import sqlite3
import sys
import time

import pytest

from gpt4image import compare_arms, open_run
from gpt4image.compare.records import Comparison
from gpt4image.compare.tuning import ArmStudy, search_ranges
from gpt4image.core.errors import MissingExtraError
from gpt4image.train.run import specify_run
from gpt4image.train.spec import RunInputs
from support.forks import finish_command, start_command

TRIALS = 3


@pytest.fixture
def spec(images, store, small_recipe, tmp_path):
    return specify_run(RunInputs(images, (store,)), small_recipe(epochs=10), tmp_path / "run", arm="described", seed=0)


def history(*accuracies: float) -> list[dict[str, float]]:
    return [{"epoch": epoch, "validation_accuracy": value} for epoch, value in enumerate(accuracies)]


def states(work) -> list[str]:
    """Return the states of all trials as the database has them."""
    with sqlite3.connect(work / "tuning" / "studies.db") as database:
        return [row[0] for row in database.execute("SELECT state FROM trials")]


def test_every_arm_is_searched_in_the_same_settings_and_its_own_weight(images, store, small_recipe, tmp_path):
    named = {}
    for arm in ("baseline", "described"):
        found = specify_run(RunInputs(images, (store,)), small_recipe(epochs=4), tmp_path / arm, arm=arm, seed=0)
        named[arm] = {each.name: (each.low, each.high) for each in search_ranges(found)}
    assert named["described"].keys() - named["baseline"].keys() == {"weight"}
    assert named["baseline"]["lr"] == pytest.approx((1e-4, 1e-2))
    assert named["baseline"]["epochs"] == (2, 8)


@pytest.mark.slow
def test_search_begins_with_the_recipe_and_stops_trials_that_fall_behind(spec, tmp_path):
    search = ArmStudy(tmp_path, spec, search_ranges(spec), 8)
    first = search.ask()
    assert first["lr"] == spec.recipe.lr and first["epochs"] == spec.recipe.epochs
    for number in range(7):
        if number:
            assert search.ask() is not None
        assert not search.falls_behind(history(*[0.8] * 9), 10)
        search.finish(0.8)
    assert search.ask() is not None
    assert not search.falls_behind(history(0.1), 10)  # too early to tell
    assert search.falls_behind(history(*[0.1] * 6), 10)
    search.prune()
    assert search.ask() is None
    assert search.done == 8


@pytest.mark.slow
def test_trial_of_a_killed_process_is_tried_again_and_the_rest_stays_the_same(spec, tmp_path):
    proposed = {}
    for name, killed in (("whole", ()), ("killed", (1, 2))):
        asked = []
        search = ArmStudy(tmp_path / name, spec, search_ranges(spec), 4)
        for number in range(4):
            values = search.ask()
            if number in killed:
                search = ArmStudy(tmp_path / name, spec, search_ranges(spec), 4)
                assert search.ask() == values
            asked.append(values)
            search.finish(0.5 + number / 100)
        proposed[name] = asked
        assert search.best() == asked[-1]
    assert proposed["whole"] == proposed["killed"]


def test_missing_optuna_is_named_with_the_command_that_installs_it(
    images, descriptions, store, small_recipe, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gpt4image\[tune\]'"):
        compare_arms(images, descriptions, store, small_recipe(epochs=1), tmp_path, seeds=(0,), tune=2)


def command(image_set, descriptions_file, work) -> list[str]:
    arguments = ["--text", str(descriptions_file), "--work", str(work), "--seeds", "2", "--tune", str(TRIALS)]
    recipe = [
        "--backbone",
        "test_resnet",
        "--no-pretrained",
        "--image-size",
        "32",
        "--epochs",
        "4",
        "--batch-size",
        "8",
    ]
    return ["compare", str(image_set), *arguments, *recipe]


@pytest.mark.slow
def test_killed_search_ends_like_an_uninterrupted_one(image_set, descriptions_file, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for ended in (1, TRIALS + 1):
        process = start_command(command(image_set, descriptions_file, killed))
        while process.is_alive():
            if (killed / "tuning" / "studies.db").exists():
                try:
                    if sum(state in ("COMPLETE", "PRUNED") for state in states(killed)) >= ended:
                        break
                except sqlite3.OperationalError:  # its tables are being made
                    pass
            time.sleep(0.02)
        process.kill()
        process.join()
        assert not list(killed.glob("runs/*/test.safetensors"))
    for work in (killed, whole):
        finish_command(command(image_set, descriptions_file, work))
        assert sum(state in ("COMPLETE", "PRUNED") for state in states(work)) == 2 * TRIALS
        assert len(list(work.glob("runs/*/test.safetensors"))) == 4
    first, second = (Comparison.load(work / "comparison.json") for work in (killed, whole))
    assert first.variants == second.variants
    assert first.difference == second.difference
    assert any("searched with 3 trials" in note for note in first.notes)
    for arm in first.arms:
        (variant,) = (variant for variant in first.variants if variant.arm == arm.name)
        recipe = open_run(killed / "runs" / arm.runs[0].folder).recipe
        assert variant.changes["lr"] == f"{recipe.lr:g}"
    assert len(list(killed.glob("runs/*/result.json"))) == 4  # those of other trials are gone
