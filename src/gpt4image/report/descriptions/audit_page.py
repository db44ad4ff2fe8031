"""The page of a label audit, on which a person reviews each image and saves the corrections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.images.thumbnails import require_thumbnail
from gpt4image.report.html.page import load_script, render_page, write_page

if TYPE_CHECKING:
    from gpt4image.quality.audit_record import AuditRecord


def write_audit_page(path: Path, audit: AuditRecord) -> Path:
    """Write the page. It loads nothing and runs only our script, whose hash its policy names.

    Raises:
        ValueError: a thumbnail is not an image contained in the page.
    """
    for item in audit.items:
        require_thumbnail(item.thumbnail)
    groups = [(kind, [item for item in audit.items if item.kind == kind]) for kind in audit.found]
    page = render_page(
        "audit.html.j2",
        version=audit.version,
        audit=audit,
        groups=[(kind, items) for kind, items in groups if items],
        shown={kind: len(items) for kind, items in groups},
        **load_script("audit.js"),
    )
    return write_page(path, page)
