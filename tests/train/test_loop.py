"""The training loop: loss sums, gradients, schedules, and the weights that are kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gpt4image import train_model
from gpt4image.core.errors import TrainingError
from gpt4image.train.backbone import build_backbone
from gpt4image.train.loop import LossWatch, clear_errors
from gpt4image.train.transforms import seed_everything
from support.training import observe

LOSSES = torch.rand(10, 3, generator=torch.Generator().manual_seed(5))


def sums(interval: int, flushed: tuple[int, ...] = (), processes: int = 1) -> tuple[float, float, float]:
    """Sum the losses of ten steps, the same in every process; flush after some of them too."""
    watch = LossWatch(interval, lambda rows: [str(row) for row in rows], lambda own: own.repeat(processes, 1, 1))
    for step, losses in enumerate(LOSSES):
        watch.record(0, step, torch.tensor([step]), losses)
        if step in flushed:
            watch.flush()
            assert watch.flushed
    watch.flush()
    return watch.classification_sum, watch.alignment_sum, watch.self_supervised_sum


@pytest.mark.parametrize("processes", [1, 3])
def test_loss_watch_counts_every_step_once(processes):
    expected = [sum(float(losses[kind]) for losses in LOSSES) for kind in range(3)]
    assert sums(4, processes=processes) == pytest.approx(expected, rel=1e-6)


def test_loss_sums_do_not_depend_on_the_time_of_reading():
    assert len({sums(interval, flushed) for interval, flushed in ((1, ()), (3, ()), (100, ()), (4, (0, 1, 6)))}) == 1


def test_loss_watch_names_images_of_a_nan_loss():
    watch = LossWatch(2, lambda rows: [f"image {row}" for row in rows], lambda own: own)
    watch.record(1, 7, torch.tensor([3, 4]), torch.tensor([1.0, float("nan"), 0.0]))
    with pytest.raises(TrainingError, match=r"epoch 2, step 8.*image 3, image 4"):
        watch.flush()


def test_nan_loss_stops_training_and_names_step_and_images(images, small_recipe, tmp_path):
    with pytest.raises(TrainingError, match=r"epoch \d+, step \d+ .*\.png.*lower lr"):
        train_model(
            images,
            None,
            small_recipe(lr=1e18, clip_grad=None, optimizer="sgd", warmup_epochs=0),
            tmp_path / "run",
            arm="baseline",
        )
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_best_epoch_is_the_first_with_the_highest_validation_accuracy(images, small_recipe, tmp_path):
    run = train_model(images, None, small_recipe(epochs=5), tmp_path / "run", arm="baseline")
    accuracies = [epoch["validation_accuracy"] for epoch in run.history]
    assert run.best_epoch == int(np.argmax(accuracies))
    assert run.best_accuracy == max(accuracies)


@pytest.mark.slow
def test_accumulated_gradients_equal_those_of_the_whole_batch(images, small_recipe, tmp_path):
    """Without batch normalisation and without the contrastive loss, parts of a batch add up to it."""
    recipe = small_recipe(
        backbone="vit_tiny_patch16_224", epochs=1, optimizer="sgd", clip_grad=None, crop_scale=(1.0, 1.0)
    )
    whole = train_model(images, None, recipe, tmp_path / "whole", arm="baseline")
    parts = train_model(images, None, replace(recipe, accumulate=4), tmp_path / "parts", arm="baseline")
    a, b = load_file(whole.layout.weights), load_file(parts.layout.weights)
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)


def test_moving_average_is_saved(images, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1)
    plain = train_model(images, None, recipe, tmp_path / "plain", arm="baseline")
    slow = train_model(images, None, replace(recipe, ema_decay=0.999), tmp_path / "slow", arm="baseline")
    seed_everything(0)
    start = build_backbone(recipe, 3).state_dict()["fc.weight"]
    moved = load_file(plain.layout.weights)["fc.weight"] - start
    averaged = load_file(slow.layout.weights)["fc.weight"] - start
    assert 0 < averaged.norm() < 0.1 * moved.norm()


def test_loop_follows_all_schedules(images, store, soft, small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(
        epochs=4, soft_labels=0.5, soft_from=0.5, align_until=0.5, weight=0.4, weight_schedule="cosine", balance=0.2
    )
    seen = observe(
        monkeypatch, lambda objective, model, _: (objective.weight, objective.soft_share, float(model.input_tap.share))
    )
    train_model(images, store, recipe, tmp_path / "run", soft_labels=[soft])
    weights, shares, balances = zip(*seen, strict=True)
    half = len(seen) // 2
    assert weights[0] < 0.4 and list(weights[:half]) == sorted(weights[:half], reverse=True) and weights[half - 1] == 0
    assert set(weights[half:]) == {0.0}
    assert shares == (0.0,) * half + (0.5,) * half
    assert balances == pytest.approx([weight / 2 for weight in weights])


def test_text_pretraining_trains_on_texts_alone_and_then_on_labels_alone(
    images, store, small_recipe, tmp_path, monkeypatch
):
    recipe = small_recipe(epochs=4, warmup_epochs=0.5, lr=0.1, min_lr=0.0)
    seen = observe(monkeypatch, lambda objective, *_: (objective.label_weight > 0, objective.weight > 0))
    run = train_model(images, store, recipe, tmp_path / "run", arm="text-pretraining")
    half = len(seen) // 2
    assert seen == [(False, True)] * half + [(True, False)] * half
    rates = [epoch["learning_rate"] for epoch in run.history]
    assert rates[1] == rates[3] == 0.0 and rates[0] == rates[2] > 0  # a schedule for each part


def test_classifier_does_not_learn_before_the_labels_take_part(images, store, small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(epochs=2, weight_decay=0.0, labels_from=0.5)
    seen = observe(monkeypatch, lambda _, model, __: model.backbone.get_classifier().weight.detach().clone())
    train_model(images, store, recipe, tmp_path / "run")
    half = len(seen) // 2
    assert all(torch.equal(weight, seen[0]) for weight in seen[: half + 1])
    assert not torch.equal(seen[-1], seen[0])


def test_arms_that_do_not_align_train_on_labels_from_the_start(images, small_recipe, tmp_path, monkeypatch):
    seen = observe(monkeypatch, lambda objective, *_: objective.label_weight)
    recipe = small_recipe(epochs=1)
    run = train_model(images, None, replace(recipe, labels_from=0.5), tmp_path / "run", arm="baseline")
    assert set(seen) == {1.0}
    again = train_model(images, None, recipe, tmp_path / "run", arm="baseline")
    assert again.layout.folder == run.layout.folder  # the same run


def test_projector_gradients_do_not_shorten_backbone_steps(images, store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, weight=30.0, balance=1e-9, clip_grad=0.1, optimizer="momentum", lr=0.1)
    runs = [train_model(images, store, recipe, tmp_path / arm, arm=arm) for arm in ("baseline", "described")]
    a, b = (load_file(run.layout.weights) for run in runs)
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-5)


def no_compiler(*_):
    """A backend of torch.compile on a machine without a compiler."""
    raise RuntimeError("No working C++ compiler found")


@pytest.mark.parametrize(
    ("action", "remedy"),
    [
        (lambda: torch.empty(2**60), "grad_checkpointing"),
        (
            lambda: torch.compile(lambda x: x + 1, backend=no_compiler)(torch.ones(2)),
            "leave out compile",
        ),
    ],
)
def test_errors_of_torch_name_the_remedy(action, remedy):
    with pytest.raises(TrainingError, match=remedy), clear_errors():
        action()


def test_other_runtime_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="shapes"), clear_errors():
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_full_memory_of_a_gpu_ends_training_with_the_remedy(images, small_recipe, tmp_path, monkeypatch):
    def fill(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("gpt4image.train.loop.accumulate_gradients", fill)
    with pytest.raises(TrainingError, match=r"Tried to allocate 2.00 GiB.*accumulate"):
        train_model(images, None, small_recipe(), tmp_path, arm="baseline")
