"""The text space that a run was aligned with: its heads, kept beside the backbone, put images and texts into it.

What is deployed stays a plain backbone; the heads serve search and answers for classes that were never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from gpt4image.align.aligned_model import AlignedModel
from gpt4image.align.head import AlignmentHead
from gpt4image.align.pairs import unit_length
from gpt4image.align.projector import Projector
from gpt4image.align.text import Moments, TextAdapter, TextTransform
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import digest
from gpt4image.embed.encoders import load_encoder
from gpt4image.embed.runner import encode_batch
from gpt4image.train.family import DETECTORS, find_family
from gpt4image.train.heads import HeadRecord, read_heads
from gpt4image.train.run import TrainedRun, load_backbone

if TYPE_CHECKING:
    from gpt4image.embed.encoders import TextEncoder

BATCH = 64  # texts encoded at a time


@dataclass(frozen=True)
class TextSpace:
    """Images and texts as unit vectors of one space, in which the dot product is their similarity.

    Attributes:
        run: the run whose model it is.
        model: its backbone with one head, on the CPU, in evaluation mode.
        record: that head.
    """

    run: TrainedRun
    model: AlignedModel
    record: HeadRecord

    @property
    def projection(self) -> nn.Module:
        """A module that maps prepared images [B, 3, H, W] to vectors [B, D], of any length."""
        return _Projection(self.model)

    def encode(self, texts: Sequence[str], encoders: Sequence[TextEncoder] | None = None) -> np.ndarray:
        """Return the unit vectors of texts, float32 [N, D].

        Args:
            texts: the texts.
            encoders: the encoders of the run, if they are loaded already.

        Raises:
            ConfigError: an encoder cannot be loaded, or is not the one that the run was aligned with.
        """
        encoders = encoders or self.load_encoders()
        parts = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
        columns = [
            np.concatenate([encode_batch(part, encoder, self.record.long_text) for part in parts])
            for encoder in encoders
        ]
        vectors = torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))
        head = self.model.heads[0]
        assert isinstance(head, AlignmentHead)
        with torch.inference_mode():
            for change in (head.transform, head.adapter):
                vectors = vectors if change is None else change(unit_length(vectors))
            return np.asarray(unit_length(vectors).numpy())

    def load_encoders(self) -> list[TextEncoder]:
        """Load the encoders whose texts the run was aligned with. ConfigError if one has changed since."""
        found = []
        for name, revision in zip(self.record.encoders, self.record.revisions, strict=True):
            encoder = load_encoder(name)
            # bfloat16 changes vectors too little to affect a search
            if revision not in (encoder.revision, digest(encoder.revision, "bfloat16")):
                raise ConfigError(
                    f"The text encoder {name} has changed since {self.run.layout.folder} was trained, so its vectors "
                    "no longer match. Install the earlier version, or train the run again."
                )
            found.append(encoder)
        return found


def open_text_space(run: TrainedRun) -> TextSpace:
    """Open the text space of a finished run: of its heads the first on texts, at the classifier's input if one is.

    Raises:
        ConfigError: the run was not aligned with texts.
        StoreError: its heads were not kept, or are damaged.
    """
    if find_family(run.task) is DETECTORS:
        raise ConfigError(f"{run.layout.folder} is not a classifier, but searching needs one: name another run.")
    path = run.layout.heads
    if not path.exists():
        if not run.arm.uses_text or not run.recipe.weight:
            raise ConfigError(
                f"{run.layout.folder} was trained without aligning images with texts, so it has no text space. Choose "
                "a run of the arm described (--run)."
            )
        raise StoreError(
            f"{run.layout.folder} has no {path.name}, because it was trained by an earlier version. Train it again in "
            "another work directory."
        )
    records, tensors = read_heads(path)
    order = sorted(range(len(records)), key=lambda at: (not records[at].text, records[at].tap is not None, at))
    number = order[0]
    record = records[number]
    if not record.text:
        raise ConfigError(
            f"{run.layout.folder} was aligned only with vision teachers, so it cannot be searched by text."
        )
    head = _build_head(record, run)
    own = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{number}.")}
    try:
        missing, unexpected = head.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise StoreError(f"{path} does not match the run's recipe ({error}). Train the run again.") from None
    missing = [name for name in missing if not name.startswith("loss.")]
    if missing or unexpected:
        raise StoreError(f"{path} does not match the run's recipe: {[*missing, *unexpected][:3]}. Train the run again.")
    return TextSpace(run, AlignedModel(load_backbone(run), head).eval(), record)


def _build_head(record: HeadRecord, run: TrainedRun) -> AlignmentHead:
    width = record.width
    some = Moments(1, torch.zeros(width, dtype=torch.float64), torch.eye(width, dtype=torch.float64))
    return AlignmentHead(
        Projector(record.in_features, width, run.recipe.projector_hidden, run.recipe.projector),
        transform=None if record.space == "raw" else TextTransform(record.space, some),  # its state is loaded
        adapter=TextAdapter(width) if record.adapter else None,
        tap=record.tap,
        pool=record.pool,
    )


class _Projection(nn.Module):
    """Images to their projected features."""

    def __init__(self, model: AlignedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return projected features [B, D] of images [B, 3, H, W]."""
        projected: Tensor = self.model(images).projected[0]
        return projected
