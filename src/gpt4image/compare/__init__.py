"""Comparisons of training with and without text: arms x seeds, paired by seed. `records` does not import torch."""
