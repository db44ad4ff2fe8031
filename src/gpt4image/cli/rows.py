"""Print tables: cells separated by tabs, or as CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence

from gpt4image.core.console import write
from gpt4image.core.format import columns, printable

WIDEST = 32  # columns of a cell that others are aligned with


def print_table(names: Sequence[str], rows: Sequence[Sequence[str | float | None]], as_csv: bool) -> None:
    """Print rows under their columns, as `write_rows` or as CSV; scores have three decimals."""
    table = [
        ["" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else cell for cell in cells]
        for cells in [names, *rows]
    ]
    if not as_csv:
        write_rows(table)
        return
    for cells in table:
        write_row(cells, as_csv)


def write_row(cells: Sequence[str], as_csv: bool) -> None:
    """Print a row of a table, its cells separated by tabs or as CSV.

    Control characters are escaped, unless a program reads CSV.
    """
    if not as_csv or sys.stdout.isatty():
        cells = list(map(printable, cells))
    row = io.StringIO()
    if as_csv:
        csv.writer(row, lineterminator="").writerow(cells)
    write(row.getvalue() if as_csv else "\t".join(cells))


def write_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells: in aligned columns on a terminal, else separated by tabs.

    Control characters are escaped. Cells of more than `WIDEST` columns, and the last of a row, align nothing.
    """
    if not sys.stdout.isatty():
        for row in rows:
            write_row(row, as_csv=False)
        return
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max((columns(row[at]) for row in lines if at < len(row) - 1 and columns(row[at]) <= WIDEST), default=0)
        for at in range(max(map(len, lines), default=0))
    ]
    for row in lines:
        cells = [cell + " " * (widths[at] - columns(cell)) for at, cell in enumerate(row[:-1])]
        write("  ".join([*cells, *row[-1:]]))
