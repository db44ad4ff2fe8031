"""Label distributions."""

import torch

from gpt4image.align.mixing import label_targets


def test_label_targets_are_smoothed_and_zero_for_unknown_labels():
    found = label_targets(torch.tensor([1, -1, 0]), classes=4, smoothing=0.2)
    expected = [[0.05, 0.85, 0.05, 0.05], [0, 0, 0, 0], [0.85, 0.05, 0.05, 0.05]]
    torch.testing.assert_close(found, torch.tensor(expected))
