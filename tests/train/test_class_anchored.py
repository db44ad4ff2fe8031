"""Class-anchored distillation: a tiny vision-language teacher sees the very crops that the model is trained on."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from gpt4image import embed_descriptions, load_encoder, load_teacher, train_model
from gpt4image.core.errors import ConfigError
from gpt4image.soft_labels import ClassTexts
from gpt4image.teachers import anchor_classes
from gpt4image.teachers.anchors import find_vision_language
from gpt4image.train.data import ImageInputs
from gpt4image.train.text_space import open_text_space
from gpt4image.train.transforms import Normalization, augmented_view
from support.training import StoppedError, observe, same_weights

FROZEN = {"freeze": ("conv1", "bn1", "act1", "maxpool", "layer1"), "cached_views": 2}


@pytest.fixture(scope="module")
def teacher(clip_name):
    return load_teacher(clip_name, "cpu")


@pytest.fixture(scope="module")
def encoder(clip_name):
    return load_encoder(clip_name, "cpu")


@pytest.fixture(scope="module")
def anchors(images, teacher, encoder):
    return anchor_classes(images, teacher, encoder=encoder)


def test_anchors_are_mean_unit_vectors_of_class_texts_or_descriptions(
    images, descriptions, teacher, encoder, anchors, tmp_path
):
    texts = [f"a picture of {name}" for name in images.classes]
    assert anchors.vectors == pytest.approx(encoder.encode(texts), abs=1e-6)
    several = ClassTexts(images.classes, tuple((text, f"{text}, drawn") for text in texts))
    mean = (encoder.encode(texts) + encoder.encode([f"{text}, drawn" for text in texts])) / 2
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert anchor_classes(images, teacher, encoder=encoder, classes=several).vectors == pytest.approx(mean, abs=1e-6)

    store = embed_descriptions(descriptions, encoder, tmp_path / "store")
    own = anchor_classes(images, teacher, encoder=encoder, descriptions=store)
    by_id = dict(descriptions.pairs())
    train = set(images.split("train").tolist())
    for number, anchor in enumerate(own.vectors):
        rows = [row for row in range(len(images)) if row in train and images.labels[row] == number]
        said = encoder.encode([by_id[images.ids[row].decode()] for row in rows]).mean(axis=0)
        assert anchor == pytest.approx(said / np.linalg.norm(said), abs=2e-3)  # stored in float16
    assert len({each.text_hash for each in (anchors, own)}) == 2


def test_class_without_a_described_labelled_image_keeps_its_text(
    images, descriptions, teacher, encoder, anchors, tmp_path, capsys
):
    store = embed_descriptions(descriptions, encoder, tmp_path / "store")
    labels = np.where((images.labels == 1) & np.isin(np.arange(len(images)), images.split("train")), -1, images.labels)
    place = images.rows.schema.get_field_index("label")
    few = replace(images, rows=images.rows.set_column(place, "label", pa.array(labels, pa.int32())))
    found = anchor_classes(few, teacher, encoder=encoder, descriptions=store)
    assert found.vectors[1] == pytest.approx(anchors.vectors[1], abs=1e-6)
    assert images.classes[1] in capsys.readouterr().err


def test_teacher_must_read_and_see(clip_name):
    assert find_vision_language(("timm:resnet50", clip_name)) == clip_name
    with pytest.raises(ConfigError, match="set teachers to open-clip:MODEL/PRETRAINED, not timm:resnet50"):
        find_vision_language(("timm:resnet50",))
    with pytest.raises(ConfigError, match="not none"):
        find_vision_language(())


def test_embedded_crops_equal_prepared_images_of_the_teacher(teacher):
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand(3, 3, 32, 32, generator=generator)
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (teacher.preparation.mean, teacher.preparation.std))
    expected = teacher.predict((crops - mean) / std)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert teacher.embed_crops(crops).numpy() == pytest.approx(expected, abs=1e-5)
    larger = torch.nn.functional.interpolate(crops, (64, 64), mode="nearest")
    assert teacher.embed_crops(larger).shape == (3, 24)
    assert not teacher.embed_crops(crops.requires_grad_()).requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"random_erase": 0.5}, {"mixup": 0.3}, FROZEN])
def test_teacher_sees_the_crops_of_the_model_and_killed_runs_resume_in_the_same_weights(
    half_labelled, teacher, encoder, small_recipe, tmp_path, monkeypatch, more
):
    recipe = small_recipe(**more)
    anchors = anchor_classes(half_labelled, teacher, encoder=encoder)

    def train(name):
        folder, features = tmp_path / name, tmp_path / "features"
        return train_model(
            half_labelled,
            None,
            recipe,
            folder,
            anchors=anchors,
            arm="class-anchored",
            features=features,
            checkpoint_seconds=0,
        )

    with monkeypatch.context() as patch:
        seen = observe(patch, lambda _, __, batch: batch._replace(inputs=batch.inputs.clone()))
        whole = train("whole")
    labels = torch.cat([batch.labels for batch in seen])
    assert (labels < 0).any() and (labels >= 0).any()
    run = whole.preprocessing
    colours = Normalization(tuple(run["mean"]), tuple(run["std"])).colours
    for batch in seen:
        if not recipe.cached_views:
            assert torch.equal(batch.crops, teacher.embed_crops(colours(batch.inputs)))
        assert batch.crops.norm(dim=1) == pytest.approx(1, abs=1e-3)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=len(seen) // 2)
        train("stopped")
    assert (tmp_path / "stopped/checkpoint.pt").exists()
    assert same_weights(train("stopped").layout.weights, whole.layout.weights)
    plain = train_model(half_labelled, None, recipe, tmp_path / "plain", arm="baseline", features=tmp_path / "features")
    assert plain.steps == whole.steps
    assert load_file(plain.layout.weights).keys() == load_file(whole.layout.weights).keys()
    assert not same_weights(plain.layout.weights, whole.layout.weights)
    assert whole.history[-1]["alignment_loss"] > 0
    assert {name.split(".")[1] for name in load_file(whole.layout.heads)} == {"projector"}


@pytest.mark.slow
def test_stored_vectors_are_those_of_the_cached_crops(images, anchors, teacher, small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(**FROZEN)
    seen = observe(monkeypatch, lambda _, __, batch: (batch.rows.clone(), batch.crops.clone()))
    run = train_model(images, None, recipe, tmp_path / "run", anchors=anchors, arm="class-anchored")
    rows = images.split("train")
    view = augmented_view(recipe, run.preprocessing)
    normalize = Normalization.of(run.preprocessing)
    inputs = ImageInputs(images, rows, view)
    for batch_rows, crops in seen[:3]:
        for row, vector in zip(batch_rows.tolist(), crops, strict=True):
            position = rows.tolist().index(row)
            possible = torch.stack([normalize(inputs[draw, position][None])[0] for draw in (0, 1)])
            views = teacher.embed_crops(normalize.colours(possible))
            assert (views - vector).abs().amax(dim=1).min() < 2e-3  # stored in float16
    (stored,) = tmp_path.glob("run/*/teacher-*.npy")
    assert np.load(stored).shape == (2 * len(rows), 24)


def test_anchored_run_is_known_by_teacher_and_texts_and_searched_by_its_text_side(
    images, anchors, encoder, small_recipe, tmp_path
):
    recipe = small_recipe(epochs=1)
    run = train_model(images, None, recipe, tmp_path / "run", anchors=anchors, arm="class-anchored")
    settings = json.loads(run.layout.settings.read_text())
    assert [each["encoder"] for each in settings["text"]] == [anchors.teacher.name]
    assert settings["recipe"]["loss"] == "anchored"
    other = train_model(
        images, None, recipe, tmp_path / "run", anchors=replace(anchors, text_hash="x"), arm="class-anchored"
    )
    assert other.layout.folder != run.layout.folder
    space = open_text_space(run)
    assert space.encode(["a red disc"], [encoder]) == pytest.approx(encoder.encode(["a red disc"]), abs=1e-5)


def test_anchored_says_what_it_needs_and_goes_with(images, store, anchors, small_recipe, tmp_path):
    def refuse(match, recipe=None, **arguments):
        with pytest.raises(ConfigError, match=match):
            train_model(images, folder=tmp_path / "run", recipe=recipe or small_recipe(), **arguments)

    refuse("needs a vision-language teacher and its anchors", store=None, arm="class-anchored")
    refuse("the arm class-anchored", store=store, arm="described", recipe=small_recipe(loss="anchored"))
    refuse("the arm class-anchored", store=None, arm="described", anchors=anchors)
    refuse(
        "weight = 0 disables",
        small_recipe(weight=0.0),
        store=None,
        arm="class-anchored",
        anchors=anchors,
    )
