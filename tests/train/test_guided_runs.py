"""Runs with all that can guide them: several encoders, places, soft labels, images without a label, and resumption."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gpt4image import embed_descriptions, load_images, train_model
from gpt4image.core.errors import ConfigError
from gpt4image.soft_labels import label_by_vectors
from gpt4image.train.data import LabelledInputs, Part, training_rows
from gpt4image.train.guidance import Guidance, vector_sources
from gpt4image.train.objective import Objective


class LetterEncoder:
    """Counts letters: a second text encoder, of another width."""

    name, revision, width, max_tokens = "letters", "1", 26, 10_000

    def count_tokens(self, texts):
        return [len(text) for text in texts]

    def encode(self, texts):
        counts = np.asarray([[text.lower().count(chr(97 + at)) for at in range(26)] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def letters(several_descriptions, tmp_path_factory):
    return embed_descriptions(several_descriptions, LetterEncoder(), tmp_path_factory.mktemp("letters") / "letters")


@pytest.fixture(scope="module")
def soft(images, several_store, tmp_path_factory):
    return label_by_vectors(images, [several_store], tmp_path_factory.mktemp("soft") / "labels")


class StoppedError(Exception):
    pass


def observe(monkeypatch, note, stop_after=None):
    whole, seen = Objective.losses, []

    def observed(judge, model, batch):
        seen.append(note(judge, model, batch))
        if stop_after is not None and len(seen) > stop_after:
            raise StoppedError
        return whole(judge, model, batch)

    monkeypatch.setattr(Objective, "losses", observed)
    return seen


EVERYTHING = {
    "text_space": "whitened",
    "learn_temperature": True,
    "queue": 20,
    "targets": "similarity",
    "loss": "sigmoid",
    "align_at": ("features", "layer3"),
    "balance": 0.5,
    "repeats": 2,
    "soft_labels": 0.5,
    "soft_from": 0.3,
    "weight_schedule": "cosine",
    "mixup": 0.3,
    "accumulate": 2,
    "batch_size": 8,
    "ema_decay": 0.9,
}


def test_a_run_with_everything_goes_on_where_it_was_stopped(
    images, several_store, letters, soft, small_recipe, tmp_path, monkeypatch
):
    recipe = small_recipe(**EVERYTHING)
    stores = [several_store, letters]
    whole = train_model(images, stores, recipe, tmp_path / "whole", soft_labels=[soft])
    with monkeypatch.context() as patch:
        observe(patch, lambda *_: None, stop_after=5)
        with pytest.raises(StoppedError):
            train_model(images, stores, recipe, tmp_path / "parts", soft_labels=[soft], checkpoint_seconds=0.0)
    assert (tmp_path / "parts" / "checkpoint.pt").exists()
    parts = train_model(images, stores, recipe, tmp_path / "parts", soft_labels=[soft])
    a, b = load_file(whole.layout.weights), load_file(parts.layout.weights)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert [{**epoch, "seconds": 0} for epoch in whole.history] == [{**epoch, "seconds": 0} for epoch in parts.history]
    assert not [key for key in a if ("head" in key and "classifier" in key) or "projector" in key or "queue" in key]


def test_a_text_adapter_learns(images, store, small_recipe, tmp_path, monkeypatch):
    models = observe(monkeypatch, lambda _, model, __: model)
    train_model(images, store, small_recipe(epochs=1, text_adapter=True), tmp_path / "run")
    assert models[0].heads[0].adapter.up.weight.abs().max() > 0
    with pytest.raises(ConfigError, match="exclude each other"):
        small_recipe(text_adapter=True, queue=8)


@pytest.mark.parametrize(("several", "heads"), [("heads", [(384, 512), (26, 512)]), ("concatenated", [(410, 512)])])
def test_several_encoders_have_a_head_each_or_one_together(
    images, several_store, letters, small_recipe, tmp_path, monkeypatch, several, heads
):
    models = observe(monkeypatch, lambda _, model, batch: (model, batch))
    recipe = small_recipe(epochs=1, several_encoders=several, text_space="centred", projector="linear")
    train_model(images, [several_store, letters], recipe, tmp_path / "run", seed=2)
    model, batch = models[0]
    assert [tuple(head.projector[0].weight.shape) for head in model.heads] == heads
    assert [vectors.shape[1] for vectors in batch.vectors] == [out for out, _ in heads]
    ids = images.ids[batch.rows.numpy()]
    expected = [store.lookup(ids, "random", seed=2, epoch=0)[0] for store in (several_store, letters)]
    scale = len(batch.vectors) ** 0.5 / 2**0.5  # side by side they are one vector of length 1
    torch.testing.assert_close(torch.cat(batch.vectors, dim=1), torch.cat(expected, dim=1) * scale)
    train_ids = images.ids[images.split("train")]
    rows = np.concatenate([letters.all_vectors(letters.find([image_id])) for image_id in np.unique(train_ids)])
    mean = torch.from_numpy(rows).double().mean(dim=0) * scale
    torch.testing.assert_close(model.heads[-1].transform.mean[-26:].double(), mean, atol=1e-6, rtol=1e-5)


def test_an_image_that_one_encoder_has_no_vector_of_has_none_side_by_side(images, store, descriptions, tmp_path):
    from gpt4image.descriptions.description_set import join_texts

    half = list(descriptions.pairs())[::2]
    fewer = embed_descriptions(join_texts(images, half, 0, "half"), LetterEncoder(), tmp_path / "half")
    (together,) = vector_sources([store, fewer], concatenate=True)
    known = {image_id for image_id, _ in half}
    expected = [image_id.decode() in known for image_id in images.ids]
    places = together.find(images.ids)
    assert (places >= 0).all(axis=1).tolist() == (places >= 0).any(axis=1).tolist() == expected
    vectors = together.take(places, "mean", 0, np.zeros(len(places)))
    assert vectors.shape == (len(images), 410)
    assert not vectors[~np.asarray(expected)].any()
    apart = vector_sources([store, fewer], concatenate=False)
    assert [source.width for source in apart] == [384, 26]


def test_schedules_are_followed(images, store, soft, small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(
        epochs=4, soft_labels=0.5, soft_from=0.5, align_until=0.5, weight=0.4, weight_schedule="cosine", balance=0.2
    )
    seen = observe(monkeypatch, lambda judge, model, _: (judge.weight, judge.soft_share, float(model.input_tap.share)))
    train_model(images, store, recipe, tmp_path / "run", soft_labels=[soft])
    weights, shares, balances = zip(*seen, strict=True)
    half = len(seen) // 2
    assert weights[0] < 0.4 and list(weights[:half]) == sorted(weights[:half], reverse=True) and weights[half - 1] == 0
    assert set(weights[half:]) == {0.0}
    assert shares == (0.0,) * half + (0.5,) * half
    assert balances == pytest.approx([weight / 2 for weight in weights])


def test_soft_labels_are_those_of_each_image(images, store, soft, small_recipe, tmp_path, monkeypatch):
    batches = observe(monkeypatch, lambda *arguments: arguments[2])
    recipe = small_recipe(epochs=1, soft_labels=0.5, soft_temperature=2.0, weight=0.0)
    run = train_model(images, store, recipe, tmp_path / "run", soft_labels=[soft])
    for batch in batches:
        expected = soft.take(soft.find(images.ids[batch.rows.numpy()]), 2.0)
        np.testing.assert_allclose(batch.soft.numpy(), expected, atol=1e-6)
        assert batch.vectors == ()
    assert run.history[0]["alignment_loss"] is None
    with pytest.raises(ConfigError, match="gpt4image label"):
        train_model(images, store, recipe, tmp_path / "other")
    with pytest.raises(ConfigError, match="soft_temperature was"):
        other = replace(recipe, soft_temperature=1.0)
        train_model(images, store, other, tmp_path / "run", soft_labels=[soft])


@pytest.fixture(scope="module")
def half_labelled(image_set, tmp_path_factory):
    """The image set with every other training image's label left out."""
    folder = tmp_path_factory.mktemp("half")
    paths = sorted(path for path in image_set.rglob("*.png"))
    rows = []
    for number, path in enumerate(paths):
        split = ("train", "train", "validation", "test")[number % 4]
        row = {"path": str(path), "split": split, "label": path.parent.name}
        if number % 4 == 1:
            del row["label"]
        rows.append(row)
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_images(folder / "images.jsonl")


