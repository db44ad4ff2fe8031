"""Self-contained HTML pages that state findings and let the reader check them."""

from __future__ import annotations

from pathlib import Path

from gpt4image.core.errors import StoreError
from gpt4image.report.comparison.cases import write_cases
from gpt4image.report.comparison.verdict import Verdict, control_arms, other_arms, verdict

__all__ = ["Verdict", "control_arms", "other_arms", "verdict", "write_cases", "write_report"]


def write_report(work: str | Path) -> Path:
    """Write `report.html` in a work directory from its `comparison.json` and `gallery.json`.

    The page needs no network, script or other file, and the same records give the same bytes.

    Args:
        work: the work directory of a comparison, in which at least one seed has finished in every arm.

    Returns:
        Path of the page.

    Raises:
        StoreError: a record is missing, damaged or contradicts itself; the message names the file.
    """
    work = Path(work)
    from gpt4image.compare.records import Comparison, Gallery
    from gpt4image.report.comparison.page import check_comparison, check_gallery, render
    from gpt4image.report.html.page import write_page

    if (work / "runs").is_dir() and not (work / "comparison.json").exists():
        raise StoreError(f"{work}: no seed has finished in every arm yet. Write the report when one has.")
    comparison, gallery = Comparison.load(work / "comparison.json"), Gallery.load(work / "gallery.json")
    check_comparison(comparison, work / "comparison.json")
    check_gallery(gallery, work / "gallery.json")
    return write_page(work / "report.html", render(comparison, gallery))
