"""What a server says of a batch, taken out of its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpt4image.describe.batch.server import QUEUE_FULL, Found
from gpt4image.describe.describers.chat import text_or_none

OVER = ("completed", "failed", "expired", "cancelled")
ENDS = ("completed_at", "failed_at", "expired_at", "cancelled_at")


def result_files(batch: Found) -> list[str]:
    """The server's names of the files with a batch's answers."""
    names: Iterable[str | None] = (text_or_none(batch.get(name)) for name in ("output_file_id", "error_file_id"))
    return [name for name in names if name]


def duration_of(batch: Found) -> float:
    """Seconds that the server has taken for a batch, 0 where it does not say."""
    ends = [batch[name] for name in ENDS if isinstance(batch.get(name), int)]
    start = batch.get("created_at")
    return float(max(0, min(ends) - start)) if ends and isinstance(start, int) else 0.0


def was_turned_away(batch: Found) -> bool:
    """Whether a batch failed only because the server's queue was full."""
    return not result_files(batch) and any(code == QUEUE_FULL for code, _ in problems_of(batch))


def counts_of(batch: Found) -> tuple[int, int]:
    """Requests of a batch that are answered by now, and that have failed."""
    counts = batch.get("request_counts")
    known = counts if isinstance(counts, Mapping) else {}
    done, failed = (number if isinstance(number := known.get(kind), int) else 0 for kind in ("completed", "failed"))
    return done, failed


def problems_of(batch: Found) -> list[tuple[str, str]]:
    """Why a batch failed as a whole: codes and messages."""
    errors = batch.get("errors")
    rows = errors.get("data") if isinstance(errors, Mapping) else None
    found = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    return [(str(row.get("code")), problem_text(row)) for row in found]


def problem_text(problem: Mapping[str, object]) -> str:
    """A problem in words.

    >>> problem_text({"message": "No JSON.", "line": 3})
    'line 3: No JSON.'
    """
    line = problem.get("line")
    return f"line {line}: {problem.get('message')}" if line else str(problem.get("message"))