def test_images_without_a_label_train_on_their_alignment(half_labelled, store, small_recipe, tmp_path, monkeypatch):
    images = half_labelled
    in_train = images.split("train")
    unlabelled = set(in_train[images.labels[in_train] < 0].tolist())
    assert len(unlabelled) == len(in_train) // 2 > 4
    batches = observe(monkeypatch, lambda *arguments: arguments[2])
    recipe = small_recipe(epochs=1, unlabelled="align", batch_size=6)
    train_model(images, store, recipe, tmp_path / "run")
    met = {int(row) for batch in batches for row in batch.rows}
    assert met & unlabelled and met - unlabelled
    for batch in batches:
        without = torch.tensor([int(row) in unlabelled for row in batch.rows])
        assert batch.labels[without].tolist() == [-1] * int(without.sum())
        assert batch.counts.tolist() == [6 - int(without.sum()), 0, 6]
    batches.clear()
    train_model(images, store, replace(recipe, unlabelled="skip"), tmp_path / "skip")
    train_model(images, None, recipe, tmp_path / "baseline", arm="baseline")
    assert not {int(row) for batch in batches for row in batch.rows} & unlabelled


def test_images_with_neither_label_nor_text_are_left_out(half_labelled, descriptions, minilm, tmp_path):
    from gpt4image.descriptions.description_set import join_texts

    images = half_labelled
    in_train = images.split("train")
    unlabelled = in_train[images.labels[in_train] < 0]
    chosen = {images.ids[row].decode() for row in unlabelled[:2]}
    texts = [pair for pair in descriptions.pairs() if pair[0] in chosen]
    few = embed_descriptions(join_texts(images, texts, 0, "few"), minilm, tmp_path / "few")
    guidance = Guidance(vector_sources([few], concatenate=False))
    rows = training_rows(images, guidance, unlabelled=True)
    assert set(rows) == set(in_train[images.labels[in_train] >= 0]) | set(unlabelled[:2])


