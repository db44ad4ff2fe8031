"""Vectors and soft labels in the batches of a run."""

import numpy as np
import pytest
import torch

from gpt4image import embed_descriptions, train_model
from gpt4image.core.errors import ConfigError
from gpt4image.descriptions.description_set import join_texts
from gpt4image.train.guidance import vector_sources
from support.training import LetterEncoder, observe, same_weights


def test_concatenated_vectors_exist_only_if_every_encoder_has_one(images, store, descriptions, tmp_path):
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


@pytest.mark.parametrize("texts", ["random", "mean"])
def test_texts_setting_selects_the_vectors_of_every_batch(
    images, several_store, small_recipe, tmp_path, monkeypatch, texts
):
    seen = observe(monkeypatch, lambda *arguments: arguments[2])
    train_model(images, several_store, small_recipe(texts=texts), tmp_path / "run", seed=3)
    assert len(seen) % 2 == 0
    for number, batch in enumerate(seen):
        epoch = 2 * number // len(seen)
        expected, _ = several_store.lookup(images.ids[batch.rows.numpy()], texts, seed=3, epoch=epoch)
        assert torch.equal(batch.vectors[0], expected)


def test_texts_setting_does_not_affect_single_texts(images, store, small_recipe, tmp_path):
    runs = [train_model(images, store, small_recipe(epochs=1, texts=t), tmp_path / t) for t in ("random", "mean")]
    assert same_weights(*(run.layout.weights for run in runs))


def test_batches_hold_the_soft_labels_of_their_images(images, store, soft, small_recipe, tmp_path, monkeypatch):
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
