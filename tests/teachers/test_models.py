"""Teachers return what their own libraries return."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gpt4image import load_teacher
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.teachers.base import ImageTeacher
from gpt4image.teachers.preparation import timm_preparation
from support.teacher_parts import prepare

CONFIG = {
    "input_size": (3, 24, 32),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "interpolation": "bilinear",
    "crop_pct": 0.9,
    "crop_mode": "center",
}


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_timm_features_equal_timm(images, tmp_path, model):
    import timm
    from safetensors.torch import save_file
    from timm.data import create_transform, resolve_model_data_config

    torch.manual_seed(3)
    theirs = timm.create_model(model, num_classes=7).eval()
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    teacher = load_teacher(f"timm:{model}", "cpu", checkpoint=tmp_path / "weights.safetensors")
    config = resolve_model_data_config(theirs)
    assert teacher.preparation.size == config["input_size"][1:] == (160, 160)
    assert teacher.classes is None

    seen = prepare(images, range(3), create_transform(**config, is_training=False))
    shown = prepare(images, range(3), teacher.preparation.plain)
    assert torch.equal(seen, shown)
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(seen), pre_logits=True).numpy()
    assert (teacher.width, expected.shape) == (expected.shape[1], (3, teacher.width))
    np.testing.assert_allclose(teacher.predict(shown), expected, atol=1e-4)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_image_size_is_part_of_the_revision(tmp_path, model):
    import timm
    from safetensors.torch import save_file

    for size in (48, 160):
        options = {"img_size": size} if model == "test_vit" else {}
        path = tmp_path / f"{size}.safetensors"
        torch.manual_seed(4)
        save_file(timm.create_model(model, num_classes=0, **options).state_dict(), path)
    small = load_teacher(f"timm:{model}", "cpu", checkpoint=tmp_path / "48.safetensors", image_size=48)
    assert small.preparation.size == (48, 48)
    assert small.preparation.plain(Image.new("RGB", (70, 90))).shape == (3, 48, 48)
    own = load_teacher(f"timm:{model}", "cpu", checkpoint=tmp_path / "160.safetensors")
    same = load_teacher(f"timm:{model}", "cpu", checkpoint=tmp_path / "160.safetensors", image_size=160)
    assert own.revision == same.revision != small.revision


def test_clip_vectors_equal_open_clip(images, clip_name, tmp_path):
    import open_clip

    teacher = load_teacher(clip_name, "cpu")
    weights = clip_name.partition("/")[2]
    theirs, _, transform = open_clip.create_model_and_transforms("tiny-teacher", pretrained=weights)
    seen = prepare(images, range(4), transform)
    assert torch.equal(seen, prepare(images, range(4), teacher.preparation.plain))
    with torch.no_grad():
        expected = theirs.eval().encode_image(seen).numpy()
    assert (teacher.width, teacher.preparation.size, teacher.classes) == (24, (32, 32), None)
    np.testing.assert_allclose(teacher.predict(seen), expected, atol=1e-5)

    def revision_with(part: str) -> str:
        state = torch.load(weights, weights_only=True)
        key = next(key for key in state if key.startswith(part))
        state[key] = state[key] + 1
        torch.save(state, tmp_path / "other.pt")
        return load_teacher(f"open-clip:tiny-teacher/{tmp_path / 'other.pt'}", "cpu").revision

    assert revision_with("transformer.") == teacher.revision != revision_with("visual.")


def test_logits_equal_those_of_the_run_and_of_its_export(images, run, run_teacher, tmp_path):
    from gpt4image import export_model
    from gpt4image.train.run import load_backbone
    from gpt4image.train.transforms import evaluation_transform

    seen = prepare(images, range(5), evaluation_transform(run.preprocessing))
    with torch.no_grad():
        expected = load_backbone(run)(seen).numpy()
    assert run_teacher.classes == images.classes
    np.testing.assert_allclose(
        run_teacher.predict(prepare(images, range(5), run_teacher.preparation.plain)), expected, atol=1e-4
    )
    export_model(run, images, tmp_path / "model", onnx=False)
    exported = load_teacher(f"run:{tmp_path / 'model'}", "cpu")
    assert exported.classes == images.classes
    assert exported.revision == run_teacher.revision
    np.testing.assert_allclose(exported.predict(seen), expected, atol=1e-4)


def test_errors_name_the_fix(tmp_path, clip_name, resnet_weights):
    import timm
    from safetensors.torch import save_file

    def refused(name: str, message: str, error=ConfigError, **options) -> None:
        with pytest.raises(error, match=message):
            load_teacher(name, "cpu", **options)

    refused("resnet50", "names no teacher. Write timm:MODEL")
    refused("timm:", "names no teacher")
    refused("tim:resnet50", "Unknown kind of teacher 'tim'. Did you mean 'timm'")
    refused("timm:resnet5", "Unknown timm model 'resnet5'.*Did you mean")
    refused("timm:resnet5", "Unknown", checkpoint=resnet_weights)
    refused("timm:test_resnet.nosuchtag", "Unknown pretrained weights of test_resnet 'nosuchtag'")
    save_file(timm.create_model("test_vit", img_size=60).state_dict(), tmp_path / "60.safetensors")
    refused(
        "timm:test_vit",
        "does not accept images of 60 x 60 .*160",
        image_size=60,
        checkpoint=tmp_path / "60.safetensors",
    )
    refused("timm:test_resnet", "are not available.*weights file as checkpoint")
    refused("timm:test_vit", "does not contain the weights", checkpoint=resnet_weights)
    refused("timm:test_resnet", "does not exist", checkpoint=tmp_path / "none.pt")
    refused("open-clip:RN50", "MODEL/PRETRAINED")
    refused("open-clip:RN50/none-such", "cannot be loaded")
    refused(clip_name, "takes no weights file; timm teachers do.*open-clip:MODEL/FILE", checkpoint=resnet_weights)
    refused(f"run:{tmp_path}", "takes no image size; timm teachers do", image_size=64)
    refused(f"run:{tmp_path}", "contains no finished run", StoreError)
    (tmp_path / "config.json").write_text("{}")
    refused(f"run:{tmp_path}", "not that of an exported model")


def test_model_that_returns_no_vectors_is_rejected():
    preparation = timm_preparation(CONFIG)
    with pytest.raises(ConfigError, match=re.escape("outputs of shape (5, 22, 30)")):
        ImageTeacher(nn.Conv2d(3, 5, 3), preparation, torch.device("cpu"), name="timm:conv")
    with pytest.raises(ConfigError, match="does not accept images of"):
        ImageTeacher(nn.Linear(7, 5), preparation, torch.device("cpu"), name="timm:linear")


def test_views_are_normalised_crops_flipped_half_of_the_time():
    preparation = timm_preparation(CONFIG)
    left_to_right = np.tile(np.linspace(0, 255, 100, dtype=np.uint8), (60, 1))
    picture = Image.fromarray(np.stack([left_to_right] * 3, axis=2))
    views = torch.stack([preparation.view(picture, np.random.default_rng([number])) for number in range(400)])
    assert views.shape == (400, 3, 24, 32)
    colours = views * torch.tensor(CONFIG["std"])[:, None, None] + torch.tensor(CONFIG["mean"])[:, None, None]
    assert -0.001 <= colours.min() < 0.05
    assert 0.95 < colours.max() <= 1.001
    torch.testing.assert_close(colours[:, 0], colours[:, 1], atol=1e-5, rtol=0)
    flipped = (colours[:, 0, 12, 0] > colours[:, 0, 12, -1]).float().mean()
    assert 0.4 < flipped < 0.6
    again = preparation.view(picture, np.random.default_rng([7]))
    assert torch.equal(again, views[7])


class Told(nn.Module):
    """Answers the square of each colour's mean, so that the mean of frames is not the answer to their mean."""

    def forward(self, images):
        assert images.ndim == 4
        return images.mean(dim=(2, 3)) ** 2


def test_teacher_of_images_sees_the_frames_of_a_clip_one_by_one_and_their_vectors_are_averaged():
    preparation = timm_preparation(CONFIG | {"input_size": (3, 4, 4)})
    teacher = ImageTeacher(Told(), preparation, torch.device("cpu"), name="timm:told")
    clips = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((2, 3))
    for clip in range(2):
        for frame in range(3):
            expected[clip] += clips[clip, frame].double().mean(dim=(1, 2)).numpy() ** 2 / 3
    np.testing.assert_allclose(teacher.predict(clips), expected, rtol=1e-5)
