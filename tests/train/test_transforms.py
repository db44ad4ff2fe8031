"""Augmentation and evaluation of images: exact pixels, and draws that depend on their key alone."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn

from gpt4image import train_model
from gpt4image.compare.arms import compare_arms
from gpt4image.images.decode import EncodedImage, decode
from gpt4image.train.identity import RunLayout
from gpt4image.train.recipe import AUGMENTATION
from gpt4image.train.transforms import (
    Normalization,
    augmented_view,
    draw_box,
    evaluated_view,
    evaluation_transform,
    preprocessing,
    resize,
    seed_everything,
)
from support.image_files import encode, noise
from support.training import StoppedError, observe, same_weights

CONFIG = preprocessing(nn.Identity(), 48)


def shapes(width, height, seed=0):
    """A picture without fine detail, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def view_of(picture, recipe, key=(1, 2, 3), kind="PNG", config=CONFIG, **options):
    return augmented_view(recipe, config)(EncodedImage(encode(picture, kind, **options), "x"), key)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(30, 20), (90, 130)])
def test_resizing_is_pillows_up_to_rounding(interpolation, size):
    picture = shapes(80, 60)
    found = resize(np.array(picture), size, interpolation)
    expected = np.asarray(picture.resize(size[::-1], Image.Resampling[interpolation.upper()])).astype(int)
    assert found.dtype == torch.uint8 and found.shape == (3, *size)
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() <= 2


def test_crop_covers_the_box_that_is_drawn(small_recipe):
    picture = shapes(200, 150)
    recipe = small_recipe(crop_scale=(0.3, 0.3), flip=0.0)
    box = draw_box(200, 150, recipe.crop_scale, np.random.default_rng((1, 2, 3)))
    expected = np.asarray(picture.resize((48, 48), Image.Resampling.BICUBIC, box=box)).astype(int)
    found = view_of(picture, recipe).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).mean() < 2
    flipped = view_of(picture, small_recipe(crop_scale=(0.3, 0.3), flip=1.0))
    assert np.array_equal(flipped.flip(-1).permute(1, 2, 0).numpy(), found)


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_jpeg_shows_the_same_picture(kind, orientation, small_recipe):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(shapes(803, 601), kind, exif=exif, quality=95)
    whole = decode(data, "x")
    recipe = small_recipe(crop_scale=(0.5, 0.5), flip=0.0)
    for number in range(4):
        found = augmented_view(recipe, CONFIG)(EncodedImage(data, "x"), (number,))
        box = draw_box(*whole.size, recipe.crop_scale, np.random.default_rng((number,)))
        expected = np.asarray(whole.resize((48, 48), Image.Resampling.BICUBIC, box=box)).astype(int)
        assert (
            np.abs(found.permute(1, 2, 0).numpy() - expected).mean() < 8
        )  # reduced pixels are as large as those of the result


def test_draws_depend_on_the_key_alone_and_leave_the_global_generators(small_recipe):
    picture, recipe = shapes(100, 80), small_recipe()
    seed_everything(0)
    before = torch.get_rng_state(), random.getstate()
    first = view_of(picture, recipe)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    seed_everything(99)
    assert torch.equal(view_of(picture, recipe), first)
    assert not torch.equal(view_of(picture, recipe, key=(1, 2, 4)), first)


@pytest.mark.parametrize(
    "changes", [{"color_jitter": 0.4}, {"auto_augment": "rand-m9"}, {"auto_augment": "3a"}, {"random_erase": 1.0}]
)
def test_further_augmentation_changes_the_same_crop(changes, small_recipe):
    normalize, picture = Normalization.of(CONFIG), shapes(100, 80)
    plain = normalize(view_of(picture, small_recipe())[None])[0]
    found = view_of(picture, small_recipe(**changes))
    assert found.dtype == torch.float32 and found.shape == plain.shape
    assert not torch.equal(found, plain)
    seed_everything(99)
    assert torch.equal(view_of(picture, small_recipe(**changes)), found)
    if "random_erase" in changes:
        kept = ((found - plain).abs() < 1e-4).float().mean()
        assert 0.3 < kept < 1


def test_evaluation_gives_the_pixels_of_the_deployed_transform():
    data = noise(3, 90, "JPEG")
    expected = evaluation_transform(CONFIG)(decode(data, "x"))
    pixels = evaluated_view(CONFIG)(EncodedImage(data, "x"), ())
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(Normalization.of(CONFIG)(pixels[None])[0], expected, atol=1e-6, rtol=1e-6)


def test_floats_are_not_normalised_again():
    features = torch.randn(2, 3, 4, 4)
    assert Normalization.of(CONFIG)(features) is features


def test_first_version_of_the_augmentation_is_timms(small_recipe):
    recipe, data = small_recipe(color_jitter=0.4, random_erase=0.5), noise(0, 90)
    timms = create_transform(
        CONFIG["input_size"],
        is_training=True,
        scale=recipe.crop_scale,
        color_jitter=0.4,
        re_prob=0.5,
        re_mode="pixel",
        interpolation=CONFIG["interpolation"],
        mean=CONFIG["mean"],
        std=CONFIG["std"],
    )
    seed_everything(5, 1, 7)
    expected = timms(decode(data, "x"))
    assert torch.equal(augmented_view(recipe, CONFIG, 1)(EncodedImage(data, "x"), (5, 1, 7)), expected)


def test_boxes_lie_inside_and_cover_shapes_and_places():
    boxes = np.asarray([draw_box(90, 60, (0.35, 1.0), np.random.default_rng([number])) for number in range(500)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= 90).all() and (bottom <= 60).all()
    shares = (right - left) * (bottom - top) / (90 * 60)
    assert 0.35 <= shares.min() < 0.4 and 0.8 < shares.max() <= 1
    ratios = (right - left) / (bottom - top)
    assert 0.74 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.34
    assert left.max() > 30 and top.max() > 15


def begin_with_first_version(images, recipe, folder):
    """Interrupt a run of the first version, without a record of the version, as earlier releases left it."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=1)
        train_model(images, None, recipe, folder, arm="baseline", augmentation=1, checkpoint_seconds=0.0)
    assert "augmentation" not in RunLayout(folder).settings.read_text()


def test_an_interrupted_run_keeps_its_augmentation(images, small_recipe, tmp_path):
    recipe = small_recipe()
    begin_with_first_version(images, recipe, tmp_path / "resumed")
    resumed = train_model(images, None, recipe, tmp_path / "resumed", arm="baseline")
    whole = train_model(images, None, recipe, tmp_path / "whole", arm="baseline", augmentation=1)
    other = train_model(images, None, recipe, tmp_path / "other", arm="baseline")
    assert (resumed.augmentation, whole.augmentation, other.augmentation) == (1, 1, AUGMENTATION)
    assert same_weights(resumed.layout.weights, whole.layout.weights)
    assert not same_weights(resumed.layout.weights, other.layout.weights)


def test_a_comparison_does_not_mix_augmentations(images, descriptions, store, small_recipe, tmp_path, capsys):
    recipe = small_recipe(epochs=1)
    begin_with_first_version(images, recipe, tmp_path / "runs" / "baseline-0")
    compare_arms(images, descriptions, store, recipe, tmp_path, seeds=[0])
    assert "were started with version 1 of the augmentation" in " ".join(capsys.readouterr().err.split())
    assert {RunLayout(folder).augmentation for folder in (tmp_path / "runs").iterdir()} == {1}
