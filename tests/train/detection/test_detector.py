"""Detectors: torchvision's losses on given maps, the alignment's gradient, views whose boxes stay on the objects."""

from __future__ import annotations

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gpt4image import embed_descriptions, load_descriptions, load_images, open_run, train_model
from gpt4image.align.aligned_model import AlignedModel
from gpt4image.align.head import AlignmentHead, RegionHead, Targets
from gpt4image.align.loss import AlignmentLoss
from gpt4image.align.projector import Projector
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.errors import ConfigError
from gpt4image.images.crops import crop_images
from gpt4image.images.decode import EncodedImage
from gpt4image.tasks.box_metrics import image_precisions
from gpt4image.train.annotated_inputs import augmented_view, plain_view
from gpt4image.train.detection.detector import DETECTIONS
from gpt4image.train.family import DETECTORS
from gpt4image.train.run import load_backbone
from gpt4image.train.transforms import preprocessing, seed_everything
from support.drawings import COLOURS
from support.image_files import encode
from support.scenes import NAMES, draw_scenes, write_coco
from support.training import LetterEncoder, StoppedError, observe, same_weights

KINDS = ("faster-rcnn", "retinanet", "fcos", "ssdlite")
SIZE = 64
SCENES = draw_scenes(24)


def make(kind="ssdlite", size=SIZE, seed=0):
    torch.manual_seed(seed)
    return DETECTORS.restore(f"{kind}:test_resnet", 3, size, {})


def truth(images=4):
    """Boxes [B, 2, 5] in shares; the last image is a background."""
    boxes = torch.full((images, 2, 5), -1.0)
    boxes[:-1, 0] = torch.tensor([1, 0.1, 0.2, 0.6, 0.9])
    boxes[0, 1] = torch.tensor([2, 0.5, 0.5, 0.9, 0.8])
    return boxes


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_detections_are_those_of_torchvision_with_its_backbone_inside(kind):
    model, images, boxes = make(kind), torch.rand(4, 3, SIZE, SIZE), truth()
    seed_everything(1)
    found = model(images, boxes)

    class Whole(nn.Module):
        """Body and neck as torchvision's detectors have them."""

        out_channels = 256

        def forward(self, pixels):
            maps = model.body.forward_intermediates(
                pixels, indices=model._indices, stop_early=True, intermediates_only=True
            )
            return model.neck(OrderedDict((str(at), each) for at, each in enumerate(maps)))

    first = 1 if kind in ("faster-rcnn", "ssdlite") else 0
    targets = []
    for rows in boxes:
        own = rows[rows[:, 0] >= 0]
        targets.append({"boxes": own[:, 1:] * SIZE, "labels": own[:, 0].long() + first})
    given = model.detector.backbone
    model.detector.backbone = Whole()
    seed_everything(1)
    expected = model.detector(list(images), targets)
    torch.testing.assert_close(found, torch.stack(list(expected.values()))[None])
    model.eval()
    with torch.no_grad():
        outside = model.detector(list(images))
        model.detector.backbone = given
        packed = model(images).view(4, -1, 6)
    for rows, each in zip(packed, outside, strict=True):
        kept = rows[rows[:, 0] >= 0]
        torch.testing.assert_close(kept[:, 1:5] * SIZE, each["boxes"])
        assert (kept[:, 0].long() + first).tolist() == each["labels"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "maps"), [("detr", 1), ("rt-detr", 3)])
