"""Text labels in trainers that are not ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt4image.core.errors import ConfigError
from gpt4image.integrations import soft_cross_entropy, text_labels


@pytest.fixture(scope="module")
def given(folder) -> np.ndarray:
    labels = np.array(folder.targets)
    labels[np.arange(len(labels)) % 3 > 0] = -1
    return labels


@pytest.fixture(scope="module")
def labels(targets, given, folder, tmp_path_factory):
    return text_labels(targets, given, folder.classes, work=tmp_path_factory.mktemp("labels"))


@pytest.mark.slow
def test_missing_labels_come_from_texts_and_given_ones_stay(labels, given, folder):
    assert len(labels) == len(folder) and labels.known.all()
    assert torch.allclose(labels.probabilities.sum(dim=1), torch.ones(len(labels)))
    found = labels.probabilities.argmax(dim=1).numpy()
    assert (found[given >= 0] == given[given >= 0]).all()
    assert (found == np.array(folder.targets)).mean() > 0.9  # the texts name the class
    assert any("labeller" in line for line in labels.lines())


def test_dataset_has_probabilities_in_place_of_labels(labels, folder):
    replaced = labels.replace(folder)
    picture, target = replaced[5]
    assert torch.equal(picture, folder[5][0]) and torch.equal(target, labels[5])
    rows = [{"pixel_values": n, "label": 0} for n in range(len(folder))]
    sample = labels.replace(rows)[7]
    assert sample["pixel_values"] == 7 and torch.equal(sample["label"], labels[7])
    with pytest.raises(ConfigError, match="the labels were made for 36"):
        labels.replace(rows[:3])


@pytest.mark.parametrize("wrong", [[0], [3] * 36, [-2] * 36])
def test_labels_that_do_not_fit_are_refused(targets, folder, tmp_path, wrong):
    with pytest.raises(ConfigError, match="a label from -1 to 2 for each of the 36"):
        text_labels(targets, wrong, folder.classes, work=tmp_path)


def test_soft_cross_entropy_matches_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    soft = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    soft[2] = 0  # a sample without a label
    expected = 0.0
    for row in range(5):
        total = sum(float(torch.exp(logits[row, k])) for k in range(3))
        expected -= sum(float(soft[row, k]) * (float(logits[row, k]) - float(np.log(total))) for k in range(3))
    assert soft_cross_entropy(logits, soft).item() == pytest.approx(expected / 5, abs=1e-12)
    # as the Trainer calls it with gradients accumulated over two such batches
    assert soft_cross_entropy({"logits": logits}, soft, 2 * soft.numel()).item() == pytest.approx(
        expected / 10, abs=1e-12
    )
    hard = torch.tensor([0, 1, 2, 0, 1])
    assert soft_cross_entropy(logits, hard, 10).item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, hard).item() / 2, abs=1e-12
    )
