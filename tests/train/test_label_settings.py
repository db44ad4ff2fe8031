"""Losses and sampling for few, wrong and skewed labels: formulas in plain loops, and arms that are really trained."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gpt4image import Recipe, train_model
from gpt4image.core.errors import ConfigError
from gpt4image.core.options import SimulationOptions
from gpt4image.images.simulate import simulate_labels
from gpt4image.tasks.classification import adjust_logits, consistency_loss, gce_loss, target_entropy
from gpt4image.train.build import class_prior
from gpt4image.train.guidance import Guidance
from gpt4image.train.mixed_batches import MixedBatches
from gpt4image.train.transforms import StrongView, augmented_view
from support.labelling_parts import make_table
from support.training import StoppedError, observe, same_weights

TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
import torch
from gpt4image import Recipe, load_images, train_model
data, out, recipe = sys.argv[1:]
train_model(load_images(data), None, Recipe.from_dict(json.loads(recipe)), Path(out), arm="fixmatch")
torch.distributed.barrier()
os._exit(0)  # skip torch's teardown, which may abort after training in several processes on a CPU
"""
CONFIG = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}


def numbers(rows, columns, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, columns)))


def softmax(row):
    parts = [math.exp(value) for value in row]
    return [part / sum(parts) for part in parts]


def distributions(rows, columns):
    return numbers(rows, columns, seed=1).softmax(dim=1)


@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_generalised_cross_entropy_equals_its_formula(q):
    logits, targets = numbers(5, 4), distributions(5, 4)
    expected = 0.0
    for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        for probability, share in zip(softmax(row), wanted, strict=True):
            expected += share * (1 - probability**q) / q
    assert gce_loss(logits, targets, q).item() == pytest.approx(expected, abs=1e-12)


def test_generalised_cross_entropy_nears_the_cross_entropy_and_is_bounded():
    logits, targets = numbers(5, 4), torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0]]
    assert gce_loss(logits, targets, 1e-6).item() == pytest.approx(target_entropy(logits, targets).item(), rel=1e-4)
    wrong = torch.tensor([[50.0, 0.0]], dtype=torch.float64)
    assert gce_loss(wrong, torch.tensor([[0.0, 1.0]]), 0.7).item() <= 1 / 0.7


@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_logit_adjustment_equals_its_formula(strength):
    logits, prior = numbers(4, 3), torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    found = adjust_logits(logits, prior, strength)
    for row, adjusted in zip(logits.tolist(), found.tolist(), strict=True):
        for value, share, got in zip(row, prior.tolist(), adjusted, strict=True):
            assert got == pytest.approx(value - strength * math.log(share), abs=1e-12)


def test_consistency_equals_its_formula_and_teaches_by_the_strong_view_alone():
    weak, strong = 4 * numbers(8, 3), numbers(8, 3, seed=2).requires_grad_()
    weak.requires_grad_()
    expected, sure = 0.0, 0
    for first, second in zip(weak.tolist(), strong.tolist(), strict=True):
        answers = softmax(first)
        if max(answers) >= 0.9:
            expected -= math.log(softmax(second)[answers.index(max(answers))])
            sure += 1
    found = consistency_loss(weak, strong, 0.9)
    assert 0 < sure < 8
    assert found.item() == pytest.approx(expected, abs=1e-12)
    found.backward()
    assert weak.grad is None
    assert (strong.grad.abs().sum(dim=1) > 0).sum() == sure


def test_balanced_sampling_shows_all_classes_equally_often_and_copies_as_other_draws():
    classes = np.array([0] * 12 + [1] * 4 + [2])
    batches = MixedBatches(np.arange(17), np.empty(0, int), 17, 0.5, classes=classes, batch_size=6, seed=1)
    keys = []
    for epoch in range(12):  # 24 steps of 6 images: 4 passes over 3 x 12
        batches.epoch = epoch
        keys += [key for part in batches for key in part.keys]
    assert len(keys) == len(set(keys)) == 144
    assert np.bincount(classes[[position for _, position in keys]]).tolist() == [48, 48, 48]
    expected = np.repeat([1 / 36, 1 / 12, 1 / 3], [12, 4, 1])
    np.testing.assert_allclose(batches.frequencies(17), expected)


def test_prior_is_that_of_the_labels_in_the_batches():
    images = make_table([0] * 12 + [1] * 4 + [-1] * 8, ("ant", "bee", "cow"))
    rows = images.split("train")
    batches = MixedBatches(np.arange(16), np.arange(16, 24), 24, 0.5, batch_size=8, seed=0)
    found = class_prior(batches, images, rows, Guidance(), Recipe())
    expected = np.array([0.75, 0.25, 0.5 / 24])
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-6)
    balanced = MixedBatches(np.arange(16), np.arange(16, 24), 24, 0.5, classes=images.labels[:16], batch_size=8, seed=0)
    assert found[0] > 2.9 * found[1]
    even = class_prior(balanced, images, rows, Guidance(), Recipe())
    assert even[0] == pytest.approx(even[1].item())