def test_loss_and_detections_are_those_of_transformers_on_the_maps_of_a_timm_backbone(kind, maps):
    from transformers import DetrImageProcessor, RTDetrImageProcessor

    model, images, boxes = make(kind).eval(), torch.rand(4, 3, SIZE, SIZE), truth()
    if kind == "rt-detr":
        model.train()  # for the noisy boxes that its loss wants
    seed_everything(1)
    found = model(images, boxes)
    inner = model.detector.model
    given = inner.model.backbone.given

    class Whole(nn.Module):
        """The maps, made where transformers has its backbone."""

        def forward(self, pixels):
            found = model.body.forward_intermediates(pixels, intermediates_only=True)[-maps:]
            return dict(enumerate(found))

    labels = []
    for rows in boxes:
        own = rows[rows[:, 0] >= 0]
        left, top, right, bottom = own[:, 1:].T
        centres = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=1)
        labels.append({"class_labels": own[:, 0].long(), "boxes": centres})
    inner.model.backbone.given = Whole()
    seed_everything(1)
    layers, expected = inner.model.decoder.layers, torch.zeros(())
    for count in (
        range(len(layers), 0, -1) if kind == "detr" else [len(layers)]
    ):  # each of DETR's as if it were the last
        inner.model.decoder.layers = layers[:count]
        expected = expected + inner(pixel_values=images, labels=labels).loss
    inner.model.decoder.layers = layers
    torch.testing.assert_close(found.sum(), expected)
    model.eval()
    with torch.no_grad():
        answers = inner(pixel_values=images)
        inner.model.backbone.given = given
        packed = model(images).view(4, -1, 6)
    processor = DetrImageProcessor() if kind == "detr" else RTDetrImageProcessor()
    shown = processor.post_process_object_detection(answers, threshold=0.0, target_sizes=[(1, 1)] * 4)
    for rows, each in zip(packed, shown, strict=True):
        order = each["scores"].argsort(descending=True)[:DETECTIONS]
        kept = rows[rows[:, 0] >= 0][: len(order)]  # that of RT-DETR shows no more than there are queries
        assert len(kept) == len(order) > 50
        torch.testing.assert_close(kept[:, 5], each["scores"][order])
        torch.testing.assert_close(kept[:, 1:5], each["boxes"][order], atol=1e-5, rtol=0)
        assert kept[:, 0].long().tolist() == each["labels"][order].tolist()


def test_detr_looks_at_the_map_of_a_transformer_and_rt_detr_does_not():
    model = DETECTORS.restore("detr:test_vit", 3, 160, {})
    losses = model(torch.rand(2, 3, 160, 160), truth(2))
    losses.sum().backward()
    assert all(part.grad is not None for part in model.parameters())
    with pytest.raises(ConfigError, match="needs maps of several sizes"):
        DETECTORS.restore("rt-detr:test_vit", 3, 160, {})


def test_images_whose_boxes_are_not_known_take_no_part_in_the_loss():
    model = make("retinanet").eval()  # statistics of normalisation layers do not depend on the batch
    model.detector.train()
    images, boxes = torch.rand(4, 3, SIZE, SIZE), truth()
    alone = model(images[:2], boxes[:2])
    boxes[2:] = torch.nan
    torch.testing.assert_close(model(images, boxes), alone)
    nothing = model(images[2:], boxes[2:])
    assert nothing.sum() == 0 and nothing.requires_grad


@pytest.mark.parametrize("kind", ["retinanet", pytest.param("rt-detr", marks=pytest.mark.slow)])
@pytest.mark.parametrize("boxes", [torch.nan, -1.0])
def test_every_weight_has_a_gradient_also_without_a_box(kind, boxes):
    model = make(kind)
    model(torch.rand(2, 3, SIZE, SIZE), torch.full((2, 2, 5), boxes)).sum().backward()
    assert [name for name, weights in model.named_parameters() if weights.grad is None] == []


def test_gradient_of_the_alignment_equals_that_of_a_plain_loop():
    model, images = make().double(), torch.rand(4, 3, SIZE, SIZE, dtype=torch.float64)
    vectors = torch.randn(4, 8, dtype=torch.float64)
    projector = Projector(model.body.num_features, 8, kind="linear").double()
    aligned = AlignedModel(model, [AlignmentHead(projector, AlignmentLoss("cosine"))])
    aligned.eval()
    model.detector.train()
    known = torch.ones(4, dtype=torch.bool)
    found = aligned(images, Targets((vectors,), (known,)), None, truth().double())
    found.alignment.backward()
    own = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    assert own and all(name.startswith("body.") for name in own)
    model.zero_grad()
    projector.zero_grad()
    maps = model.body.forward_intermediates(images, indices=model._indices, stop_early=True, intermediates_only=True)
    loss = 0.0
    for image in range(4):
        feature = maps[-1][image].mean(dim=(1, 2))
        projected, text = projector(feature[None])[0], vectors[image]
        loss = loss + (2 - 2 * projected @ text / (projected.norm() * text.norm())) / 4
    loss.backward()
    torch.testing.assert_close(found.alignment, loss)
    for name, part in model.named_parameters():
        if part.grad is not None:
            torch.testing.assert_close(own[name], part.grad)


