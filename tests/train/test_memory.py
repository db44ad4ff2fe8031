"""The memory of a training, against what tensors of a real model hold."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from gpt4image.align.projector import Projector
from gpt4image.core.errors import ConfigError
from gpt4image.train.build import build_optimizer
from gpt4image.train.memory import described, estimate_memory, state_bytes
from gpt4image.train.recipe import Recipe

VIT = Recipe(backbone="test_vit", pretrained=False, image_size=160, batch_size=8)


def test_weights_gradients_and_states_are_those_of_a_step_of_the_real_model():
    found, model = estimate_memory(VIT, 10, 384), timm.create_model("test_vit", num_classes=10)
    optimizer = build_optimizer(model, VIT)
    model(torch.zeros(1, 3, 160, 160)).sum().backward()
    optimizer.step()
    weights = sum(part.nbytes for part in model.parameters())
    states = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if v.numel() > 1)
    assert (found.weights, found.gradients, found.states) == (weights, weights, states)
    head = sum(part.nbytes for part in Projector(model.num_features, 384).parameters())
    assert found.projector == 4 * head  # weights, gradients, two states
    assert found.gathered == 4 * (2 * 8 * 384 + 4 * 8 * 8)
    assert found.total(8, False) == sum((weights, weights, states, 8 * found.activations, 4 * head, found.gathered))


def test_two_processes_hold_the_whole_batch_of_vectors_and_half_of_the_similarities():
    one, two = (estimate_memory(VIT, 10, 384, processes) for processes in (1, 2))
    assert one.gathered - two.gathered == 4 * 4 * 8 * 8 / 2
    assert replace(one, gathered=0) == replace(two, gathered=0)
    with pytest.raises(ConfigError, match=r"batch_size 8 .*cannot be divided by 3 processes"):
        estimate_memory(VIT, 10, 384, 3)


@pytest.mark.parametrize(("name", "apart"), [("test_resnet", 0.1), ("test_vit", 0)])
def test_activations_are_what_the_backward_pass_of_the_real_model_keeps(name, apart):
    kept: dict[int, torch.UntypedStorage] = {}
    model = timm.create_model(name, num_classes=10).train()
    weights = {part.data_ptr() for part in model.parameters()}

    def note(saved):
        if saved.data_ptr() not in weights:
            kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        output = model(torch.zeros(1, 3, 160, 160))
    real = sum(storage.nbytes() for storage in kept.values())
    found = estimate_memory(replace(VIT, backbone=name), 10, 384)
    assert output.shape == (1, 10) and found.activations == pytest.approx(real, rel=apart)


def test_attention_with_learned_masks_keeps_no_maps_either():
    few, many = (
        estimate_memory(replace(VIT, backbone="beit_base_patch16_224", image_size=size), 10, 384).activations
        for size in (112, 224)
    )
    assert 4 < many / few < 6  # four times the tokens, and sixteen times the positions in a mask


def test_recomputed_activations_are_known_of_models_with_blocks_alone():
    found = estimate_memory(replace(VIT, backbone="test_resnet"), 10, 384)
    with pytest.raises(ConfigError, match="models with blocks"):
        found.total(8, True)


def test_recomputed_blocks_and_small_states_take_less():
    found = estimate_memory(VIT, 10, 384)
    assert found.checkpointed < found.activations / 2
    assert state_bytes(replace(VIT, optimizer="sgd")) == 4 and state_bytes(VIT) == 8
    assert [name for name, _ in described(found, VIT, 384)][-1] == "in all"


def test_parts_of_a_batch_adapters_and_blocks_count_as_they_are_held():
    found, parts = (estimate_memory(replace(VIT, accumulate=count), 10, 384) for count in (1, 2))
    assert parts.gathered == 4 * (2 * 4 * 384 + 4 * 4 * 4) and parts.weights == found.weights
    adapted = estimate_memory(replace(VIT, lora=2), 10, 384)
    assert adapted.trained < found.trained / 5 and adapted.gradients == 4 * adapted.trained
    assert adapted.states == 8 * adapted.trained and adapted.weights > found.weights
    model = timm.create_model("test_vit", num_classes=10)
    tokens, inputs = 101 * 64 * 4, len(model.blocks) * 101 * 64 * 4
    assert found.checkpointed == inputs + (found.activations - inputs) // len(model.blocks) > tokens


@pytest.mark.slow
def test_page_on_large_models_has_the_numbers_of_the_estimate():
    page = (Path(__file__).parents[2] / "docs" / "large.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `vit_large_patch14_dinov2`"))
    said = [float(cell.replace(",", "")) for cell in row.split("|")[2:-1]]
    recipe = replace(VIT, backbone="vit_large_patch14_dinov2", image_size=224, batch_size=1024)
    found = estimate_memory(recipe, 1000, 1024, 8)
    sizes = (found.weights, found.gradients, found.states, 128 * found.activations, 128 * found.checkpointed)
    expected = [
        found.parameters / 1e6,
        *(n / 1e9 for n in (*sizes, found.projector + found.gathered, found.total(128, True))),
    ]
    assert said == pytest.approx(expected, abs=0.051)
