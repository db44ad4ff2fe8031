"""Alignment heads: one per source of vectors and place."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from gpt4image import train_model
from gpt4image.align.aligned_model import probe_feature
from gpt4image.core.errors import ConfigError
from gpt4image.train.build import build_optimizer, checkpoint_activations
from gpt4image.train.checkpoint import lay_out_as_weights
from gpt4image.train.guidance import vector_sources
from support.training import observe


def test_fused_optimiser_takes_the_plain_steps_whatever_the_order_in_memory(small_recipe):
    layer = nn.Conv2d(6, 8, 3, bias=False)
    faster = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    fused = build_optimizer(faster, small_recipe(lr=0.1))
    assert [group["fused"] for group in fused.param_groups] == [True]
    plain = torch.optim.AdamW([{**fused.param_groups[0], "params": [layer.weight], "fused": None}])
    for optimizer, model in ((plain, layer), (fused, faster)):
        for step in range(3):
            gradient = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(step))
            (model.weight * gradient).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 0:  # a checkpoint from a device with another order in memory
                state = optimizer.state_dict()
                for values in state["state"].values():
                    values.update({name: value.contiguous() for name, value in values.items()})
                optimizer.load_state_dict(state)
                lay_out_as_weights(optimizer)
    assert faster.weight.is_contiguous(memory_format=torch.channels_last) and not faster.weight.is_contiguous()
    torch.testing.assert_close(faster.weight, layer.weight)


def test_recomputed_activations_give_the_same_gradients(images, small_recipe, tmp_path):
    recipe = small_recipe(backbone="vit_tiny_patch16_224", epochs=1)
    kept, recomputed = (
        train_model(images, None, replace(recipe, grad_checkpointing=on), tmp_path / str(on), arm="baseline")
        for on in (False, True)
    )
    assert kept.layout.folder != recomputed.layout.folder
    a, b = load_file(kept.layout.weights), load_file(recomputed.layout.weights)
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], atol=1e-6, rtol=1e-5)


def test_model_that_cannot_recompute_activations_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"Linear cannot recompute activations: .*with accumulate"):
        checkpoint_activations(nn.Linear(2, 2))


def test_text_adapter_learns(images, store, small_recipe, tmp_path, monkeypatch):
    models = observe(monkeypatch, lambda _, model, __: model)
    train_model(images, store, small_recipe(epochs=1, text_adapter=True), tmp_path / "run")
    assert models[0].heads[0].adapter.up.weight.abs().max() > 0
    with pytest.raises(ConfigError, match="exclude each other"):
        small_recipe(text_adapter=True, queue=8)


@pytest.mark.parametrize(("several", "heads"), [("heads", [(384, 96), (26, 96)]), ("concatenated", [(410, 96)])])
def test_several_encoders_get_a_head_each_or_one_for_all(
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


def test_unknown_module_to_align_suggests_a_known_one(images, store, small_recipe, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'layer3'"):
        train_model(images, store, small_recipe(align_at=("layr3",)), tmp_path / "run")


def test_concatenated_vectors_are_centred_as_one(images, several_store, letters, small_recipe, tmp_path, monkeypatch):
    models = observe(monkeypatch, lambda _, model, __: model)
    recipe = small_recipe(epochs=1, several_encoders="concatenated", text_space="centred", texts="mean")
    train_model(images, [several_store, letters], recipe, tmp_path / "run")
    (source,) = vector_sources([several_store, letters], concatenate=True)
    ids = np.unique(images.ids[images.split("train")])
    vectors = torch.from_numpy(source.take(source.find(ids), "mean", 0, np.zeros(len(ids))))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(ids)), atol=1e-3, rtol=0)
    assert models[0].heads[0].transform(vectors).mean(dim=0).abs().max() < 1e-4


def test_alignment_without_effect_is_refused(images, store, small_recipe, tmp_path):
    frozen = small_recipe(epochs=1, freeze=("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"))
    with pytest.raises(ConfigError, match="No trained module comes before 'features'"):
        train_model(images, store, frozen, tmp_path / "frozen")
    with pytest.raises(ConfigError, match="No trained module comes before 'layer1'"):
        early = small_recipe(freeze=("conv1", "bn1", "layer1"), align_at=("layer1",))
        train_model(images, store, early, tmp_path / "early")


def test_channels_last_features_are_averaged_over_positions():
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, num_classes=2)
    assert probe_feature(swin, torch.randn(1, 3, 64, 64), "layers.1").shape == (1, 192)