CONFIG = preprocessing(nn.Identity(), SIZE)


def encoded(scene):
    return EncodedImage(encode(scene.picture, "PNG"), scene.name)


def boxes_of(scene):
    rows = [
        [NAMES.index(name), *(edge / max(scene.picture.size) for edge in corners)] for name, *corners in scene.boxes
    ]
    return np.array(rows + [[-1] * 5] * (4 - len(rows)), np.float32)


def test_plain_view_is_the_picture_padded_to_a_square():
    scene = SCENES[1]
    pixels, placed = plain_view(CONFIG).with_boxes(encoded(scene), (), boxes_of(scene))
    assert pixels.shape == (3, SIZE, SIZE) and pixels.dtype == torch.uint8
    np.testing.assert_allclose(placed.numpy(), boxes_of(scene))
    square = Image.new("RGB", (96, 96), tuple(round(255 * value) for value in CONFIG["mean"]))
    square.paste(scene.picture)
    expected = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2


def test_boxes_follow_crop_and_flip(small_recipe):
    view = augmented_view(small_recipe(crop_scale=(0.4, 1.0), flip=0.5), CONFIG)
    checked, flipped = 0, 0
    for number, scene in enumerate(SCENES):
        pixels, placed = view.with_boxes(encoded(scene), (0, number), boxes_of(scene))
        again, same = view.with_boxes(encoded(scene), (0, number), boxes_of(scene))
        assert torch.equal(pixels, again) and torch.equal(placed, same)
        picture = pixels.permute(1, 2, 0).numpy().astype(int)
        for label, *corners in placed.tolist():
            if label < 0:
                continue
            left, top, right, bottom = (SIZE * edge for edge in corners)
            if right - left < 6 or bottom - top < 6:
                continue
            inner = picture[int(top) + 2 : int(bottom) - 2, int(left) + 2 : int(right) - 2]
            colour = COLOURS[NAMES[int(label)]]
            assert np.abs(inner - colour).max() < 60, (number, corners)
            checked += 1
        flipped += bool((placed[:, 0] >= 0).any() and not np.allclose(placed.numpy(), boxes_of(scene)))
    assert checked > 15 and flipped > 8


def test_view_of_unknown_boxes_keeps_them_unknown(small_recipe):
    _, placed = augmented_view(small_recipe(), CONFIG).with_boxes(
        encoded(SCENES[0]), (1,), np.full((2, 5), np.nan, np.float32)
    )
    assert placed.isnan().all()


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [("ssdlite:test_resnet", 60, "choose 32 or 64"), ("ssdlite:vit_tiny_patch16_224", 96, "does not accept images")],
)
def test_sizes_that_do_not_fit_are_refused_with_the_fix(name, size, said):
    with pytest.raises(ConfigError, match=said):
        DETECTORS.restore(name, 3, size, {})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("scenes") / "set", SCENES)


@pytest.fixture(scope="module")
def images(scenes):
    return load_images(scenes, task="detection")


@pytest.fixture(scope="module")
def store(scenes, images, tmp_path_factory):
    descriptions = load_descriptions(images, str(scenes / "descriptions.jsonl"))
    return embed_descriptions(descriptions, LetterEncoder(), tmp_path_factory.mktemp("letters") / "letters")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ssdlite", "detr", "rt-detr"])
def test_interrupted_training_resumes_in_the_same_weights(images, store, small_recipe, tmp_path, monkeypatch, kind):
    epochs = 2 if kind == "ssdlite" else 1  # the others have large transformers
    recipe = small_recipe(backbone=f"{kind}:test_resnet", image_size=SIZE, batch_size=4, epochs=epochs)

    def train(name):
        return train_model(images, store, recipe, tmp_path / name, checkpoint_seconds=0)

    with monkeypatch.context() as patch:
        seen = observe(patch, lambda _, __, batch: batch.labels.shape[1:])
        whole = train("whole")
    assert {tuple(shape) for shape in seen} == {(3, 5)}
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=len(seen) // 2)
        train("stopped")
    resumed = train("stopped")
    assert same_weights(resumed.layout.weights, whole.layout.weights)
    assert resumed.thresholds == whole.thresholds
    assert whole.task == "detection" and whole.history[0]["alignment_loss"] > 0
    settings = json.loads(whole.layout.settings.read_text())
    assert settings["task"] == "detection"
    found = predict_test_images(open_run(whole.layout.folder), images)
    again = predict_test_images(open_run(whole.layout.folder), images)  # read back
    np.testing.assert_array_equal(found.scores, again.scores)
    assert not any("projector" in name for name in load_backbone(whole).state_dict())


