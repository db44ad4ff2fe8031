"""Text encoders side by side: what a classifier on the vectors of each knows of images that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.labelling.labeller import label_by_vectors
from gpt4image.labelling.records import LabelQuality

HEADING = f"{'encoder':40} {'width':>6} {'cut':>8} {'right':>9} {'balanced':>9} {'NLL':>8}"
"""What stands above the lines."""


@dataclass(frozen=True)
class ComparedEncoder:
    """What one text encoder, or all of them side by side, knows of the classes.

    Attributes:
        name: its name; several joined by +.
        width: length of a vector, or of several side by side.
        cut: texts of which the end was not read, and all texts.
        quality: of a classifier on its vectors, for images that it has not seen.
    """

    name: str
    width: int
    cut: tuple[int, int]
    quality: LabelQuality

    def line(self) -> str:
        """One line of a table."""
        found, (cut, texts) = self.quality, self.cut
        return (
            f"{self.name:40.40} {self.width:6,} {cut / max(texts, 1):8.1%} {found.accuracy:9.1%} "
            f"{found.balanced_accuracy:9.1%} {found.negative_log_likelihood:8.3f}"
        )


def judge_encoders(
    images: ImageTable, stores: Sequence[EmbeddingStore], folder_of: Callable[[str], Path]
) -> list[ComparedEncoder]:
    """Judge a cross-fitted classifier on the vectors of each encoder; several are also judged side by side.

    Args:
        images: the images.
        stores: each encoder's vectors.
        folder_of: where the labels are kept that vectors of that name give.

    Returns:
        The encoders, the lowest negative log-likelihood first; those left out that no image can judge.
    """
    found = []
    for chosen in [*((store,) for store in stores), *([tuple(stores)] if len(stores) > 1 else [])]:
        name = "+".join(store.manifest.encoder for store in chosen)
        quality = label_by_vectors(images, chosen, folder_of(f"compared-{name}")).manifest.quality
        if quality is None:
            continue
        cut, texts = (sum(getattr(s.manifest, key) for s in chosen) for key in ("truncated", "distinct_texts"))
        found.append(ComparedEncoder(name, sum(store.width for store in chosen), (cut, texts), quality))
    return sorted(found, key=lambda each: each.quality.negative_log_likelihood)
