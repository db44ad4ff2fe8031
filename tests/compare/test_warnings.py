"""Warnings about runs: each appears for what it names, and for nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gpt4image import compare_arms, open_run, write_report
from gpt4image.compare.warnings import find_warnings
from gpt4image.core.options import GuidanceOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.train.spec import ARMS
from gpt4image.workflows.arm_inputs import ArmInputs


@pytest.fixture(scope="module")
def run(work):
    """A sound run: the best epoch is in the middle, and the loss has settled."""
    folder, recipe = work
    losses = [1.0, 0.5, 0.3, 0.3, 0.3]
    history = [{"epoch": epoch, "classification_loss": loss} for epoch, loss in enumerate(losses)]
    found = open_run(folder / "runs" / "baseline-0")
    return replace(found, recipe=recipe, best_epoch=2, best_accuracy=0.8, history=history)


def test_sound_runs_cause_no_warning(run):
    assert find_warnings({"baseline": [run, run, run]}, 100, frozen_accuracy=0.7) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"best_accuracy": 0.6}, "60.0% is below the 70.0% of a linear classifier"),
        ({"best_epoch": 0}, "the first epoch was the best in 3 of 3 runs"),
        ({"best_epoch": 4}, "the last epoch was the best in 3 of 3 runs"),
    ],
)
def test_each_sign_is_named(run, changes, words):
    (found,) = find_warnings({"baseline": [replace(run, **changes)] * 3}, 100, frozen_accuracy=0.7)
    assert found.startswith("baseline: ")
    assert words in found


def test_first_epoch_that_is_right_on_all_images_causes_no_warning(run):
    assert find_warnings({"baseline": [replace(run, best_epoch=0, best_accuracy=1.0)] * 3}, 100, None) == ()


def test_falling_loss_is_named(run):
    falling = [{**epoch, "classification_loss": 1.0 - 0.2 * epoch["epoch"]} for epoch in run.history]
    (found,) = find_warnings({"baseline": [replace(run, history=falling)]}, 100, None)
    assert "has not converged in 1 of 1 runs" in found


def test_seeds_that_disagree_are_named_only_beyond_what_few_images_explain(run):
    runs = [replace(run, best_accuracy=accuracy) for accuracy in (0.5, 0.9, 0.7)]  # standard deviation 20 points
    (found,) = find_warnings({"baseline": runs}, 100, None)  # standard error 4.6 points
    assert "from 50.0% to 90.0% (standard deviation 20.0 points)" in found
    assert find_warnings({"baseline": runs}, 20, None) == ()  # 10.2 points
    assert find_warnings({"baseline": runs[:2]}, 100, None) == ()


def test_controls_cause_no_warning(run):
    control = next(arm for arm in map(ARMS.load, ARMS.names()) if arm.controls)
    assert find_warnings({control.name: [replace(run, arm=control, best_epoch=0)]}, 100, 0.99) == ()


def test_warnings_reach_the_record_and_the_page(work, images, descriptions, store, tmp_path):
    folder = shutil.copytree(work[0], tmp_path / "work")
    comparison = compare_arms(images, descriptions, store, work[1], folder, seeds=(0, 1), frozen_accuracy=lambda: 1.0)
    assert any("below the 100.0% of a linear classifier" in line for line in comparison.warnings)
    assert json.loads((folder / "comparison.json").read_text())["warnings"] == list(comparison.warnings)
    assert "below the 100.0% of a linear classifier" in write_report(folder).read_text()


def test_accuracy_on_frozen_features_is_that_of_another_library(work, images, descriptions, store, tmp_path):
    """The same features in scikit-learn, at the same strength."""
    run = open_run(work[0] / "runs" / "baseline-0")
    recipe = replace(run.recipe, checkpoint=str(run.layout.weights))
    text = GuidanceOptions(text="none")
    inputs = ArmInputs(images, descriptions, (store,), (), text, recipe, WorkDir(tmp_path))
    found = inputs.frozen_accuracy()
    features = inputs._image_features()
    vectors = features.take(features.find(images.ids)[np.flatnonzero(features.find(images.ids) >= 0)])
    rows = np.flatnonzero(features.find(images.ids) >= 0)
    centred = vectors - vectors.mean(axis=0)
    scaled = centred / np.sqrt((centred**2).sum(axis=1).mean())
    train = np.isin(rows, images.split("train"))
    held_out = np.isin(rows, images.split("validation"))
    fitted = LogisticRegression(C=3.0, tol=1e-6, max_iter=2000).fit(scaled[train], images.labels[rows[train]])
    assert found == pytest.approx(fitted.score(scaled[held_out], images.labels[rows[held_out]]))
    fresh = replace(recipe, checkpoint=None, pretrained=False)
    assert replace(inputs, recipe=fresh).frozen_accuracy() is None