def test_strong_views_differ_from_weak_ones_and_depend_on_the_key_alone(images):
    recipe = Recipe(image_size=32)
    weak, strong = augmented_view(recipe, CONFIG), StrongView(augmented_view(recipe, CONFIG, strong=True))
    first, again, other = (strong(images.encoded(0), key) for key in ((0, 1, 0), (0, 1, 0), (0, 2, 0)))
    assert first.is_floating_point()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not weak(images.encoded(0), (0, 1, 0)).is_floating_point()


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_fixmatch_trains_on_unlabelled_images_and_resumes_in_the_same_weights(
    half_labelled, small_recipe, tmp_path, monkeypatch, cached
):
    freeze = {"freeze": ("conv1", "bn1", "act1", "maxpool", "layer1"), "cached_views": 2} if cached else {}
    recipe = small_recipe(consistency_threshold=0.34, mixup=0.3, **freeze)
    features = tmp_path / "features"

    def train(name):
        return train_model(
            half_labelled, None, recipe, tmp_path / name, arm="fixmatch", features=features, checkpoint_seconds=0
        )

    with monkeypatch.context() as patch:
        seen = observe(patch, lambda _, __, batch: (batch.labels.tolist(), len(batch.strong), float(batch.free)))
        whole = train("whole")
    assert all(labels.count(-1) == strong == free for labels, strong, free in seen)
    assert any(strong for _, strong, _ in seen)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=len(seen) // 2)
        train("stopped")
    assert (tmp_path / "stopped/checkpoint.pt").exists()
    assert same_weights(train("stopped").layout.weights, whole.layout.weights)
    alone = train_model(half_labelled, None, recipe, tmp_path / "alone", arm="baseline", features=features)
    assert alone.steps == whole.steps
    assert not same_weights(alone.layout.weights, whole.layout.weights)


@pytest.mark.slow
def test_fixmatch_on_two_processes_trains_as_on_one(half_labelled, small_recipe, tmp_path):
    """A deterministic transformer: only rounding and the order of sums differ, however the images are dealt out."""
    recipe = small_recipe(
        backbone="vit_tiny_patch16_224", optimizer="sgd", lr=1e-2, consistency_threshold=0.34, accumulate=2
    )
    one = train_model(half_labelled, None, recipe, tmp_path / "one", arm="fixmatch")
    (tmp_path / "train.py").write_text(TWO_PROCESSES)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    arguments = [half_labelled.source, str(tmp_path / "two"), json.dumps(recipe.to_dict())]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*launcher, str(tmp_path / "train.py"), *arguments],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    a, b = load_file(one.layout.weights), load_file(tmp_path / "two/best.safetensors")
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_settings_of_wrong_and_skewed_labels_train_and_each_changes_the_weights(images, small_recipe, tmp_path):
    skewed = simulate_labels(images, SimulationOptions(long_tail=3), 0)
    weights = {}
    for name, arm, changes in (
        ("plain", "baseline", {}),
        ("gce", "gce", {}),
        ("loss", "baseline", {"logit_adjustment": "loss"}),
        ("post-hoc", "baseline", {"logit_adjustment": "post-hoc"}),
        ("weights", "baseline", {"class_weights": "balanced"}),
        ("sampling", "baseline", {"class_sampling": "balanced"}),
    ):
        recipe = small_recipe(keep="last", epochs=1, **changes)
        weights[name] = load_file(train_model(skewed, None, recipe, tmp_path / name, arm=arm).layout.weights)
    for name, found in weights.items():
        assert name == "plain" or any(not torch.equal(found[key], weights["plain"][key]) for key in found)
    train = skewed.labels[skewed.split("train")]
    prior = np.bincount(train) / len(train)
    shift = (weights["plain"]["fc.bias"] - weights["post-hoc"]["fc.bias"]).numpy()
    np.testing.assert_allclose(shift, np.log(prior), atol=1e-5)
    assert torch.equal(weights["plain"]["fc.weight"], weights["post-hoc"]["fc.weight"])


def test_fixmatch_says_what_it_needs(images, small_recipe, tmp_path):
    with pytest.raises(ConfigError, match="unlabelled training images, and there are none"):
        train_model(images, None, small_recipe(), tmp_path / "run", arm="fixmatch")
    with pytest.raises(ConfigError, match="no strong_augment policy 'loud'"):
        augmented_view(Recipe(strong_augment="loud"), CONFIG, strong=True)