@pytest.mark.slow
def test_arms_begin_with_the_same_weights_and_see_the_same_pictures(images, store, small_recipe, tmp_path):
    recipe = small_recipe(backbone="ssdlite:test_resnet", image_size=SIZE, batch_size=4, epochs=1, weight=0.0)
    runs = [train_model(images, store, recipe, tmp_path / arm, arm=arm) for arm in ("baseline", "described")]
    assert same_weights(*(run.layout.weights for run in runs))


@pytest.mark.slow
def test_detector_learns_to_find_the_boxes_that_it_is_shown():
    """So corners mean the same in views, losses and detections."""
    model, view = make(), plain_view(CONFIG)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.3  # so that a few steps suffice
    pairs = [view.with_boxes(encoded(scene), (), boxes_of(scene)) for scene in SCENES[:6]]
    inputs = torch.stack([pixels for pixels, _ in pairs]).float() / 127.5 - 1
    boxes = torch.stack([placed for _, placed in pairs])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model.train()(inputs, boxes).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(inputs).view(6, -1, 6).numpy()
    assert image_precisions(found, boxes.numpy()).mean() > 0.5


@pytest.fixture(scope="module")
def objects(scenes, images, tmp_path_factory):
    """Vectors of a text for each box, whose crops have a margin of 0.1."""
    crops = crop_images(images, 0.1)
    descriptions = load_descriptions(crops, str(scenes / "objects.jsonl"))
    return embed_descriptions(descriptions, LetterEncoder(), tmp_path_factory.mktemp("objects") / "letters")


def test_regions_are_means_of_the_map_over_their_boxes():
    model = make()
    maps = torch.rand(2, 5, 2, 2)
    boxes = torch.tensor([[[0, 0.0, 0.0, 1.0, 1.0], [1, 0.5, 0.0, 1.0, 0.5]], [[2, 0, 0.5, 0.5, 1.0], [-1] * 5]])
    found = model.regions(maps, boxes).view(2, 2, 5)
    torch.testing.assert_close(found[0, 0], maps[0].mean(dim=(1, 2)), atol=0.2, rtol=0)
    # a box on a single cell is nearest to that cell
    for feature, cell in ((found[0, 1], maps[0, :, 0, 1]), (found[1, 0], maps[1, :, 1, 0])):
        distances = [(feature - other).norm() for other in (maps[0] if cell is maps[0] else maps).flatten(2)[0].T]
        assert (feature - cell).norm() < max(distances)


def test_head_without_known_regions_has_a_gradient_for_every_weight():
    head = RegionHead(Projector(7, 5), AlignmentLoss("clip", learn_temperature=True))
    loss = head.align(head(torch.randn(6, 7)), Targets((torch.zeros(6, 5),), (torch.zeros(6, dtype=torch.bool),)))
    loss.backward()
    assert loss == 0 and all((weights.grad == 0).all() for weights in head.parameters())


def test_gradient_at_region_features_equals_that_of_a_plain_loop():
    features = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(6, 5, dtype=torch.float64)
    known = torch.tensor([True, False, True, True, False, True])
    head = RegionHead(Projector(7, 5, kind="linear").double(), AlignmentLoss("clip", 0.5), source=1)
    nothing = (torch.zeros(2, 3), torch.ones(2, dtype=torch.bool))
    targets = Targets((nothing[0], vectors), (nothing[1], known), torch.arange(2))
    loss = head.align(head(features), targets)
    (found,) = torch.autograd.grad(loss, features, retain_graph=True)
    rows = [row for row in range(6) if known[row]]
    expected = 0.0
    z = [head.projector(features[row][None])[0] for row in rows]
    z = [each / each.norm() for each in z]
    t = [vectors[row] / vectors[row].norm() for row in rows]
    for a in range(len(rows)):
        to_texts = torch.stack([z[a] @ other / 0.5 for other in t])
        to_images = torch.stack([t[a] @ other / 0.5 for other in z])
        expected = expected - (to_texts.log_softmax(0)[a] + to_images.log_softmax(0)[a]) / 2 / len(rows)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, features)[0])
    assert found[1].abs().sum() == 0
    alone = head.align(head(features), targets._replace(known=(nothing[1], known & (torch.arange(6) == 0))))
    assert alone == 0 and alone.requires_grad


