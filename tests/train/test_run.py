"""Runs: the right losses, exact resume, clear ends."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from gpt4image import AlignmentLoss, Recipe, train_model
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.errors import BusyError, ConfigError, Gpt4ImageError, TrainingError
from gpt4image.train.backbone import build_backbone
from gpt4image.train.data import Batch
from gpt4image.train.objective import Objective, class_targets, mix_images
from gpt4image.train.run import load_backbone


@pytest.mark.parametrize(
    ("backbone", "image_size"),
    [("resnet10t", 32), ("convnext_atto", 32), ("vit_tiny_patch16_224", 32), ("mobilenetv3_small_050", 32)],
)
def test_any_backbone_trains_and_leaves_a_plain_timm_model(images, store, small_recipe, tmp_path, backbone, image_size):
    import timm

    recipe = small_recipe(backbone=backbone, image_size=image_size, epochs=1, drop_path=0.1)
    run = train_model(images, store, recipe, tmp_path / "run")
    options = {"img_size": image_size} if backbone.startswith("vit") else {}
    plain = timm.create_model(backbone, num_classes=3, checkpoint_path=str(run.layout.weights), **options)
    assert not any("projector" in key for key in load_file(run.layout.weights))
    torch.testing.assert_close(plain.state_dict(), load_backbone(run).state_dict())
    assert run.history[0]["alignment_loss"] > 0


def test_learns_and_answers_test_images_once(images, store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=8, lr=3e-3, crop_scale=(0.8, 1.0))
    run = train_model(images, store, recipe, tmp_path / "run")
    answers = predict_test_images(run, images)
    assert (answers.logits.argmax(axis=1) == answers.labels).mean() > 0.8
    assert run.history[-1]["alignment_loss"] < run.history[0]["alignment_loss"]

    stored = run.layout.folder / "test.safetensors"
    before = stored.stat().st_mtime_ns
    assert np.array_equal(predict_test_images(run, images).logits, answers.logits)
    assert stored.stat().st_mtime_ns == before


def test_both_arms_start_alike_and_see_the_same(images, store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, weight=0.0, drop_path=0.2, mixup=0.4, clip_grad=None)
    runs = [train_model(images, store, recipe, tmp_path / arm, arm=arm) for arm in ("baseline", "described")]
    weights = [load_file(run.layout.weights) for run in runs]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_workers_change_nothing(images, several_store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, mixup=0.4, drop_path=0.3)
    runs = [train_model(images, several_store, recipe, tmp_path / str(n), workers=n) for n in (0, 2)]
    weights = [load_file(run.layout.weights) for run in runs]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("texts", ["random", "mean"])
def test_of_several_texts_training_takes_what_the_recipe_says(
    images, several_store, small_recipe, tmp_path, monkeypatch, texts
):
    seen = []

    whole = Objective.losses

    def observed(judge, model, batch):
        seen.append(batch)
        return whole(judge, model, batch)

    monkeypatch.setattr(Objective, "losses", observed)
    train_model(images, several_store, small_recipe(texts=texts), tmp_path / "run", seed=3)
    assert len(seen) % 2 == 0
    for number, batch in enumerate(seen):
        epoch = 2 * number // len(seen)
        expected, _ = several_store.lookup(images.ids[batch.rows.numpy()], texts, seed=3, epoch=epoch)
        assert torch.equal(batch.vectors[0], expected)


def test_of_single_texts_every_choice_is_the_same(images, store, small_recipe, tmp_path):
    runs = [train_model(images, store, small_recipe(epochs=1, texts=t), tmp_path / t) for t in ("random", "mean")]
    weights = [load_file(run.layout.weights) for run in runs]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_frozen_normalisation_keeps_its_statistics(images, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, freeze=("conv1", "bn1"))
    run = train_model(images, None, recipe, tmp_path / "run", arm="baseline")
    weights = load_file(run.layout.weights)
    assert weights["bn1.running_mean"].abs().max() == 0
    assert weights["layer1.0.bn1.running_mean"].abs().max() > 0


def test_stored_features_belong_to_their_weights(small_recipe):
    from gpt4image.train.frozen import stem_identity
    from gpt4image.train.transforms import preprocessing

    recipe = small_recipe(freeze=("conv1", "bn1"), cached_views=1)
    backbones = [build_backbone(recipe, 3) for _ in range(2)]
    config = preprocessing(backbones[0], 32)
    assert stem_identity(backbones[0], recipe, config) != stem_identity(backbones[1], recipe, config)
    backbones[1].load_state_dict(backbones[0].state_dict())
    assert stem_identity(backbones[0], recipe, config) == stem_identity(backbones[1], recipe, config)


def test_settings_can_change_until_something_was_trained(images, small_recipe, tmp_path):
    """Following an error's advice must not lead to the next error."""
    with pytest.raises(ConfigError, match="--no-pretrained"):
        train_model(images, None, small_recipe(pretrained=True, epochs=1), tmp_path / "run", arm="baseline")
    run = train_model(images, None, small_recipe(epochs=1), tmp_path / "run", arm="baseline")
    assert not run.recipe.pretrained


