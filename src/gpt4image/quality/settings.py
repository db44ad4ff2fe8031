"""Settings of a check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from gpt4image.train.frozen_features import FrozenBackbone


@dataclass(frozen=True)
class CheckSettings:
    """What descriptions are held against, and with what they are read.

    Attributes:
        splits: splits that were to be described; those in which anything is described when not given.
        prompt_file: TOML file with prompts beside the built-in ones.
        told: whether the class was known when texts were written whose prompt is not known; None where nobody knows.
        language: language the texts should be in, ISO 639-1; that of most texts when not given.
        encoder: text encoder; None leaves out all that needs vectors.
        long_text: what is done with texts that are longer than the encoder reads.
        embed_batch: texts encoded at a time.
        backbone: backbone whose frozen features the texts are set beside; None leaves that out.
        series: for each row of the image table a value that images of one series share, so that they lie in one fold.
        seed: seed of folds and choices.
    """

    splits: tuple[str, ...] | None = None
    prompt_file: Path | None = None
    told: bool | None = None
    language: str | None = None
    encoder: str | None = "minilm"
    long_text: Literal["truncate", "pool"] = "truncate"
    embed_batch: int = 64
    backbone: FrozenBackbone | None = None
    series: np.ndarray | None = None
    seed: int = 0
