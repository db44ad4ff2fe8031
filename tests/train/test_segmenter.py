"""Segmentation models: loss and gradients against plain loops, views, regions, resumption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gpt4image import embed_descriptions, load_descriptions, load_images, train_model
from gpt4image.align.aligned_model import AlignedModel
from gpt4image.align.head import RegionHead, Targets
from gpt4image.align.loss import AlignmentLoss
from gpt4image.align.projector import Projector
from gpt4image.core.errors import ConfigError
from gpt4image.images.crops import crop_images
from gpt4image.images.decode import EncodedImage
from gpt4image.images.masks import VOID
from gpt4image.tasks.segmentation import SEGMENTATION, square_mask
from gpt4image.train.annotated_inputs import MaskInputs, augmented_view, plain_view
from gpt4image.train.family import SEGMENTERS
from gpt4image.train.segmenter import BUILDERS
from gpt4image.train.transforms import preprocessing
from support.image_files import encode
from support.scenes import draw_scenes, mask_of, write_coco
from support.training import LetterEncoder, StoppedError, observe, same_weights

SIZE, CLASSES = 64, 4
SCENES = draw_scenes(16)
CONFIG = preprocessing(nn.Identity(), SIZE)


def make(kind="lraspp"):
    torch.manual_seed(0)
    return SEGMENTERS.restore(f"{kind}:test_resnet", CLASSES, SIZE, {})


def packed(images=4, boxes=2):
    """Masks with void pixels, the last of an image that is not known, and boxes."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, CLASSES, (images, SIZE * SIZE), generator=generator).float()
    masks[:, :100], masks[0, :500], masks[-1] = VOID, VOID, torch.nan
    corners = torch.tensor([[0, 0.0, 0.0, 0.5, 0.5], [1, 0.25, 0.5, 1.0, 1.0]])[:boxes]
    return torch.cat([masks, corners.flatten().expand(images, -1)], dim=1)


@pytest.mark.parametrize("kind", BUILDERS)
def test_loss_is_the_mean_cross_entropy_of_known_pixels_and_masks_the_likeliest_classes(kind):
    model, images, truth = make(kind).eval(), torch.rand(4, 3, SIZE, SIZE), packed()
    logits = model.logits(images)
    expected = 0.0
    for image in range(3):
        mask = truth[image, : SIZE * SIZE].long()
        chosen, first = logits[image].flatten(1).log_softmax(0), 100 if image else 500
        expected = expected - torch.stack([chosen[mask[at], at] for at in range(first, SIZE * SIZE)]).mean() / 3
    torch.testing.assert_close(model(images, truth)[0, 0], expected)
    found = model(images)
    torch.testing.assert_close(found[:, :-1].long(), logits.argmax(dim=1).flatten(1))
    torch.testing.assert_close(found[:, -1].float() / 255, logits.softmax(1).amax(1).mean((1, 2)), atol=0.01, rtol=0)


def test_images_whose_masks_are_not_known_give_a_loss_of_zero_and_one_that_is_known_trains():
    model, images = make("deeplabv3").train(), torch.rand(2, 3, SIZE, SIZE)
    truth = packed(2)
    assert model(images, truth).isfinite().all()  # one of the two, whose pooled map is a single pixel
    truth[0] = torch.nan
    loss = model(images, truth)
    loss.sum().backward()
    assert loss.tolist() == [[0.0]] and all((part.grad == 0).all() for part in model.parameters())


def test_maps_logits_and_weights_without_decay_are_those_of_the_backbone():
    maps = make("segformer").body_maps(torch.zeros(1, 3, SIZE, SIZE))
    assert [SIZE // level.shape[-1] for level in maps.values()] == [4, 8, 16, 32]
    model = make()
    model.head = nn.Identity()
    found = model.decode(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))[0, 0, 0]
    centres = (torch.arange(SIZE) + 0.5) / (SIZE / 2) - 0.5  # of pixels, on a map of two
    torch.testing.assert_close(found, centres.clamp(0, 1))
    vit = SEGMENTERS.restore("segformer:vit_tiny_patch16_224", CLASSES, SIZE, {"img_size": SIZE})
    assert "body.pos_embed" in vit.no_weight_decay()


def test_batch_fills_up_regions_and_its_views_depend_on_seed_draw_and_image(scenes, small_recipe):
    images, view = load_images(scenes, task="segmentation"), augmented_view(small_recipe(), CONFIG, masks=True)
    rows = images.split("train")
    labels = SEGMENTATION.labels(images, rows)
    counts = [len(label.boxes) for label in labels]
    two, one = counts.index(2), int(np.argmin(counts))
    some = labels[[two, one, two]]
    some[2] = None
    inputs, packed = MaskInputs(images, rows, view, 1).batch([(0, two), (0, one), (0, two)], some)
    boxes = packed[:, SIZE * SIZE :].view(3, 2, 5)
    assert (boxes[1, counts[one] :] == -1).all() and (boxes[2] == -1).all()
    assert packed[2, : SIZE * SIZE].isnan().all() and not packed[:2].isnan().any()
    for seed, draw, same in ((1, 0, True), (1, 1, False), (2, 0, False)):
        again, _ = MaskInputs(images, rows, view, seed).batch([(draw, two)], some[:1])
        assert torch.equal(again[0], inputs[0]) == same