def test_seeds_differ(images, small_recipe, tmp_path):
    runs = [
        train_model(images, None, small_recipe(epochs=1), tmp_path / str(s), arm="baseline", seed=s) for s in (0, 1)
    ]
    weights = [load_file(run.layout.weights) for run in runs]
    assert not torch.equal(weights[0]["fc.weight"], weights[1]["fc.weight"])


def test_best_epoch_is_the_first_with_the_highest_validation_accuracy(images, small_recipe, tmp_path):
    run = train_model(images, None, small_recipe(epochs=5), tmp_path / "run", arm="baseline")
    accuracies = [epoch["validation_accuracy"] for epoch in run.history]
    assert run.best_epoch == int(np.argmax(accuracies))
    assert run.best_accuracy == max(accuracies)


def one_batch(inputs, labels, text, has_text):
    counts = torch.tensor([(labels >= 0).sum(), 0, has_text.sum()], dtype=torch.float32)
    ids = torch.arange(len(labels))
    return Batch(inputs, labels, (text,), (has_text,), torch.zeros(len(labels), 0), ids, ids, counts)


class FakeModel(torch.nn.Module):
    """A linear model in the place of an `AlignedModel`."""

    def __init__(self, aligned=True):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.aligned = torch.nn.Linear(3 * 8 * 8, 3 + 5), aligned

    def forward(self, inputs, targets=None, mixing=None):
        from gpt4image.align.aligned_model import AlignedOutput

        out = self.linear(inputs.flatten(1))
        loss = None
        if self.aligned and targets is not None:
            loss = AlignmentLoss("clip", 0.2)(
                out[:, 3:], targets.vectors[0], targets.known[0], mixing=mixing, total=targets.totals[0]
            )
        return AlignedOutput(out[:, :3], out[:, 3:], (out[:, 3:],), loss)


def objective(recipe):
    from accelerate import Accelerator

    return Objective(recipe, 3, Accelerator())


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_labels_and_texts_are_mixed_as_the_images_are(kind):
    """The mixing matrix reproduces the mixed images (mixup), or their areas (cutmix), and is applied to the targets."""
    torch.manual_seed(3)
    np.random.seed(3)
    recipe = Recipe(**{kind: 1.0}, label_smoothing=0.0)
    inputs = torch.arange(6.0)[:, None, None, None].expand(6, 3, 8, 8).clone()
    mixed, mixing = mix_images(recipe, inputs.clone())
    assert mixing.sum(dim=1).tolist() == pytest.approx([1.0] * 6)
    assert 0 < mixing[0, 0] < 1
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), mixing @ torch.arange(6.0), atol=1e-4, rtol=1e-4)

    recipe = replace(recipe, batch_size=6)
    model = FakeModel()
    inputs, text, labels = torch.randn(6, 3, 8, 8), torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    has_text = torch.tensor([True, True, True, False, True, True])
    np.random.seed(7)
    losses = objective(recipe).losses(model, one_batch(inputs.clone(), labels, text, has_text))
    np.random.seed(7)
    mixed, mixing = mix_images(recipe, inputs.clone())
    partner = torch.arange(5, -1, -1)
    share = mixing[0, 0].item()
    output = model(mixed)
    log = output.logits.log_softmax(dim=1)
    by_hand = -(share * log[range(6), labels] + (1 - share) * log[range(6), labels[partner]]).mean()
    assert losses[0].item() == pytest.approx(by_hand.item(), abs=1e-5)
    z, t = F.normalize(output.features, dim=1), F.normalize(text, dim=1)
    known = [i for i in range(6) if has_text[i]]
    total = 0.0
    for log in ((z @ t[known].T / 0.2).log_softmax(dim=1), (z @ t[known].T / 0.2).log_softmax(dim=0)):
        for i in range(6):
            for source, part in ((i, share), (int(partner[i]), 1 - share)):
                total -= part * log[i, known.index(source)].item() / 2 if source in known else 0.0
    assert losses[1].item() == pytest.approx(total / 5, abs=1e-5)


