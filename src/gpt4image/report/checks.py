"""What the page relies on, checked before a line of it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gpt4image.errors import StoreError
from gpt4image.pages.thumbnails import is_thumbnail

if TYPE_CHECKING:
    from pathlib import Path

    from gpt4image.compare.records import Comparison, Gallery


def check_comparison(comparison: Comparison, path: Path) -> None:
    """StoreError when the comparison contradicts itself; the message names the file and what does not fit."""
    for fault in _faults(comparison):
        raise StoreError(f"{path}: {fault}. Run the comparison again.")


def _faults(comparison: Comparison) -> Iterator[str]:
    """What contradicts itself in a comparison."""
    names = [arm.name for arm in comparison.arms]
    difference = comparison.difference
    if len(set(names)) < len(names):
        yield f"two arms have the same name (arms {names})"
    for arm in comparison.arms:
        size = len(comparison.classes)
        if len(arm.confusion) != size or any(len(row) != size for row in arm.confusion):
            yield f"the confusion matrix of arm {arm.name!r} is not {size} x {size}, one row and column a class"
        if len({run.seed for run in arm.runs}) < len(arm.runs):
            yield f"arm {arm.name!r} has two runs of the same seed"
    if len(difference.per_seed) != len(difference.seeds):
        yield f"{len(difference.per_seed)} differences for {len(difference.seeds)} seeds"


def check_gallery(gallery: Gallery, path: Path) -> None:
    """StoreError for a thumbnail that is anything but a JPEG or PNG inside the record itself."""
    for item in gallery.items:
        if not is_thumbnail(item.thumbnail):
            shown = item.thumbnail[:60]
            raise StoreError(
                f"{path}: the thumbnail of {item.path!r} is no JPEG or PNG as a base64 data address ({shown!r}). "
                "Run the comparison again."
            )
