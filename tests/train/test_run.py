"""Training runs: what they learn, what identifies them, and what they refuse."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from gpt4image import open_run, train_model
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.errors import BusyError, ConfigError, Gpt4ImageError
from gpt4image.core.files import exclusive
from gpt4image.train.backbone import build_backbone
from gpt4image.train.run import load_backbone
from support.training import StoppedError, observe, same_weights


@pytest.mark.parametrize(
    ("backbone", "image_size"),
    [("test_resnet", 32), ("convnext_atto", 32), ("vit_tiny_patch16_224", 32), ("mobilenetv3_small_050", 32)],
)
def test_any_backbone_trains_and_saves_a_plain_timm_model(images, store, small_recipe, tmp_path, backbone, image_size):
    recipe = small_recipe(backbone=backbone, image_size=image_size, epochs=1, drop_path=0.1)
    run = train_model(images, store, recipe, tmp_path / "run")
    options = {"img_size": image_size} if backbone.startswith("vit") else {}
    plain = timm.create_model(backbone, num_classes=3, checkpoint_path=str(run.layout.weights), **options)
    assert not any("projector" in key for key in load_file(run.layout.weights))
    torch.testing.assert_close(plain.state_dict(), load_backbone(run).state_dict())
    assert run.history[0]["alignment_loss"] > 0


def test_history_has_the_learning_rate_of_each_epochs_last_step(images, store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=3, lr=1e-3, warmup_epochs=2.0, schedule="cosine")
    run = train_model(images, store, recipe, tmp_path / "run")
    assert [epoch["learning_rate"] for epoch in run.history] == pytest.approx([5e-4, 1e-3, recipe.min_lr])


@pytest.mark.slow
def test_training_learns_and_predicts_test_images_once(images, store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=8, lr=3e-3, crop_scale=(0.8, 1.0))
    run = train_model(images, store, recipe, tmp_path / "run")
    answers = predict_test_images(run, images)
    assert (answers.logits.argmax(axis=1) == answers.labels).mean() > 0.8
    assert run.history[-1]["alignment_loss"] < run.history[0]["alignment_loss"]

    stored = run.layout.folder / "test.safetensors"
    before = stored.stat().st_mtime_ns
    assert np.array_equal(predict_test_images(run, images).logits, answers.logits)
    assert stored.stat().st_mtime_ns == before


def test_arms_share_initial_weights_and_batches(images, store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, weight=0.0, drop_path=0.2, mixup=0.4, clip_grad=None)
    runs = [train_model(images, store, recipe, tmp_path / arm, arm=arm) for arm in ("baseline", "described")]
    assert same_weights(*(run.layout.weights for run in runs))


def test_seeds_give_different_weights(images, small_recipe, tmp_path):
    runs = [
        train_model(images, None, small_recipe(epochs=1), tmp_path / str(s), arm="baseline", seed=s) for s in (0, 1)
    ]
    weights = [load_file(run.layout.weights) for run in runs]
    assert not torch.equal(weights[0]["fc.weight"], weights[1]["fc.weight"])


def test_settings_may_change_before_the_first_checkpoint(images, small_recipe, tmp_path):
    """Following an error's advice must not lead to the next error."""
    with pytest.raises(ConfigError, match="pretrained off"):
        train_model(images, None, small_recipe(pretrained=True, epochs=1), tmp_path / "run", arm="baseline")
    run = train_model(images, None, small_recipe(epochs=1), tmp_path / "run", arm="baseline")
    assert not run.recipe.pretrained


def test_run_of_different_settings_gets_its_own_folder(images, store, small_recipe, tmp_path, capfd):
    first = train_model(images, store, small_recipe(epochs=1), tmp_path / "run")
    second = train_model(images, store, small_recipe(epochs=1, lr=0.5, weight=0.1), tmp_path / "run")
    assert first.layout.folder == tmp_path / "run"
    assert second.layout.folder.name.startswith("run-")
    assert not same_weights(first.layout.weights, second.layout.weights)
    said = " ".join(capfd.readouterr().err.split())
    assert "the learning rate was 0.001, is 0.5; the weight of the alignment was 0.3, is 0.1" in said
    finished = [run.layout.result.stat().st_mtime_ns for run in (first, second)]
    for run in (first, second):
        assert train_model(images, store, run.recipe, tmp_path / "run").layout.folder == run.layout.folder
    assert [run.layout.result.stat().st_mtime_ns for run in (first, second)] == finished


@pytest.mark.slow
def test_unfinished_run_is_resumed_in_its_own_folder(images, store, small_recipe, tmp_path, monkeypatch):
    train_model(images, store, small_recipe(epochs=1), tmp_path / "run")
    recipe = small_recipe(epochs=3, lr=0.5)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=5)
        train_model(images, store, recipe, tmp_path / "run", checkpoint_seconds=0)
    (folder,) = tmp_path.glob("run-*")
    assert (folder / "checkpoint.pt").exists()
    resumed = train_model(images, store, recipe, tmp_path / "run")
    assert (resumed.layout.folder, len(resumed.history)) == (folder, 3)