def test_classification_alone_is_plain_cross_entropy():
    labels = torch.tensor([0, 1, 2, 0])
    inputs = torch.randn(4, 3, 8, 8)
    batch = one_batch(inputs, labels, torch.zeros(4, 5), torch.zeros(4, dtype=torch.bool))
    model = FakeModel(aligned=False)
    classification, alignment = objective(Recipe(label_smoothing=0.1)).losses(model, batch)
    expected = F.cross_entropy(model(inputs).logits, labels, label_smoothing=0.1)
    assert classification.item() == pytest.approx(expected.item(), abs=1e-6)
    assert alignment.item() == 0


def test_soft_labels_take_a_share_and_unlabelled_images_count_by_theirs():
    labels = torch.tensor([0, 1, -1, -1])
    soft = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 0.0], [0.2, 0.2, 0.6], [0.0, 0.0, 0.0]])
    none = torch.zeros(4, dtype=torch.bool)
    batch = one_batch(torch.randn(4, 3, 8, 8), labels, torch.zeros(4, 5), none)._replace(soft=soft)
    batch = batch._replace(counts=torch.tensor([2.0, 1.0, 0.0]))
    found = class_targets(batch, 3, 0.0, 0.4)
    expected = torch.stack(
        [0.6 * torch.tensor([1.0, 0, 0]) + 0.4 * soft[0], torch.tensor([0.0, 1, 0]), 0.4 * soft[2], torch.zeros(3)]
    )
    torch.testing.assert_close(found, expected)
    judge, model = objective(Recipe(label_smoothing=0.0)), FakeModel(aligned=False)
    judge.soft_share = 0.4
    log = model(batch.inputs).logits.log_softmax(dim=1)
    assert judge.losses(model, batch)[0].item() == pytest.approx(-(expected * log).sum().item() / 2.4, abs=1e-6)
    judge.soft_share = 0.0
    assert judge.losses(model, batch)[0].item() == pytest.approx(-(log[0, 0] + log[1, 1]).item() / 2, abs=1e-6)


def test_accumulated_batch_has_the_gradient_of_the_whole(images, small_recipe, tmp_path):
    """Without batch normalisation and without the contrastive loss, parts of a batch add up to it."""
    recipe = small_recipe(
        backbone="vit_tiny_patch16_224", epochs=1, optimizer="sgd", clip_grad=None, crop_scale=(1.0, 1.0)
    )
    whole = train_model(images, None, recipe, tmp_path / "whole", arm="baseline")
    parts = train_model(images, None, replace(recipe, accumulate=4), tmp_path / "parts", arm="baseline")
    a, b = load_file(whole.layout.weights), load_file(parts.layout.weights)
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)


def test_moving_average_is_what_is_kept(images, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1)
    plain = train_model(images, None, recipe, tmp_path / "plain", arm="baseline")
    slow = train_model(images, None, replace(recipe, ema_decay=0.999), tmp_path / "slow", arm="baseline")
    from gpt4image.train.transforms import seed_everything

    seed_everything(0)
    start = build_backbone(recipe, 3).state_dict()["fc.weight"]
    moved = load_file(plain.layout.weights)["fc.weight"] - start
    averaged = load_file(slow.layout.weights)["fc.weight"] - start
    assert 0 < averaged.norm() < 0.1 * moved.norm()


def test_frozen_modules_stay_and_stored_features_train_the_same_rest(images, store, small_recipe, tmp_path):
    frozen = ("conv1", "bn1", "maxpool", "layer1", "layer2")
    recipe = small_recipe(epochs=2, freeze=frozen, cached_views=2)
    run = train_model(images, store, recipe, tmp_path / "run")
    from gpt4image.train.transforms import seed_everything

    seed_everything(0)
    start, weights = build_backbone(recipe, 3).state_dict(), load_file(run.layout.weights)
    for key, value in start.items():
        same = torch.equal(value, weights[key])
        assert same == key.startswith(frozen) or "num_batches" in key or key.endswith("bias"), key
    features = np.load(next(tmp_path.glob("run/*/train-*.npy")), mmap_mode="r")
    assert features.dtype == np.float16
    assert len(features) == 2 * len(images.split("train"))

    answers = predict_test_images(run, images)
    from gpt4image.train.transforms import evaluation_transform

    transform = evaluation_transform(run.preprocessing)
    batch = torch.stack([transform(images.image(int(row))) for row in answers.rows])
    with torch.no_grad():
        whole = load_backbone(run)(batch)
    np.testing.assert_allclose(answers.logits, whole.numpy(), atol=0.02)


