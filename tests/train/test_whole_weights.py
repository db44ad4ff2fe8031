"""Files of whole detectors and segmentation models: of torchvision, of transformers, and of this library."""

from __future__ import annotations

import re

import pytest
import torch
from torchvision.models import detection, segmentation
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from gpt4image.core.errors import ConfigError
from gpt4image.train.family import DETECTORS, SEGMENTERS
from gpt4image.train.recipe import Recipe

CLASSES, SIZE = 3, 64
PYRAMID = {"weights": None, "trainable_layers": 5, "returned_layers": [2, 3, 4]}
GIVEN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "min_size": SIZE, "max_size": SIZE}


def faster_rcnn(classes=CLASSES, build=detection.FasterRCNN):
    return build(resnet_fpn_backbone(backbone_name="resnet18", weights=None), classes + 1, **GIVEN)


def retinanet(classes=CLASSES):
    backbone = resnet_fpn_backbone(backbone_name="resnet18", extra_blocks=LastLevelP6P7(256, 256), **PYRAMID)
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))  # as built there
    return detection.RetinaNet(
        backbone, classes, anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5), **GIVEN
    )


def fcos(classes=CLASSES):
    backbone = resnet_fpn_backbone(backbone_name="resnet18", extra_blocks=LastLevelP6P7(256, 256), **PYRAMID)
    return detection.FCOS(backbone, classes, score_thresh=0.05, **GIVEN)


BUILDERS = {"faster-rcnn": faster_rcnn, "retinanet": retinanet, "fcos": fcos}
OLD = (
    (r"((?:inner|layer)_blocks\.\d)\.0\.", r"\1."),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    (r"^(head\.\w+\.conv)\.(\d)\.0\.", lambda found: f"{found[1]}.{2 * int(found[2])}."),
)


def trained(model):
    """Return a model whose statistics and scores differ from those of a new one."""
    torch.manual_seed(3)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.uniform_(-0.3, 0.3)
    return model.eval()


def start(name, path, classes=CLASSES, family=DETECTORS, size=SIZE):
    recipe = Recipe(backbone=name, checkpoint=str(path), image_size=size)
    return family.build(recipe, classes).eval()


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", BUILDERS)
def test_detections_are_those_of_the_model_that_torchvision_saved(kind, old, tmp_path, capsys):
    theirs, images = trained(BUILDERS[kind]()), torch.rand(2, 3, SIZE, SIZE)
    state = theirs.state_dict()
    for pattern, new in OLD if old else ():
        state = {re.sub(pattern, new, name): tensor for name, tensor in state.items()}
    torch.save({"model": state, "epoch": 3}, tmp_path / "theirs.pth")
    ours = start(f"{kind}:resnet18", tmp_path / "theirs.pth")
    assert f"of {kind}:resnet18" in " ".join(capsys.readouterr().err.split())
    with torch.no_grad():
        for found, expected in zip(ours.detect(images), theirs(list(images)), strict=True):
            count = min(100, len(expected["scores"]))
            assert count > 5 and len(found["scores"]) >= count
            torch.testing.assert_close(found["boxes"][:count], expected["boxes"][:count], atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(found["scores"][:count], expected["scores"][:count])
            first = 1 if kind == "faster-rcnn" else 0
            assert (found["labels"][:count] + first).tolist() == expected["labels"][:count].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "head", "said"),
    [
        ("faster-rcnn", "roi_heads.box_predictor", r"box_predictor.cls_score \(8 outputs, 4 here\)"),
        ("retinanet", "head.classification_head.cls_logits", r"cls_logits \(63 outputs, 27 here\)"),
    ],
)
def test_layers_of_other_classes_begin_anew_and_are_named(kind, head, said, tmp_path, capsys):
    state = trained(BUILDERS[kind](7)).state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    ours = start(f"{kind}:resnet18", tmp_path / "theirs.pth")
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(said, told) and "another number of classes" in told
    here = ours.detector.state_dict()
    for name, tensor in state.items():
        if name in here and not name.startswith(head):
            assert torch.equal(here[name], tensor), name
    assert torch.equal(ours.neck.state_dict()["inner_blocks.0.0.weight"], state["backbone.fpn.inner_blocks.0.0.weight"])
    assert all(torch.isfinite(part).all() for part in ours.state_dict().values())


@pytest.mark.slow
def test_heads_of_other_tasks_are_left_out_and_named(tmp_path, capsys):
    torch.save(faster_rcnn(build=detection.MaskRCNN).state_dict(), tmp_path / "masks.pth")
    start("faster-rcnn:resnet18", tmp_path / "masks.pth")
    assert "left out: roi_heads.mask_head, roi_heads.mask_predictor" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (detection.fasterrcnn_resnet50_fpn_v2, "faster-rcnn:resnet50"),
        (retinanet, "faster-rcnn:resnet18"),
        (faster_rcnn, "faster-rcnn:resnet34"),
        (
            lambda: detection.fasterrcnn_mobilenet_v3_large_fpn(weights_backbone=None),
            "faster-rcnn:mobilenetv3_large_100",
        ),
    ],
)
def test_detectors_of_another_architecture_are_refused_with_those_that_fit(build, name, tmp_path):
    torch.save(build().state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        ConfigError, match=f"other.pth contains a model of another architecture than {name}: .* fit, and"
    ):
        start(name, tmp_path / "other.pth")


@pytest.mark.slow
def test_masks_are_those_of_the_model_that_torchvision_saved(tmp_path):
    theirs = trained(segmentation.fcn_resnet50(weights_backbone=None, num_classes=CLASSES, aux_loss=True))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours, images = start("fcn:resnet50", tmp_path / "theirs.pth", family=SEGMENTERS), torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(images), theirs(images)["out"], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_detections_are_those_of_the_detr_that_transformers_saved(tmp_path):
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(backbone="resnet18", num_labels=CLASSES)
    theirs = trained(DetrForObjectDetection(config))
    theirs.save_pretrained(tmp_path / "detr")
    ours = start("detr:resnet18", tmp_path / "detr" / "model.safetensors")
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected, found = theirs(pixel_values=images), ours(images).view(2, -1, 6)
    scores = expected.logits.softmax(dim=2)[..., :-1].amax(dim=2).sort(descending=True).values
    torch.testing.assert_close(found[..., 5], scores)


def test_a_file_of_a_backbone_still_starts_the_backbone_alone(tmp_path):
    import timm

    state = {f"backbone.{name}": tensor for name, tensor in timm.create_model("test_resnet").state_dict().items()}
    torch.save(state, tmp_path / "backbone.pth")
    ours = start("ssdlite:test_resnet", tmp_path / "backbone.pth")
    assert all(torch.equal(tensor, state[f"backbone.{name}"]) for name, tensor in ours.body.state_dict().items())


def test_an_exported_detector_starts_a_whole_one(tmp_path):
    from safetensors.torch import save_file

    first = DETECTORS.restore("ssdlite:test_resnet", CLASSES, SIZE, {})
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    again = start("ssdlite:test_resnet", tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
