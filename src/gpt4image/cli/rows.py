"""Print tables: aligned for people, separated by tabs or as CSV for programs."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from gpt4image.core.console import is_terminal, write
from gpt4image.core.format import columns, printable

WIDEST = 32  # widest cell that sets a column's width; in wide terminals, half of the terminal's width


@dataclass
class GrowingTable:
    """A table that is printed as it grows: in aligned columns on a terminal, else separated by tabs or as CSV.

    Control characters are escaped, except in CSV for programs. Long cells and the last cell of a row do not affect the
    alignment.

    Attributes:
        as_csv: print CSV, even on a terminal.
        widths: widths of the columns so far, in columns of the terminal; they only grow.
    """

    as_csv: bool = False
    widths: list[int] = field(default_factory=list)

    @property
    def is_aligned(self) -> bool:
        """Whether it is read by people rather than programs."""
        return is_terminal() and not self.as_csv

    def write(self, rows: Sequence[Sequence[str]]) -> None:
        """Print further rows."""
        if self.as_csv and not is_terminal():
            lines = [list(row) for row in rows]
        else:
            lines = [[printable(cell) for cell in row] for row in rows]
        if self.is_aligned:
            self._align(lines)
        else:
            for line in lines:
                write(_as_csv(line) if self.as_csv else "\t".join(line))

    def _align(self, lines: list[list[str]]) -> None:
        widest = max(WIDEST, shutil.get_terminal_size().columns // 2)
        taken = ([columns(cell) for cell in line[:-1]] for line in lines)
        self.widths = [
            max(width for width in found if width <= widest) for found in zip_longest(self.widths, *taken, fillvalue=0)
        ]
        for line in lines:
            padded = [cell + " " * (width - columns(cell)) for cell, width in zip(line[:-1], self.widths, strict=False)]
            write("  ".join([*padded, *line[-1:]]).rstrip())


def write_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print all rows of a table: aligned on a terminal, else separated by tabs."""
    GrowingTable().write(rows)


def print_table(names: Sequence[str], rows: Sequence[Sequence[str | float | None]], as_csv: bool) -> None:
    """Print rows under the names of their columns; scores have three decimals."""
    GrowingTable(as_csv).write(
        [
            ["" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else cell for cell in cells]
            for cells in [names, *rows]
        ]
    )


def _as_csv(cells: Sequence[str]) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="\r\n").writerow(cells)  # so that csv quotes line breaks
    return row.getvalue().removesuffix("\r\n")
