"""Models of clips: numbers against plain loops and torchvision, inputs alike for all frames, runs that resume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from gpt4image import Recipe, embed_descriptions, load_descriptions, load_images, open_run, train_model
from gpt4image.align.aligned_model import find_classifier, probe_feature
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.errors import ConfigError
from gpt4image.images.clips import FrameChoice
from gpt4image.teachers import embed_images, label_images, load_teacher
from gpt4image.train.clips import AttentionPool, build_clip_model, create_clip_model
from gpt4image.train.data import ImageInputs
from gpt4image.train.frozen import split_model
from gpt4image.train.objective import mix_images
from gpt4image.train.run import load_backbone
from gpt4image.train.transforms import augmented_view, preprocessing, seed_everything
from support.clips import write_clip_set
from support.training import LetterEncoder, StoppedError, observe, same_weights

SMALL = Recipe(
    backbone="test_resnet",
    pretrained=False,
    image_size=32,
    epochs=2,
    batch_size=4,
    warmup_epochs=0.0,
    projector="mlp-ln",
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = write_clip_set(tmp_path_factory.mktemp("clips") / "set")
    return load_images(folder, frames=4, work=folder.parent / "work", validation_share=0.2, test_share=0.2)


@pytest.fixture(scope="module")
def store(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"{path},A square moves {path.partition('/')[0]}." for path in clips.rows["path"].to_pylist()]
    (folder / "texts.csv").write_text("\n".join(["path,text", *lines]))
    return embed_descriptions(load_descriptions(clips, str(folder / "texts.csv")), LetterEncoder(), folder / "letters")


def test_mean_of_the_frames_is_that_of_a_plain_loop():
    seed_everything(0)
    model = create_clip_model("test_resnet", 3, "mean", {}).eval()
    clip = torch.randn(2, 5, 3, 32, 32)
    body = timm.create_model("test_resnet", num_classes=0).eval()
    body.load_state_dict(model.body.state_dict())
    features = torch.stack([torch.stack([body(frame[None])[0] for frame in frames]).mean(dim=0) for frames in clip])
    torch.testing.assert_close(model(clip), model.head(features), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probe_feature(model, clip), features, rtol=1e-4, atol=1e-5)


def test_attention_weighs_frames_as_the_formula_says():
    torch.manual_seed(0)
    pool, frames = AttentionPool(6).double(), torch.randn(2, 4, 6, dtype=torch.float64)
    v, w = pool.hidden.weight, pool.weight.weight[0]
    for found, clip in zip(pool(frames), frames, strict=True):
        scores = torch.stack([w @ torch.tanh(v @ frame) for frame in clip]).exp()
        torch.testing.assert_close(found, sum(s / scores.sum() * f for s, f in zip(scores, clip, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r3d_18", "s3d"])
def test_video_models_are_those_of_torchvision_with_another_classifier(name):
    seed_everything(0)
    model = build_clip_model(Recipe(backbone=f"video:{name}"), 3, pretrained=False).eval()
    assert find_classifier(model).in_features == {"r3d_18": 512, "s3d": 1024}[name]
    whole = torchvision.models.get_model(name, weights=None).eval()
    whole.load_state_dict(model.body.state_dict(), strict=False)
    last = whole.fc if name == "r3d_18" else whole.classifier[1]
    with torch.no_grad():
        last.weight[:3] = model.head.weight.view(last.weight[:3].shape)
        last.bias[:3] = model.head.bias
        clip = torch.randn(1, 16, 3, 64, 64) if name == "r3d_18" else torch.randn(1, 16, 3, 224, 224)
        torch.testing.assert_close(model(clip), whole(clip.transpose(1, 2))[:, :3], rtol=1e-4, atol=1e-5)


def test_video_models_have_the_preprocessing_of_torchvision():
    model = build_clip_model(Recipe(backbone="video:r3d_18"), 3, pretrained=False)
    config = preprocessing(model, 112)
    own = torchvision.models.video.R3D_18_Weights.DEFAULT.transforms()
    assert (list(config["mean"]), list(config["std"])) == (own.mean, own.std)
    assert config["crop_pct"] == pytest.approx(112 / 128) and config["interpolation"] == "bilinear"


def test_frames_of_a_clip_are_augmented_alike(clips):
    config = preprocessing(timm.create_model("test_resnet"), 32)
    view = augmented_view(replace(SMALL, color_jitter=0.3, random_erase=1.0), config)
    same = replace(clips, reader=StillReader(clips))
    frames = ImageInputs(same, np.arange(3), view, seed=1)[(0, 0)]
    assert frames.shape == (4, 3, 32, 32) and all(torch.equal(frame, frames[0]) for frame in frames)
    other = ImageInputs(same, np.arange(3), view, seed=1)[(1, 0)]
    assert not torch.equal(frames, other)


class StillReader:
    """Reads clips in which nothing moves."""

    def __init__(self, clips):
        self.clips = clips

    def read(self, path, row):
        from gpt4image.images.clips import pack_frames, unpack_frames

        clip_id, frames = unpack_frames(self.clips.reader.read(path, row), path)
        return pack_frames(clip_id, frames[:1] * len(frames))


def test_frames_of_a_clip_are_mixed_alike():
    inputs = torch.randn(4, 1, 3, 16, 16).expand(4, 5, 3, 16, 16).clone()
    for settings in ({"mixup": 0.8}, {"cutmix": 1.0}):
        seed_everything(3)
        mixed, mixing = mix_images(replace(SMALL, **settings), inputs.clone())
        assert mixed.shape == inputs.shape and not torch.equal(mixed, inputs)
        assert all(torch.equal(mixed[:, at], mixed[:, 0]) for at in range(5))
        torch.testing.assert_close(mixing.sum(dim=1), torch.ones(4))


def test_frozen_stem_of_the_frames_is_split_off_exactly():
    seed_everything(0)
    model = create_clip_model("test_resnet", 3, "attention", {}).eval()
    sample = torch.randn(2, 3, 3, 32, 32)
    stem, rest = split_model(model, ["body.conv1", "body.bn1", "body.act1", "body.maxpool", "body.layer1"], sample)
    features = stem(sample)
    assert features.shape[:2] == (2, 3)
    torch.testing.assert_close(rest(features), model(sample))


def test_run_that_was_killed_ends_with_the_same_weights(clips, store, tmp_path, monkeypatch):
    recipe = replace(SMALL, frame_pooling="attention", mixup=0.2)
    whole = train_model(clips, store, recipe, tmp_path / "whole", arm="described")
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=3)
        train_model(clips, store, recipe, tmp_path / "killed", arm="described", checkpoint_seconds=0)
    resumed = train_model(clips, store, recipe, tmp_path / "killed", arm="described")
    assert same_weights(whole.layout.weights, resumed.layout.weights)
    assert open_run(tmp_path / "killed").frames == FrameChoice(4)
    assert "pool.weight.weight" in load_backbone(resumed).state_dict()


def test_other_frames_and_pools_are_other_runs(clips, tmp_path):
    first = train_model(clips, None, replace(SMALL, epochs=1), tmp_path / "run", arm="baseline")
    other = load_images(clips.source, frames=2, validation_share=0.2, test_share=0.2)
    second = train_model(other, None, replace(SMALL, epochs=1), tmp_path / "run", arm="baseline")
    assert second.layout.folder != first.layout.folder and second.frames == FrameChoice(2)
    before = predict_test_images(first, clips).logits
    assert not np.array_equal(before, predict_test_images(first, other).logits)
    np.testing.assert_array_equal(predict_test_images(first, clips).logits, before)


def test_cached_features_of_frames_train_like_whole_models(clips, tmp_path):
    frozen = replace(SMALL, epochs=1, freeze=("body.conv1", "body.bn1", "body.act1", "body.maxpool", "body.layer1"))
    run = train_model(clips, None, replace(frozen, cached_views=1), tmp_path / "cached", arm="baseline")
    (features,) = (np.load(path, mmap_mode="r") for path in (tmp_path / "cached").glob("*/train-*.npy"))
    assert features.shape[:2] == (len(clips.split("train")), 4)
    assert run.best_accuracy >= 0


def test_teachers_of_images_see_the_frames_one_by_one(clips, tmp_path):
    torch.manual_seed(0)
    body = timm.create_model("test_resnet", num_classes=1)
    torch.save(body.state_dict(), tmp_path / "weights.pt")
    teacher = load_teacher("timm:test_resnet", checkpoint=tmp_path / "weights.pt", image_size=32)
    found = embed_images(clips, teacher, tmp_path / "store")
    row = int(clips.split("train")[0])
    frames = torch.stack(clips.over_frames(row, lambda frame: teacher.preparation.plain(frame.decode())))
    mean = teacher.predict(frames).mean(axis=0)
    vector = found.take(found.find(clips.ids[[row]]))[0]
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=2e-3)
    other = embed_images(replace(clips, frames=FrameChoice(3)), teacher, tmp_path / "store")
    assert other.manifest.revision != found.manifest.revision


def test_run_of_clips_is_a_teacher_of_clips(clips, image_set, tmp_path):
    run = train_model(clips, None, replace(SMALL, epochs=1), tmp_path / "run", arm="baseline")
    teacher = load_teacher(f"run:{run.layout.folder}")
    labels = label_images(clips, teacher, tmp_path / "labels", splits=("test",), temperature=1.0)
    rows = clips.split("test")
    logits = predict_test_images(run, clips).logits
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(labels.take(labels.find(clips.ids[rows])), probabilities, atol=1e-4)
    with pytest.raises(ConfigError, match="takes clips"):
        label_images(load_images(image_set), teacher, tmp_path / "other")


def test_settings_that_do_not_work_with_clips_are_refused(clips, tmp_path):
    def train(**changes):
        train_model(clips, None, replace(SMALL, epochs=1, **changes), tmp_path / "run", arm="baseline")

    with pytest.raises(ConfigError, match="align_at names modules that see single frames"):
        train(align_at=("layer1",))
    with pytest.raises(ConfigError, match="video model of torchvision"):
        train(backbone="video:r3d")
    with pytest.raises(ConfigError, match="cached_views do not work with video:r3d_18"):
        train(backbone="video:r3d_18", freeze=("body.stem",), cached_views=1)
    with pytest.raises(ConfigError, match="video:r3d_18 sees all at once: leave it at mean"):
        train(backbone="video:r3d_18", frame_pooling="attention")


@pytest.mark.slow
def test_video_model_says_how_many_frames_it_takes(clips, tmp_path):
    recipe = replace(SMALL, backbone="video:mvit_v2_s", image_size=224)
    with pytest.raises(ConfigError, match=r"does not accept 4 frames of 224 x 224 pixels .*such as 16"):
        train_model(clips, None, recipe, tmp_path / "run", arm="baseline")


@pytest.mark.slow
def test_video_model_trains_and_is_opened_again(clips, store, tmp_path):
    recipe = replace(SMALL, backbone="video:r3d_18", epochs=1)
    run = train_model(clips, store, recipe, tmp_path / "run", arm="described")
    assert isinstance(load_backbone(run).head, nn.Linear)
    assert predict_test_images(run, clips).logits.shape == (len(clips.split("test")), 3)
