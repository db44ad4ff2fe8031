"""Settings that commands share."""

from __future__ import annotations

from pathlib import Path

WORK = Path("gpt4image-work")
"""The work directory where none is named."""
