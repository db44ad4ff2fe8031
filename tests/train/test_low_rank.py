"""Low-rank adapters: what is trained, and that nothing of them is left in the model."""

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from gpt4image import train_model
from gpt4image.compare.model_facts import adapted_backbones
from gpt4image.core.errors import ConfigError, MissingExtraError
from gpt4image.train.backbone import build_backbone
from gpt4image.train.clips import create_clip_model
from gpt4image.train.family import DETECTORS, SEGMENTERS
from gpt4image.train.low_rank import adaptable, add_adapters, count_parameters, merge_adapters
from gpt4image.train.run import load_backbone
from gpt4image.train.transforms import seed_everything
from support.training import StoppedError, observe, same_weights

RANK = 2


def adapted(name: str, size: int = 32) -> nn.Module:
    """Return a model with adapters that have learned something."""
    seed_everything(3)
    options = {"img_size": size} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=3, **options)
    add_adapters(model, RANK, 0, torch.zeros(1, 3, size, size))
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_merged_model_answers_as_the_adapted_one_and_has_timms_weights(name):
    model, images = adapted(name, 160), torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    before, plain = model(images), timm.create_model(name, num_classes=3)
    merge_adapters(model)
    torch.testing.assert_close(model(images), before, atol=1e-4, rtol=1e-4)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }


ON_BACKBONES = {
    "detr:test_vit": (DETECTORS, 160),
    "rt-detr:test_resnet": (DETECTORS, 64),
    "faster-rcnn:test_resnet": (DETECTORS, 64),
    "segformer:test_resnet": (SEGMENTERS, 64),
    "video:swin3d_t": (None, 64),
    "video:mvit_v2_s": (None, 224),
    "test_vit": (None, 160),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_BACKBONES)
def test_models_on_a_backbone_adapt_it_and_train_the_rest_in_full(name):
    family, size = ON_BACKBONES[name]
    seed_everything(3)
    if family is None:
        model, images = create_clip_model(name, 3, "mean", {}), torch.rand(1, 16, 3, size, size)
    else:
        model, images = family.restore(name, 3, size, {}), torch.rand(1, 3, size, size)
    plain = {key: value.shape for key, value in model.state_dict().items()}
    add_adapters(model, RANK, 0, images)
    names = {key for key, part in model.named_parameters() if part.requires_grad}
    inside = {key for key in names if key.startswith("body.")}
    assert inside and all("lora_" in key for key in inside)
    assert names - inside == {key for key, _ in model.named_parameters() if not key.startswith("body.")}
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            nn.init.normal_(parameter, std=0.02)
    answers = model.eval().logits if name.startswith("segformer") else model.eval()
    with torch.no_grad():
        before = answers(images)
        merge_adapters(model)
        torch.testing.assert_close(answers(images), before, atol=1e-3, rtol=1e-3)
    assert {key: value.shape for key, value in model.state_dict().items()} == plain


def test_video_models_that_convolve_over_time_are_refused_with_what_works():
    model = create_clip_model("video:r3d_18", 3, "mean", {})
    with pytest.raises(ConfigError, match=r"VideoResNet convolves over time .* such as video:mvit_v2_s"):
        add_adapters(model, RANK, 0, torch.rand(1, 4, 3, 32, 32))


def test_merged_weight_is_the_sum_of_weight_and_product():
    model = adapted("test_vit", 160)
    layer = model.blocks[0].attn.qkv
    rows = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    expected = torch.zeros(layer.weight.shape, dtype=torch.float64)
    for a, b in zip(rows[0], rows[1].T, strict=True):
        expected += torch.outer(b, a)  # alpha / r = 1
    expected += layer.weight.double()
    merge_adapters(model)
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight.double(), expected, atol=1e-6, rtol=1e-6)