@pytest.mark.slow
def test_boxes_are_aligned_with_the_texts_of_their_crops(images, store, objects, small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(backbone="ssdlite:test_resnet", image_size=SIZE, batch_size=4, epochs=1)
    with monkeypatch.context() as patch:
        seen = observe(patch, lambda objective, _, batch: (batch, objective._vectors(batch)))
        run = train_model(images, store, recipe, tmp_path / "both", regions=objects, margin=0.1)
    texts = {name: objects.all_vectors(objects.find(crop_ids_of(images, name)))[0] for name in NAMES}
    for batch, targets in seen:
        assert len(targets.vectors) == 2
        (vectors,), (known,) = batch.regions, batch.known_regions
        labels = batch.labels[..., 0].flatten()
        assert known.tolist() == (labels >= 0).tolist()
        for label, vector in zip(labels[known].long().tolist(), vectors[known], strict=True):
            np.testing.assert_allclose(vector.numpy(), texts[NAMES[label]], atol=1e-3)
    settings = json.loads(run.layout.settings.read_text())
    assert settings["margin"] == 0.1 and settings["regions"][0]["encoder"] == "letters"
    alone = train_model(images, None, recipe, tmp_path / "alone", regions=objects, margin=0.1)
    assert alone.history[0]["alignment_loss"] > 0
    assert not any("regions" in name for name in load_backbone(run).state_dict())


def crop_ids_of(images, name):
    """Ids of the crops of a class."""
    crops = crop_images(images, 0.1)
    return crops.ids[crops.labels == crops.classes.index(name)][:1]


def test_settings_that_do_not_work_with_texts_of_boxes_are_refused(images, objects, small_recipe, tmp_path, image_set):
    recipe = small_recipe(backbone="ssdlite:test_resnet", image_size=SIZE, batch_size=4, text_space="centred")
    with pytest.raises(ConfigError, match="text_space does not work with descriptions of boxes"):
        train_model(images, None, recipe, tmp_path / "run", regions=objects, margin=0.1)
    with pytest.raises(ConfigError, match="are for detectors"):
        train_model(load_images(image_set), None, small_recipe(), tmp_path / "other", regions=objects, margin=0.1)


@pytest.mark.slow
def test_images_without_known_boxes_are_aligned_alone(scenes, store, small_recipe, tmp_path, image_set, monkeypatch):
    images = load_images(scenes, task="detection", unlabelled=[image_set])
    texts = {image_id.decode(): "A shape of a colour." for image_id in images.ids[~images.is_labelled]}
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts.items()))
    descriptions = load_descriptions(images, str(tmp_path / "more.jsonl"))
    vectors = embed_descriptions(descriptions, LetterEncoder(), tmp_path / "letters")
    recipe = small_recipe(backbone="ssdlite:test_resnet", image_size=SIZE, batch_size=8, epochs=1)
    with monkeypatch.context() as patch:
        seen = observe(patch, lambda _, __, batch: batch)
        run = train_model(images, vectors, recipe, tmp_path / "run")
    unknown = torch.cat([batch.labels[:, 0, 0].isnan() for batch in seen])
    aligned = torch.cat([batch.known[0] for batch in seen])
    assert torch.equal(unknown, aligned) and unknown.any() and not unknown.all()
    assert run.history[0]["alignment_loss"] > 0 and run.history[0]["classification_loss"] > 0


@pytest.mark.parametrize("kind", ["retinanet", "ssdlite", pytest.param("detr", marks=pytest.mark.slow)])
def test_losses_and_detections_are_finite_in_half_precision(kind):
    model, images = make(kind), torch.rand(4, 3, SIZE, SIZE)
    model.regions.wanted = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images, truth())
        losses.float().sum().backward()
        with torch.no_grad():
            found = model.eval()(images)
    assert torch.isfinite(losses).all() and torch.isfinite(found).all() and found.dtype == torch.float32
    assert all(torch.isfinite(part.grad).all() for part in model.body.parameters())
