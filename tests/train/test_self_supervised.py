"""Self-supervised partners: their losses, their teacher, and runs that train with them before the labels."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, log_softmax

from gpt4image import train_model
from gpt4image.core.errors import ConfigError, MissingExtraError
from gpt4image.train.loop import clip_gradients
from gpt4image.train.self_supervised import DINO_MOMENTUM, Dino, PartneredModel, SimSiam, make_partner
from support.training import StoppedError, observe, same_weights


def two(width: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, width, generator=generator), torch.randn(4, width, generator=generator)


def test_simsiam_is_the_published_loss_and_stops_the_gradient_of_what_is_predicted():
    partner, (first, second) = SimSiam(6).double(), [part.double().requires_grad_() for part in two()]
    loss = partner(first, second, (first, second))
    one, other = partner.projector(first), partner.projector(second)
    pairs = ((partner.predictor(one), other.detach()), (partner.predictor(other), one.detach()))
    total = torch.zeros((), dtype=torch.float64)
    for predicted, wanted in pairs:
        for row in range(4):
            total = total - cosine_similarity(predicted[row], wanted[row], dim=0) / 8
    torch.testing.assert_close(loss.double(), total, atol=1e-6, rtol=1e-6)
    expected = torch.autograd.grad(total, [first, second], retain_graph=True)
    for found, wanted in zip(torch.autograd.grad(loss, [first, second]), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_dino_asks_a_teacher_that_follows_the_model_and_is_not_trained():
    backbone = timm.create_model("test_resnet", num_classes=3)
    views = tuple(torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    partner = Dino(backbone.num_features, backbone).train()
    assert partner.head.training and not (partner.teacher.training or partner.teacher_head.training)
    features = [torch.randn(2, backbone.num_features, requires_grad=True) for _ in views]
    with torch.no_grad():
        asked = [
            partner.teacher_head(partner.teacher.forward_head(partner.teacher.forward_features(view), True)) / 0.04
            for view in views
        ]
    loss = partner(features[0], features[1], views)
    said = [log_softmax(partner.head(part) / 0.1, dim=1) for part in features]
    expected = -sum((asked[a].softmax(dim=1) * said[b]).sum(dim=1).mean() for a, b in ((0, 1), (1, 0))) / 2
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    loss.backward()
    assert all(part.grad is None for part in partner.teacher.parameters()) and features[0].grad is not None

    before = partner.teacher.fc.weight.clone()
    (_, own), (_, its) = (next(head.named_parameters()) for head in (partner.head, partner.teacher_head))
    with torch.no_grad():
        own += 1
        backbone.fc.weight += 1
        backbone.bn1.running_mean += 2
    partner.follow(backbone, 0.0)
    torch.testing.assert_close(partner.teacher.fc.weight, before + 1 - DINO_MOMENTUM)
    torch.testing.assert_close(own - its, torch.full_like(own, DINO_MOMENTUM))
    assert torch.equal(partner.teacher.bn1.running_mean, backbone.bn1.running_mean)
    partner.follow(backbone, 1.0)
    torch.testing.assert_close(partner.teacher.fc.weight, before + 1 - DINO_MOMENTUM)


@pytest.mark.parametrize("arm", ["simsiam-pretraining", "text+dino-pretraining"])
def test_partner_trains_before_the_labels_without_mixing(images, store, small_recipe, tmp_path, monkeypatch, arm):
    def note(objective, model, batch):
        return objective.label_weight, objective.self_supervised_weight, objective.weight, batch.inputs, batch.second

    seen = observe(monkeypatch, note)
    mixed = []
    monkeypatch.setattr(
        "gpt4image.train.objective.mix_images",
        lambda _, inputs, among: mixed.append(1) or (inputs, torch.eye(len(inputs))),
    )
    vectors = store if arm.startswith("text") else None
    run = train_model(images, vectors, small_recipe(mixup=0.2, self_supervised_weight=0.5), tmp_path / "run", arm=arm)
    half = len(seen) // 2
    assert [(label, partner) for label, partner, *_ in seen] == [(0.0, 0.5)] * half + [(1.0, 0.0)] * half
    assert all((weight > 0) == (vectors is not None) for *_, weight, _, _ in seen[:half]) or vectors is None
    assert all(second is not None and not torch.equal(inputs, second) for *_, inputs, second in seen[:half])
    assert all(second is None for *_, second in seen[half:]) and len(mixed) == half
    first, last = run.history
    assert first["self_supervised_loss"] and "self_supervised_loss" not in last
    assert bool(first["alignment_loss"]) == (vectors is not None)


def test_second_view_of_cached_features_is_the_next_one(images, small_recipe, tmp_path, monkeypatch):
    frozen = ("conv1", "bn1", "maxpool", "layer1", "layer2")
    recipe = small_recipe(freeze=frozen, cached_views=2, crop_scale=(0.3, 0.5))
    seen = observe(monkeypatch, lambda _, __, batch: (batch.inputs, batch.second))
    train_model(images, None, recipe, tmp_path / "run", arm="simsiam-pretraining")
    assert not torch.equal(*seen[0])
    with pytest.raises(ConfigError, match="cached_views to 2 or more"):
        replace(recipe, cached_views=1, labels_from=0.5, self_supervised="simsiam")


def test_killed_pretraining_with_a_teacher_ends_like_an_uninterrupted_one(images, small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(ema_decay=0.9)
    whole = train_model(images, None, recipe, tmp_path / "whole", arm="dino-pretraining")
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=2)
        train_model(images, None, recipe, tmp_path / "killed", arm="dino-pretraining", checkpoint_seconds=0)
    killed = train_model(images, None, recipe, tmp_path / "killed", arm="dino-pretraining")
    assert same_weights(whole.layout.weights, killed.layout.weights)


def test_unlabelled_images_take_part_without_a_text(half_labelled, small_recipe, tmp_path, monkeypatch):
    seen = observe(monkeypatch, lambda _, __, batch: batch.labels)
    train_model(half_labelled, None, small_recipe(), tmp_path / "run", arm="simsiam-pretraining")
    assert any((labels < 0).any() for labels in seen[: len(seen) // 2])


def test_unneeded_partner_gives_every_parameter_a_gradient_of_zero():
    backbone = timm.create_model("test_resnet", num_classes=3)
    model = PartneredModel(SimSiam(backbone.num_features), backbone)
    output = model(torch.randn(2, 3, 32, 32))
    (output.logits.sum() + output.self_supervised).backward()
    assert output.self_supervised == 0
    assert all((part.grad == 0).all() for part in model.partner.parameters())


def test_partner_before_no_label_or_without_its_library_is_refused(small_recipe, monkeypatch):
    with pytest.raises(ConfigError, match=r"set labels_from above 0, such as 0\.5"):
        small_recipe(self_supervised="dino")
    with pytest.raises(ConfigError, match=r"self_supervised and consistency .* exclude each other"):
        small_recipe(self_supervised="dino", labels_from=0.5, consistency=1.0)
    monkeypatch.setattr("gpt4image.train.libraries.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"self_supervised needs lightly.*gpt4image\[ssl\]"):
        make_partner("dino", nn.Linear(2, 2), 2)


@pytest.mark.parametrize("name", ["simsiam", "dino"])
def test_gradients_of_backbone_and_partner_are_clipped_each_by_its_own_norm(name):
    backbone = timm.create_model("test_resnet", num_classes=3)
    model = PartneredModel(make_partner(name, backbone, backbone.num_features), backbone)
    images = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (100 * model(images[0], second=images[1]).self_supervised).backward()
    before = {key: part.grad.clone() for key, part in model.named_parameters() if part.grad is not None}
    accelerator = SimpleNamespace(unscale_gradients=lambda: None)
    clip_gradients(SimpleNamespace(plain_model=model, accelerator=accelerator), 0.5)
    for start in ("backbone.", "partner."):
        own = {key: gradient for key, gradient in before.items() if key.startswith(start)}
        norm = sum(float((gradient.double() ** 2).sum()) for gradient in own.values()) ** 0.5
        assert norm > 1
        for key, gradient in own.items():
            torch.testing.assert_close(model.get_parameter(key).grad, gradient * (0.5 / norm), atol=1e-6, rtol=1e-4)