def test_gradient_of_the_alignment_of_regions_equals_that_of_a_plain_loop():
    model, images = make().double().eval(), torch.rand(2, 3, SIZE, SIZE, dtype=torch.float64)
    model.regions.wanted = True
    vectors, known = torch.randn(4, 8, dtype=torch.float64), torch.tensor([True, True, False, True])
    channels = list(model.body_maps(images).values())[-1].shape[1]
    projector = Projector(channels, 8, kind="linear").double()
    aligned = AlignedModel(model, [RegionHead(projector, AlignmentLoss("cosine"), tap="regions")]).eval()
    aligned(images, Targets((vectors,), (known,)), None, packed(2).double()).alignment.backward()
    own = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    assert own and all(name.startswith("body.") for name in own)
    model.zero_grad()
    projector.zero_grad()
    deepest, loss = list(model.body_maps(images).values())[-1], 0.0
    boxes = packed(2)[:, SIZE * SIZE :].view(2, 2, 5).double()
    for row in known.nonzero()[:, 0].tolist():
        image, box = divmod(row, 2)
        feature = model.regions(deepest[[image]], boxes[[image]][:, [box]])[0]
        z, text = projector(feature[None])[0], vectors[row]
        loss = loss + (2 - 2 * z @ text / (z.norm() * text.norm())) / 3
    loss.backward()
    for name, part in model.named_parameters():
        if part.grad is not None:
            torch.testing.assert_close(own[name], part.grad)


def test_masks_follow_crop_and_flip_of_their_picture(small_recipe):
    config = CONFIG
    scene = SCENES[1]
    mask = mask_of(scene)
    colours = np.array([(0, 0, 0), (250, 0, 0), (0, 250, 0), (0, 0, 250)], np.uint8)
    image = EncodedImage(encode(Image.fromarray(colours[mask]), "PNG"), "scene")
    box = np.array([[1, 0.1, 0.1, 0.5, 0.5]], np.float32)
    pixels, found, boxes = plain_view(config).with_mask(image, (), box, mask)
    np.testing.assert_array_equal(found.numpy(), square_mask(mask, SIZE))
    np.testing.assert_allclose(boxes.numpy(), box)
    recipe, inputs = small_recipe(crop_scale=(0.3, 0.6), flip=0.5, color_jitter=0.0), set()
    view = augmented_view(recipe, config, masks=True)
    for draw in range(6):
        pixels, found, _ = view.with_mask(image, (draw,), box, mask)
        inner = found != VOID
        nearest = ((pixels[None].float() - torch.from_numpy(colours)[:, :, None, None].float()) ** 2).sum(1).argmin(0)
        assert (nearest == found)[inner].float().mean() > 0.93  # but for blended edges
        inputs.add(found.numpy().tobytes())
    assert len(inputs) == 6  # flips alone would make two


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("scenes") / "set", SCENES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lraspp", "deeplabv3"])
def test_interrupted_training_with_texts_of_regions_resumes_in_the_same_weights(
    scenes, small_recipe, tmp_path, monkeypatch, kind
):
    images = load_images(scenes, task="segmentation")
    crops = crop_images(images, 0.1)
    stores = [
        embed_descriptions(load_descriptions(table, str(scenes / name)), LetterEncoder(), tmp_path / name)
        for table, name in ((images, "descriptions.jsonl"), (crops, "objects.jsonl"))
    ]
    recipe = small_recipe(backbone=f"{kind}:test_resnet", image_size=SIZE, batch_size=4)

    def train(name):
        options = {"regions": stores[1], "margin": 0.1, "checkpoint_seconds": 0}
        return train_model(images, stores[0], recipe, tmp_path / name, **options)

    with monkeypatch.context() as patch:
        seen = observe(patch, lambda _, __, batch: batch.known_regions[0].sum())
        whole = train("whole")
    assert all(count > 0 for count in seen)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=len(seen) // 2)
        train("stopped")
    assert same_weights(train("stopped").layout.weights, whole.layout.weights)
    assert whole.task == "segmentation" and whole.history[0]["alignment_loss"] > 0


def test_backbone_that_cannot_be_dilated_is_named_once(small_recipe, capsys):
    for name, strides in (("lraspp:mobilenetv3_small_050", 32), ("deeplabv3:test_resnet", 8), ("test_resnet", 8)):
        for _ in range(2):
            model = SEGMENTERS.build(small_recipe(backbone=name, image_size=SIZE, pretrained=False), CLASSES)
        assert model.stride == strides
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("cannot be dilated") == 1
    assert "mobilenetv3_small_050 cannot be dilated, so lraspp gets maps with a stride of 32 pixels, not 16" in said


def test_detector_is_no_segmentation_model():
    with pytest.raises(ConfigError, match="a model for another task: begin it with deeplabv3"):
        SEGMENTERS.restore("ssdlite:test_resnet", CLASSES, SIZE, {})