def test_features_of_modules_that_do_not_come_first_are_refused(images, small_recipe, tmp_path):
    recipe = small_recipe(freeze=("conv1", "bn1", "layer1"), cached_views=1)
    with pytest.raises(ConfigError, match=r"Freeze these as well: .*maxpool"):
        train_model(images, None, recipe, tmp_path / "run", arm="baseline")
    with pytest.raises(ConfigError, match="Did you mean 'layer1'"):
        train_model(images, None, small_recipe(freeze=("layr1",)), tmp_path / "other", arm="baseline")
    recipe = small_recipe(backbone="vit_tiny_patch16_224", freeze=("patch_embed", "blocks.0"), cached_views=1)
    with pytest.raises(ConfigError, match="cached_views"):
        train_model(images, None, recipe, tmp_path / "vit", arm="baseline")


def test_loss_that_is_not_a_number_stops_with_step_and_images(images, small_recipe, tmp_path):
    with pytest.raises(TrainingError, match=r"epoch \d+, step \d+ .*\.png.*lower --lr"):
        train_model(
            images,
            None,
            small_recipe(lr=1e18, clip_grad=None, optimizer="sgd", warmup_epochs=0),
            tmp_path / "run",
            arm="baseline",
        )
    assert not (tmp_path / "run" / "result.json").exists()


def test_folder_of_other_settings_is_refused(images, store, small_recipe, tmp_path):
    train_model(images, store, small_recipe(epochs=1), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"recipe\.lr was 0\.001, is 0\.5"):
        train_model(images, store, small_recipe(epochs=1, lr=0.5), tmp_path / "run")
    train_model(images, None, small_recipe(epochs=1), tmp_path / "base", arm="baseline")
    with pytest.raises(ConfigError, match=r"recipe\.texts was 'random', is 'mean'"):
        train_model(images, store, small_recipe(epochs=1, texts="mean"), tmp_path / "run")
    other_text = small_recipe(epochs=1, weight=9.0, texts="mean")
    again = train_model(images, store, other_text, tmp_path / "base", arm="baseline")
    assert again.arm.name == "baseline"
    with pytest.raises(ConfigError, match="pass their embeddings"):
        train_model(images, None, small_recipe(), tmp_path / "new")
    with pytest.raises(ConfigError, match=r"Unknown arm 'descibed'\. Did you mean 'described'"):
        train_model(images, store, small_recipe(), tmp_path / "new", arm="descibed")


def test_two_processes_do_not_train_one_run(images, small_recipe, tmp_path):
    from gpt4image.core.files import exclusive

    with (
        exclusive(tmp_path / "run" / "run.lock", "the run"),
        pytest.raises(BusyError, match="Another process is at work"),
    ):
        train_model(images, None, small_recipe(), tmp_path / "run", arm="baseline")


def test_weights_file_with_another_classifier(images, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1)
    first = train_model(images, None, recipe, tmp_path / "first", arm="baseline")
    backbone = build_backbone(replace(recipe, checkpoint=str(first.layout.weights)), classes=7)
    stored = load_file(first.layout.weights)
    assert torch.equal(backbone.state_dict()["conv1.0.weight"], stored["conv1.0.weight"])
    assert backbone.get_classifier().out_features == 7
    with pytest.raises(ConfigError, match="does not hold the weights of this backbone"):
        build_backbone(replace(recipe, backbone="resnet18", checkpoint=str(first.layout.weights)), classes=3)
    (tmp_path / "broken.pth").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="cannot be read as model weights"):
        build_backbone(replace(recipe, checkpoint=str(tmp_path / "broken.pth")), classes=3)
    with pytest.raises(ConfigError, match="Unknown backbone 'resnet10'"):
        build_backbone(replace(recipe, backbone="resnet10"), classes=3)


def test_pretrained_weights_without_network_name_the_ways_out(small_recipe, monkeypatch):
    with pytest.raises(ConfigError, match=r"--checkpoint FILE.*--no-pretrained"):
        build_backbone(small_recipe(pretrained=True), classes=3)


