"""The objective against formulas written out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file

from gpt4image import AlignmentLoss, Recipe, embed_descriptions, train_model
from gpt4image.descriptions.description_set import join_texts
from gpt4image.tasks.classification import CLASSIFICATION
from gpt4image.train.data import Batch
from gpt4image.train.objective import Objective, mix_images


def one_batch(inputs, labels, text, has_text):
    counts = torch.tensor([(labels >= 0).sum(), 0, has_text.sum()], dtype=torch.float32)
    ids = torch.arange(len(labels))
    return Batch(inputs, labels, (text,), (has_text,), torch.zeros(len(labels), 0), ids, ids, counts)


class FakeModel(torch.nn.Module):
    """A linear model with the interface of `AlignedModel`."""

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
    return Objective(recipe, CLASSIFICATION, 3, Accelerator())


def test_consistency_mixes_labelled_images_with_each_other_alone():
    np.random.seed(3)
    inputs = torch.arange(7.0)[:, None, None, None].expand(7, 3, 8, 8).clone()
    mixed, mixing = mix_images(Recipe(mixup=1.0), inputs.clone(), torch.tensor([0, 2, 3, 4, 6]))
    share = mixing[0, 0].item()
    expected = torch.eye(7)
    for one, other in ((0, 4), (2, 3), (3, 2), (4, 0)):
        expected[one, one], expected[one, other] = share, 1 - share
    assert 0 < share < 1
    torch.testing.assert_close(mixing, expected)
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), mixing @ torch.arange(7.0), atol=1e-4, rtol=1e-4)
    unmixed, whole = mix_images(Recipe(mixup=1.0), inputs, torch.tensor([5]))
    assert torch.equal(unmixed, inputs) and torch.equal(whole, torch.eye(7))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_labels_and_texts_are_mixed_like_their_images(kind):
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


def test_objective_without_alignment_is_cross_entropy():
    labels = torch.tensor([0, 1, 2, 0])
    inputs = torch.randn(4, 3, 8, 8)
    batch = one_batch(inputs, labels, torch.zeros(4, 5), torch.zeros(4, dtype=torch.bool))
    model = FakeModel(aligned=False)
    classification, alignment, _ = objective(Recipe(label_smoothing=0.1)).losses(model, batch)
    expected = F.cross_entropy(model(inputs).logits, labels, label_smoothing=0.1)
    assert classification.item() == pytest.approx(expected.item(), abs=1e-6)
    assert alignment.item() == 0


def test_soft_labels_take_their_share_of_the_targets():
    labels = torch.tensor([0, 1, -1, -1])
    soft = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 0.0], [0.2, 0.2, 0.6], [0.0, 0.0, 0.0]])
    none = torch.zeros(4, dtype=torch.bool)
    batch = one_batch(torch.randn(4, 3, 8, 8), labels, torch.zeros(4, 5), none)._replace(soft=soft)
    batch = batch._replace(counts=torch.tensor([2.0, 1.0, 0.0]))
    found = CLASSIFICATION.targets(labels, soft, 3, 0.0, 0.4)
    expected = torch.stack(
        [0.6 * torch.tensor([1.0, 0, 0]) + 0.4 * soft[0], torch.tensor([0.0, 1, 0]), 0.4 * soft[2], torch.zeros(3)]
    )
    torch.testing.assert_close(found, expected)
    losses, model = objective(Recipe(label_smoothing=0.0)), FakeModel(aligned=False)
    losses.soft_share = 0.4
    log = model(batch.inputs).logits.log_softmax(dim=1)
    assert losses.losses(model, batch)[0].item() == pytest.approx(-(expected * log).sum().item() / 2.4, abs=1e-6)
    losses.soft_share = 0.0
    assert losses.losses(model, batch)[0].item() == pytest.approx(-(log[0, 0] + log[1, 1]).item() / 2, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cosine", "clip"])
def test_weight_of_alignment_does_not_depend_on_accumulation(
    images, descriptions, minilm, small_recipe, tmp_path, loss
):
    """With texts missing here and there: parts of a batch add up to the whole, where a loss looks at single images."""
    some = join_texts(images, list(descriptions.pairs())[::3], 0, "some")
    store = embed_descriptions(some, minilm, tmp_path / "some")
    recipe = small_recipe(
        backbone="vit_tiny_patch16_224", epochs=1, optimizer="momentum", momentum=0.0, clip_grad=None, lr=0.1,
        crop_scale=(1.0, 1.0), projector="mlp", loss=loss, weight=3.0,
    )  # fmt: skip
    whole = train_model(images, store, recipe, tmp_path / "whole")
    parts = train_model(images, store, replace(recipe, accumulate=4), tmp_path / "parts")
    a, b = load_file(whole.layout.weights), load_file(parts.layout.weights)
    difference = max((a[key] - b[key]).abs().max().item() for key in a)
    assert difference < 1e-4 if loss == "cosine" else difference > 1e-4
