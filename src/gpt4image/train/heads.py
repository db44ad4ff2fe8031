"""The alignment heads of a run, saved next to its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gpt4image.align.aligned_model import AlignedModel
from gpt4image.align.head import AlignmentHead
from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write
from gpt4image.core.record import Record
from gpt4image.embed.runner import LongText
from gpt4image.train.guidance import Guidance, is_text


class HeadRecord(Record):
    """What is needed to rebuild a head, besides the recipe.

    Attributes:
        encoders: names of the text encoders whose vectors it was aligned with, side by side; a vision teacher's name.
        revisions: their revisions.
        long_text: what was done with texts longer than they read.
        text: whether the vectors are those of texts.
        in_features: width F of the features.
        width: width D of the vectors.
        tap: name of the module whose output it projects; None for the classifier's input.
        pool: how that output became a vector.
        space: the transformation of the texts (`align.text.TextTransform`).
        adapter: whether a learned one followed.
    """

    encoders: list[str]
    revisions: list[str]
    long_text: LongText
    text: bool
    in_features: int
    width: int
    tap: str | None
    pool: str
    space: str
    adapter: bool


def save_heads(path: Path, model: AlignedModel, state: Mapping[str, Tensor], guidance: Guidance) -> None:
    """Write the heads of a model with a given state, without the parts that only their losses need.

    Args:
        path: the file.
        model: the model that was trained.
        state: state of its heads, by the names of `model.heads.state_dict()`.
        guidance: what the heads are aligned with.
    """
    records = []
    for head in model.heads:
        assert isinstance(head, AlignmentHead)
        first = next(part for part in head.projector.modules() if isinstance(part, nn.Linear))
        records.append(
            HeadRecord(
                **_describe_source(guidance, head.source),
                in_features=first.in_features,
                tap=head.tap,
                pool=head.pool,
                space=head.transform.space if head.transform else "raw",
                adapter=head.adapter is not None,
            ).model_dump()
        )
    kept = {name: value for name, value in state.items() if name.split(".")[1] not in ("loss", "reader")}
    tensors = {name: value.contiguous() for name, value in kept.items()}
    with atomic_write(path) as file:
        file.write(save(tensors, {"heads": json.dumps(records)}))


def _describe_source(guidance: Guidance, number: int) -> dict[str, Any]:
    """Return the fields of a `HeadRecord` that tell what a head is aligned with: a source of vectors, or anchors."""
    anchors, sources = guidance.anchors, [*guidance.sources, *guidance.regions]
    if anchors is not None and number == len(guidance.sources):  # the last source; there are no regions beside them
        names = {"encoders": [anchors.teacher.name], "revisions": [anchors.reader]}
        return {**names, "long_text": "truncate", "text": True, "width": anchors.width}
    stores = sources[number].stores
    return {
        "encoders": [store.manifest.encoder for store in stores],
        "revisions": [store.manifest.revision for store in stores],
        "long_text": "pool" if stores[0].manifest.long_text == "pool" else "truncate",
        "text": is_text(stores[0]),
        "width": sources[number].width,
    }


def read_heads(path: Path) -> tuple[list[HeadRecord], dict[str, Tensor]]:
    """Return the heads of a file, and their state by the names of `model.heads.state_dict()`.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            content: list[dict[str, Any]] = json.loads(file.metadata()["heads"])
            return [HeadRecord(**record) for record in content], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}). Train the run again.") from None