def test_repeated_images_draw_texts_of_their_own(images, several_store, small_recipe):
    from gpt4image.train.backbone import build_backbone
    from gpt4image.train.data import ImageInputs
    from gpt4image.train.transforms import preprocessing, training_transform

    recipe = small_recipe()
    rows = images.split("train")
    transform = training_transform(recipe, preprocessing(build_backbone(recipe, 3), 32))
    guidance = Guidance(vector_sources([several_store], concatenate=False))
    data = LabelledInputs(ImageInputs(images, rows, transform), images, rows, guidance)
    batch = data[Part([(draw, position) for position in range(len(rows)) for draw in range(3)])]
    assert batch.ids.unique(return_counts=True)[1].tolist() == [3] * len(rows)
    for draw in range(3):
        expected = several_store.lookup(images.ids[rows], "random", epoch=draw)[0]
        assert torch.equal(batch.vectors[0][draw::3], expected)
    assert not torch.equal(batch.inputs[0], batch.inputs[1])


@pytest.mark.parametrize("loss", ["cosine", "clip"])
def test_the_number_of_parts_does_not_change_the_weight_of_the_alignment(
    images, descriptions, minilm, small_recipe, tmp_path, loss
):
    """With texts missing here and there: parts of a batch add up to the whole, where a loss looks at single images."""
    from gpt4image.descriptions.description_set import join_texts

    some = join_texts(images, list(descriptions.pairs())[::3], 0, "some")
    store = embed_descriptions(some, minilm, tmp_path / "some")
    recipe = small_recipe(
        backbone="vit_tiny_patch16_224", epochs=1, optimizer="momentum", momentum=0.0, clip_grad=None, lr=0.1,
        crop_scale=(1.0, 1.0), projector="mlp", loss=loss, weight=3.0,
    )  # fmt: skip
    whole = train_model(images, store, recipe, tmp_path / "whole")
    parts = train_model(images, store, replace(recipe, accumulate=4), tmp_path / "parts")
    a, b = load_file(whole.layout.weights), load_file(parts.layout.weights)
    difference = max((a[key] - b[key]).abs().max().item() for key in a)
    assert difference < 1e-4 if loss == "cosine" else difference > 1e-4


def test_an_unknown_place_names_those_there_are(images, store, small_recipe, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'layer3'"):
        train_model(images, store, small_recipe(align_at=("layr3",)), tmp_path / "run")


def test_side_by_side_vectors_are_centred_as_one(images, several_store, letters, small_recipe, tmp_path, monkeypatch):
    models = observe(monkeypatch, lambda _, model, __: model)
    recipe = small_recipe(epochs=1, several_encoders="concatenated", text_space="centred", texts="mean")
    train_model(images, [several_store, letters], recipe, tmp_path / "run")
    (source,) = vector_sources([several_store, letters], concatenate=True)
    ids = np.unique(images.ids[images.split("train")])
    vectors = torch.from_numpy(source.take(source.find(ids), "mean", 0, np.zeros(len(ids))))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(ids)), atol=1e-3, rtol=0)
    assert models[0].heads[0].transform(vectors).mean(dim=0).abs().max() < 1e-4


def test_what_the_projector_learns_shortens_no_step_of_the_backbone(images, store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, weight=30.0, balance=1e-9, clip_grad=0.1, optimizer="momentum", lr=0.1)
    runs = [train_model(images, store, recipe, tmp_path / arm, arm=arm) for arm in ("baseline", "described")]
    a, b = (load_file(run.layout.weights) for run in runs)
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-5)


def test_settings_that_would_do_nothing_are_refused(images, descriptions, store, small_recipe, tmp_path):
    from gpt4image import compare_arms

    frozen = small_recipe(epochs=1, freeze=("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"))
    with pytest.raises(ConfigError, match="No trained module comes before 'features'"):
        train_model(images, store, frozen, tmp_path / "frozen")
    with pytest.raises(ConfigError, match="No trained module comes before 'layer1'"):
        early = small_recipe(freeze=("conv1", "bn1", "layer1"), align_at=("layer1",))
        train_model(images, store, early, tmp_path / "early")
    for idle in ({"weight": 0.0}, {"align_until": 0.0}):
        with pytest.raises(ConfigError, match="Both arms would be the same"):
            compare_arms(images, descriptions, store, small_recipe(**idle), tmp_path / "compared")


def test_labels_alone_need_no_vectors(images, soft, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, weight=0.0, soft_labels=0.5)
    assert train_model(images, None, recipe, tmp_path / "run", soft_labels=[soft]).history[0]["alignment_loss"] is None


def test_maps_with_channels_last_are_averaged_over_positions():
    import timm

    from gpt4image.align.aligned_model import probe_feature

    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, num_classes=2)
    assert probe_feature(swin, torch.randn(1, 3, 64, 64), "layers.1").shape == (1, 192)
