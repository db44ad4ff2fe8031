"""Backbones from weights files and from the hub, their names and their image sizes."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load, load_file, save

from gpt4image import export_model, predict_images, train_model
from gpt4image.core.errors import ConfigError
from gpt4image.train.backbone import apart, build_backbone, check_image_size, fitting_options


def test_weights_file_may_have_another_classifier(images, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1)
    first = train_model(images, None, recipe, tmp_path / "first", arm="baseline")
    backbone = build_backbone(replace(recipe, checkpoint=str(first.layout.weights)), classes=7)
    stored = load_file(first.layout.weights)
    assert torch.equal(backbone.state_dict()["conv1.0.weight"], stored["conv1.0.weight"])
    assert backbone.get_classifier().out_features == 7
    with pytest.raises(ConfigError, match="does not contain the weights of this backbone"):
        build_backbone(replace(recipe, backbone="resnet18", checkpoint=str(first.layout.weights)), classes=3)
    (tmp_path / "broken.pth").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="cannot be read as model weights"):
        build_backbone(replace(recipe, checkpoint=str(tmp_path / "broken.pth")), classes=3)
    with pytest.raises(ConfigError, match="Unknown timm model 'resnet10'"):
        build_backbone(replace(recipe, backbone="resnet10"), classes=3)


def test_failed_download_names_the_alternatives(small_recipe, monkeypatch):
    with pytest.raises(ConfigError, match=r"set checkpoint, or .*pretrained off"):
        build_backbone(small_recipe(pretrained=True), classes=3)


@pytest.mark.parametrize(
    "name", ["test_resnet", "timm/test_resnet", "hf_hub:timm/test_resnet.r160_in1k", "hf:timm/test_resnet"]
)
def test_name_on_the_hub_is_timms_own(name, small_recipe):
    assert build_backbone(small_recipe(backbone=name), classes=3).pretrained_cfg["architecture"] == "test_resnet"


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_resnet.nosuchtag", "Unknown pretrained weights of test_resnet 'nosuchtag'.*Known: r160_in1k"),
        ("timm/test_resnet.r160_in", "Unknown pretrained weights of test_resnet 'r160_in'.*Did you mean 'r160_in1k'"),
        ("resnet10", "Unknown timm model 'resnet10'"),
        ("hf-hub:timm/test_resnet.c3", "Unknown pretrained weights of test_resnet 'c3'"),
        ("me/my-resnet", "write hf-hub:me/my-resnet"),
        ("local-dir:nowhere", "local-dir:nowhere cannot be loaded: .*with its config.json"),
        ("https://huggingface.co/me/my-resnet", "me/my-resnet cannot be loaded"),
        ("ssdlite:resnet18", "is a model for detection: set task to detection"),
        ("deeplabv3:resnet18", "is a model for segmentation: set task to segmentation"),
        ("video:r3d_18", "is a model for clips"),
        ("timm/", r"Unknown timm model 'timm/'[^/]*$"),
        ("hf_hub:me/my-resnet", "hf_hub:me/my-resnet cannot be loaded: .*Name a timm model"),
    ],
)
def test_unknown_name_or_tag_is_refused_with_its_cause(name, message, pretrained, small_recipe):
    with pytest.raises(ConfigError, match=message):
        build_backbone(small_recipe(backbone=name, pretrained=pretrained), classes=3)


def test_arguments_of_a_local_model_are_those_of_its_configuration_and_the_recipe(small_recipe, tmp_path):
    arguments = {"img_size": 224, "depth": 1, "num_classes": 9, "drop_path_rate": 0.3}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": arguments, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = small_recipe(backbone=f"local-dir:{tmp_path}", image_size=64, drop_path=0.1)
    assert fitting_options(recipe) == {"img_size": 64, "depth": 1, "drop_path_rate": 0.1}
    model = build_backbone(recipe, classes=3)
    check_image_size(model, recipe.backbone, 64)
    assert len(model.blocks) == 1 and model.get_classifier().out_features == 3


def test_weights_file_that_does_not_exist_is_refused_before_training(images, small_recipe, tmp_path):
    for path, message in ((tmp_path, "is a folder: name the weights file"), (tmp_path / "no.pth", "does not exist")):
        with pytest.raises(ConfigError, match=message):
            train_model(images, None, small_recipe(checkpoint=str(path)), tmp_path / "run", arm="baseline")


def test_tensors_that_share_memory_are_saved_apart():
    shared = torch.arange(6.0).reshape(2, 3)
    state = {"a": shared, "b": shared, "c": shared.T, "d": torch.ones(2)}
    found = load(save(apart(state)))
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_model_with_modules_in_several_places_is_trained_and_exported(images, small_recipe, tmp_path, monkeypatch):
    class Twice(torch.nn.Module):
        """A block under two names."""

        def __init__(self, inner):
            super().__init__()
            self.first = self.second = inner

        def forward(self, x):
            return self.first(x)

    create = timm.create_model

    def tied(name, **options):
        model = create(name, **{key: value for key, value in options.items() if key != "checkpoint_path"})
        model.layer1 = Twice(model.layer1)
        if path := options.get("checkpoint_path"):
            model.load_state_dict(load_file(path))
        return model

    monkeypatch.setattr(timm, "create_model", tied)
    run = train_model(images, None, small_recipe(epochs=1), tmp_path / "run", arm="baseline")
    export_model(run, images, tmp_path / "model", onnx=False)
    assert len(list(predict_images(tmp_path / "model", [Path(images.source)]))) == len(images)


def test_model_without_pretrained_weights_says_so(small_recipe):
    with pytest.raises(ConfigError, match="No pretrained weights exist for resnetblur18"):
        build_backbone(small_recipe(backbone="resnetblur18", pretrained=True), classes=3)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("efficientformer_l1", 64, "does not accept images of 64 x 64 pixels .* such as its own, 224"),
        ("levit_128s", 60, "does not accept images of 60 x 60 pixels"),
        ("test_vit", 60, "divisible by patch size"),
        ("vit_tiny_patch16_224", 60, "cannot see the last 12 rows and 12 columns of 60 x 60 pixels, 36% .*: 48 or 64"),
        ("vit_tiny_patch16_224", 64, None),
        ("resmlp_12_224", 60, "cannot see the last 12 rows"),
        ("convnext_atto", 60, None),
        ("regnetx_002", 33, None),
    ],
)
def test_size_that_does_not_fit_the_backbone_is_refused(name, size, message, small_recipe):
    model = build_backbone(small_recipe(backbone=name, image_size=size), classes=3)
    with pytest.raises(ConfigError, match=message) if message else nullcontext():
        check_image_size(model, name, size)
    assert model.training


def test_size_that_a_backbone_cannot_be_built_for_is_refused(small_recipe):
    with pytest.raises(ConfigError, match=r"cannot build xcit_nano_12_p16_224 .*another image size"):
        build_backbone(small_recipe(backbone="xcit_nano_12_p16_224", image_size=60), classes=3)


def test_training_refuses_a_size_that_does_not_fit(images, small_recipe, tmp_path):
    with pytest.raises(ConfigError, match="cannot see the last 12 rows"):
        train_model(images, None, small_recipe(backbone="resmlp_12_224", image_size=60), tmp_path, arm="baseline")