def test_baseline_does_not_depend_on_the_settings_of_the_alignment(images, store, small_recipe, tmp_path):
    first = train_model(images, None, small_recipe(epochs=1), tmp_path / "base", arm="baseline")
    other_text = small_recipe(epochs=1, weight=9.0, texts="mean")
    again = train_model(images, store, other_text, tmp_path / "base", arm="baseline")
    assert again.layout.folder == first.layout.folder


def test_run_does_not_depend_on_test_images(images, small_recipe, tmp_path):
    first = train_model(images, None, small_recipe(epochs=1), tmp_path / "run", arm="baseline")
    fewer = np.setdiff1d(np.arange(len(images)), images.split("test")[:1])
    less = replace(images, rows=images.rows.take(fewer))
    assert train_model(less, None, small_recipe(epochs=1), tmp_path / "run", arm="baseline").layout == first.layout
    fewer = np.setdiff1d(np.arange(len(images)), images.split("train")[:1])
    less = replace(images, rows=images.rows.take(fewer))
    assert train_model(less, None, small_recipe(epochs=1), tmp_path / "run", arm="baseline").layout != first.layout


def test_arms_refuse_what_they_cannot_learn_from(images, store, small_recipe, tmp_path):
    with pytest.raises(ConfigError, match="pass their vectors"):
        train_model(images, None, small_recipe(), tmp_path / "new")
    with pytest.raises(ConfigError, match=r"Unknown arm 'descibed'\. Did you mean 'described'"):
        train_model(images, store, small_recipe(), tmp_path / "new", arm="descibed")


def test_setting_that_the_run_has_not_recorded_counts_as_the_default(images, small_recipe, tmp_path):
    """An earlier version, which did not have the setting, did what its default does."""
    run = train_model(images, None, small_recipe(epochs=1), tmp_path / "run", arm="baseline")
    settings = json.loads(run.layout.settings.read_text())
    assert settings["recipe"].pop("repeats") == 1
    run.layout.settings.write_text(json.dumps(settings))
    assert train_model(images, None, small_recipe(epochs=1), tmp_path / "run", arm="baseline").history == run.history
    other = train_model(images, None, small_recipe(epochs=1, repeats=2), tmp_path / "run", arm="baseline")
    assert other.layout.folder != run.layout.folder


def test_run_of_an_earlier_definition_of_the_loss_is_kept_but_not_reused(images, store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, loss="sigmoid")
    run = train_model(images, store, recipe, tmp_path / "run")
    settings = json.loads(run.layout.settings.read_text())
    assert train_model(images, store, recipe, tmp_path / "run").history == run.history
    del settings["loss_version"]
    run.layout.settings.write_text(json.dumps(settings))
    assert train_model(images, store, recipe, tmp_path / "run").layout.folder != run.layout.folder
    assert open_run(tmp_path / "run").recipe.loss == "sigmoid"


def test_weights_file_is_identified_by_its_content(images, small_recipe, tmp_path):
    weights = tmp_path / "start.safetensors"
    recipe, folders = small_recipe(epochs=1, checkpoint=str(weights)), set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(build_backbone(small_recipe(), 3).state_dict(), weights)
        folders.add(train_model(images, None, recipe, tmp_path / "run", arm="baseline").layout.folder)
    assert len(folders) == 2
    moved = small_recipe(epochs=1, checkpoint=str(weights.rename(tmp_path / "moved.safetensors")))
    assert train_model(images, None, moved, tmp_path / "run", arm="baseline").layout.folder in folders


def test_locked_run_is_refused(images, small_recipe, tmp_path):
    with (
        exclusive(tmp_path / "run" / "run.lock", "the run"),
        pytest.raises(BusyError, match="Another process is using the run"),
    ):
        train_model(images, None, small_recipe(), tmp_path / "run", arm="baseline")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamww"}, "Did you mean 'adamw'"),
        ({"auto_augment": "rnd-m9"}, "no auto_augment policy 'rnd-m9'"),
        ({"checkpoint": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_unavailable_setting_is_named(images, small_recipe, tmp_path, changes, message):
    with pytest.raises(Gpt4ImageError, match=message):
        train_model(images, None, small_recipe(**changes), tmp_path / "run", arm="baseline")


def test_soft_labels_alone_need_no_vectors(images, soft, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, weight=0.0, soft_labels=0.5)
    assert train_model(images, None, recipe, tmp_path / "run", soft_labels=[soft]).history[0]["alignment_loss"] is None


def test_soft_labels_that_the_recipe_does_not_use_are_refused(images, store, soft, small_recipe, tmp_path):
    with pytest.raises(ConfigError, match="ignores the given soft labels"):
        train_model(images, store, small_recipe(), tmp_path / "run", soft_labels=[soft])


def test_mixed_precision_trains(images, store, small_recipe, tmp_path):
    run = train_model(images, store, small_recipe(epochs=1, precision="bf16", ema_decay=0.9), tmp_path / "run")
    assert np.isfinite(run.history[0]["classification_loss"])
