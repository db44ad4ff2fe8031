"""The alignment beside any model: the loss of the method, a projector that learns, a model that stays as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from gpt4image import AlignmentLoss
from gpt4image.core.errors import ConfigError
from gpt4image.integrations import TextAlignment


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 24), nn.ReLU(), nn.Linear(24, 3))


def test_loss_is_weight_times_the_alignment_loss_of_the_projected_features(folder, targets):
    model = make_model()
    align = TextAlignment(model, targets, weight=0.7, loss=AlignmentLoss("infonce", 0.1)).eval()
    index = torch.tensor([3, 30, 17])
    pixels = torch.stack([folder[int(i)][0] for i in index])
    model(pixels)
    found = align(index)
    z = F.normalize(align.head.projector(model[:3](pixels)), dim=1).detach()
    t, known = targets[index].vectors[0], targets[index].known[0]
    rows = [row for row in range(3) if known[row]]
    expected = 0.0
    for i in rows:
        sums = sum(float(torch.exp(z[i] @ t[j] / 0.1)) for j in rows)
        expected -= float(torch.log(torch.exp(z[i] @ t[i] / 0.1) / sums)) / len(rows)
    assert found.item() == pytest.approx(0.7 * expected, rel=1e-4)


def test_training_in_plain_torch_brings_features_and_texts_together(folder, targets):
    model = make_model()
    align = TextAlignment(model, targets, weight=1.0)
    optimizer = torch.optim.AdamW([*model.parameters(), *align.parameters()], lr=3e-3)
    losses = []
    for _ in range(6):
        for pixels, labels, index in DataLoader(targets.indexed(folder), batch_size=12, shuffle=False):
            aligned = None
            loss = F.cross_entropy(model(pixels), labels) + (aligned := align(index))
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            losses.append(aligned.item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_state_of_a_model_does_not_mention_the_alignment_that_is_part_of_it(targets):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(x)

    model = Classifier()
    model.align = TextAlignment(model, targets)
    assert set(model.state_dict()) == {"fc.weight", "fc.bias"}
    assert len(list(model.parameters())) > 2
    before = model.align.state_dict()
    assert before
    model.load_state_dict({"fc.weight": torch.zeros(3, 8), "fc.bias": torch.ones(3)})  # strict
    assert all(torch.equal(value, before[name]) for name, value in model.align.state_dict().items())
    other = TextAlignment(Classifier(), targets)
    other.load_state_dict(before)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_removed_alignment_leaves_no_hook_behind(targets):
    model = make_model()
    align = TextAlignment(model, targets)
    align.remove()
    assert not any(part._forward_pre_hooks for part in model.modules())
    align.attach()
    model(torch.zeros(2, 3, 16, 16))
    assert align([0, 1]).requires_grad


def test_model_without_a_linear_layer_must_name_its_classifier(targets):
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1))
    with pytest.raises(ConfigError, match="has no linear layer: pass its last layer"):
        TextAlignment(model, targets)
    assert TextAlignment(model, targets, classifier=model[1]).head.projector[0].in_features == 6