def test_mixed_precision_trains(images, store, small_recipe, tmp_path):
    run = train_model(images, store, small_recipe(epochs=1, precision="bf16", ema_decay=0.9), tmp_path / "run")
    assert np.isfinite(run.history[0]["classification_loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamww"}, "Did you mean 'adamw'"),
        ({"auto_augment": "rnd-m9"}, "no auto_augment policy 'rnd-m9'"),
        ({"checkpoint": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_settings_that_cannot_be_had(images, small_recipe, tmp_path, changes, message):
    with pytest.raises(Gpt4ImageError, match=message):
        train_model(images, None, small_recipe(**changes), tmp_path / "run", arm="baseline")


def test_run_from_other_weights_under_the_same_name_is_not_taken_for_this_one(images, small_recipe, tmp_path):
    weights = tmp_path / "start.safetensors"
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(build_backbone(small_recipe(), 3).state_dict(), weights)
        if seed == 0:
            train_model(images, None, small_recipe(epochs=1, checkpoint=str(weights)), tmp_path / "run", arm="baseline")
    with pytest.raises(ConfigError, match="start was"):
        train_model(images, None, small_recipe(epochs=1, checkpoint=str(weights)), tmp_path / "run", arm="baseline")


TRAIN = """
import json, sys
from pathlib import Path
from gpt4image import EmbeddingStore, Recipe, load_images, train_model
data, store, out, recipe = sys.argv[1:]
images = load_images(data, validation_share=0.2, test_share=0.25)
from gpt4image.train.objective import Objective
plain = Objective.losses
def announced(judge, model, batch):
    print("step", flush=True)
    return plain(judge, model, batch)
Objective.losses = announced
train_model(images, EmbeddingStore(store), Recipe.from_dict(json.loads(recipe)), Path(out), checkpoint_seconds=0.0)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_does_no_step_again(images, several_store, image_set, small_recipe, tmp_path, workers):
    """The checkpoint that the time asks for is far away: the interrupt writes one."""
    recipe = small_recipe(epochs=20, mixup=0.3, ema_decay=0.9)
    script = tmp_path / "train.py"
    script.write_text(TRAIN.replace("checkpoint_seconds=0.0", f"checkpoint_seconds=600.0, workers={workers}"))
    store, out = str(several_store.layout.folder), tmp_path / "interrupted"
    arguments = [sys.executable, str(script), str(image_set), store, str(out), json.dumps(recipe.to_dict())]
    group = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(arguments, **group)
    done = [process.stdout.readline() for _ in range(4)]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: loading processes get it too
    out_rest, err = process.communicate()
    done += out_rest.splitlines()
    assert process.returncode != 0 and "KeyboardInterrupt" in err and "Stopping after this step" in err
    done += subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.splitlines()
    whole = train_model(images, several_store, recipe, tmp_path / "whole")
    assert len(done) == 20 * (len(images.split("train")) // 8)
    a, b = load_file(whole.layout.weights), load_file(out / "best.safetensors")
    assert all(torch.equal(a[key], b[key]) for key in a)
    losses = [(row["classification_loss"], row["alignment_loss"]) for row in whole.history]
    again = json.loads((out / "result.json").read_text())["history"]
    assert losses == [(row["classification_loss"], row["alignment_loss"]) for row in again]


def test_killed_run_ends_in_the_same_weights_bit_for_bit(images, several_store, image_set, small_recipe, tmp_path):
    recipe = small_recipe(epochs=4, mixup=0.3, drop_path=0.2, ema_decay=0.9, auto_augment="rand-m5", accumulate=2)
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    store = str(several_store.layout.folder)
    arguments = [str(image_set), store, str(tmp_path / "killed"), json.dumps(recipe.to_dict())]
    for steps in (1, 4):
        process = subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True)
        for _ in range(steps):
            assert process.stdout.readline() == "step\n"
        time.sleep(0.02 * steps)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True)

    whole = train_model(images, several_store, recipe, tmp_path / "whole")
    killed = json.loads((tmp_path / "killed" / "result.json").read_text())
    a, b = load_file(whole.layout.weights), load_file(tmp_path / "killed" / "best.safetensors")
    assert all(torch.equal(a[key], b[key]) for key in a)
    for mine, theirs in zip(whole.history, killed["history"], strict=True):
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}
