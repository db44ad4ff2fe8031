"""The page of a label audit: a person decides about each image and saves the corrections."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from gpt4image.images.thumbnails import require_thumbnail
from gpt4image.report.html.page import render_page, write_page

if TYPE_CHECKING:
    from gpt4image.quality.audit_record import AuditRecord


def write_audit_page(path: Path, audit: AuditRecord) -> Path:
    """Write the page. It loads nothing, and runs our script alone: the policy names the script's hash.

    Raises:
        ValueError: a thumbnail is not a picture inside the page.
    """
    for item in audit.items:
        if item.thumbnail is not None:
            require_thumbnail(item.thumbnail)
    script = (files("gpt4image.report") / "templates" / "audit.js").read_text("utf-8")
    groups = [(kind, [item for item in audit.items if item.kind == kind]) for kind in audit.found]
    page = render_page(
        "audit.html.j2",
        version=audit.version,
        audit=audit,
        groups=[(kind, items) for kind, items in groups if items],
        shown={kind: len(items) for kind, items in groups},
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return write_page(path, page)
