"""A second text encoder, a view into running training, and comparison of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gpt4image.train.objective import Objective


class LetterEncoder:
    """Counts letters: a text encoder of another width than MiniLM."""

    name, revision, width, max_tokens = "letters", "1", 26, 10_000

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.asarray([[text.lower().count(chr(97 + at)) for at in range(26)] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


class StoppedError(Exception):
    """Stops a training from inside."""


def observe(patch: pytest.MonkeyPatch, note: Callable[..., Any], stop_after: int | None = None) -> list[Any]:
    """Collect `note(objective, model, batch)` of every batch; raise StoppedError after some batches."""
    losses, seen = Objective.losses, []

    def observed(objective, model, batch):
        seen.append(note(objective, model, batch))
        if stop_after is not None and len(seen) > stop_after:
            raise StoppedError
        return losses(objective, model, batch)

    patch.setattr(Objective, "losses", observed)
    return seen


def same_weights(first: Path, second: Path) -> bool:
    """Whether two weights files hold the same tensors, bit for bit."""
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def without_seconds(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**epoch, "seconds": 0} for epoch in history]