def test_layers_of_the_same_name_elsewhere_frozen_and_grouped_ones_get_no_adapter():
    model = timm.create_model("test_efficientnet", num_classes=3)
    model.blocks[0].requires_grad_(False)
    add_adapters(model, RANK, 0, torch.zeros(1, 3, 64, 64))
    inside = {name for name, part in model.named_modules() if hasattr(part, "lora_A")}
    grouped = {name for name, part in model.named_modules() if isinstance(part, nn.Conv2d) and part.groups > 1}
    assert grouped and not inside & grouped
    assert not any(name.startswith("blocks.0.") for name in inside) and any("blocks.1." in name for name in inside)
    assert model.classifier.weight.requires_grad and not hasattr(model.classifier, "lora_A")
    learned, everything = count_parameters(model)
    assert learned < everything / 2
    with pytest.raises(ConfigError, match="no trained layer that can be adapted"):
        add_adapters(timm.create_model("test_resnet").requires_grad_(False), RANK, 0, torch.zeros(1, 3, 64, 64))


def test_run_changes_weights_by_low_ranks_alone_and_saves_a_plain_model(images, store, small_recipe, tmp_path, capsys):
    recipe = small_recipe(backbone="vit_tiny_patch16_224", epochs=1, lora=RANK, lr=1e-2, grad_checkpointing=True)
    run = train_model(images, store, recipe, tmp_path / "run")
    assert "the adapted weights are random" in " ".join(capsys.readouterr().err.split())
    seed_everything(0)
    start, weights = build_backbone(recipe, 3).state_dict(), load_file(run.layout.weights)
    assert start.keys() == weights.keys()
    for key, value in start.items():
        change = (weights[key] - value).flatten(1) if value.ndim > 1 else weights[key] - value
        if key.startswith("head."):
            assert change.abs().max() > 0
        elif key == "patch_embed.proj.weight" or key.endswith(("qkv.weight", "proj.weight", "fc1.weight")):
            assert 0 < torch.linalg.matrix_rank(change, rtol=1e-3) <= RANK, key
        elif value.ndim < 2 or "embed" in key or "token" in key:
            assert change.abs().max() == 0, key
    counted = load_backbone(run)
    assert 0 < run.trained_parameters < count_parameters(counted)[1] / 10
    assert f"{run.trained_parameters:,} parameters" in adapted_backbones([run])[0]


def test_killed_run_with_adapters_ends_like_an_uninterrupted_one(images, store, small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(epochs=2, lora=RANK, ema_decay=0.9)
    whole = train_model(images, store, recipe, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=3)
        train_model(images, store, recipe, tmp_path / "killed", checkpoint_seconds=0)
    killed = train_model(images, store, recipe, tmp_path / "killed")
    assert same_weights(whole.layout.weights, killed.layout.weights)
    full = train_model(images, store, replace(recipe, lora=0), tmp_path / "whole")
    assert full.layout.folder != whole.layout.folder and not full.trained_parameters


def test_first_adapters_depend_on_the_seed_alone():
    found = []
    for before, seed in ((1, 0), (2, 0), (1, 5)):
        model = timm.create_model("test_resnet", num_classes=3)
        seed_everything(before)
        add_adapters(model, RANK, seed, torch.zeros(1, 3, 32, 32))
        found.append(model.conv1[0].lora_A["default"].weight)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


class Bypassing(nn.Module):
    """A layer that is run, one whose weights are used without it, and one that rests."""

    def __init__(self):
        super().__init__()
        self.run, self.used, self.rests = (nn.Linear(2, 2) for _ in range(3))

    def forward(self, inputs):
        return nn.functional.linear(self.run(inputs), self.used.weight)


def test_layers_that_are_not_run_get_no_adapter():
    model = nn.Sequential(Bypassing()).train()
    assert adaptable(model, model[0], torch.zeros(1, 2)) == ["run"]
    assert model.training and model[0].run.training


def test_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("gpt4image.train.libraries.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"lora needs peft.*gpt4image\[lora\]"):
        add_adapters(nn.Linear(2, 2), RANK, 0, torch.zeros(1, 2))
