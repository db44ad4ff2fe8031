"""Sampling parameters and random draws."""

from __future__ import annotations

import numpy as np
import torch
from transformers import (
    GenerationConfig,
)

from gpt4image.llm.base import Sampling
from gpt4image.llm.local.sampling import GenerationDefaults, GumbelSampler


def test_request_overrides_generation_defaults():
    config = GenerationConfig(do_sample=True, temperature=0.7, top_p=0.8, top_k=20)
    own = GenerationDefaults.take_over(config)
    assert own == GenerationDefaults(True, 0.7, 20, 0.8)
    assert not config.do_sample
    assert GenerationDefaults.take_over(GenerationConfig()) == GenerationDefaults()
    assert own.override(Sampling()) == own
    assert not own.override(Sampling(temperature=0, top_p=0.9)).do_sample
    assert own.override(Sampling(temperature=1.5)) == GenerationDefaults(True, 1.5, top_k=0)
    assert GenerationDefaults().override(Sampling(top_p=0.5)) == GenerationDefaults(True, top_k=0, top_p=0.5)


def test_gumbel_samples_follow_the_softmax():
    rows, logits = 20_000, torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
    defaults = GenerationDefaults(do_sample=True, temperature=0.8, top_k=4)
    noisy = GumbelSampler(defaults, range(rows), torch.device("cpu"))(
        torch.zeros(rows, 1).long(), logits.repeat(rows, 1)
    )
    shares = np.bincount(noisy.argmax(dim=1).numpy(), minlength=5) / rows
    weights = np.exp(np.where(np.arange(5) < 4, logits.numpy() / 0.8, -np.inf))
    expected = weights / weights.sum()
    assert shares[4] == 0
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.25 / rows))
