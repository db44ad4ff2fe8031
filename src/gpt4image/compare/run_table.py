"""The table of the runs of a work directory: their experiments, how they differ, and their accuracies."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from gpt4image.compare.experiments import Experiment, ExperimentLayout, experiment_layouts
from gpt4image.compare.records import Comparison
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import read_json
from gpt4image.core.format import NOTHING, single_line
from gpt4image.core.registry import unknown_name
from gpt4image.core.workdir import WorkDir
from gpt4image.train.identity import RunLayout, flatten_settings, in_words
from gpt4image.train.recipe import Recipe

HEAD = ("arm", "seed", "epochs", "validation", "test", "differs from most")
WIDTHS = (22, 4, 9, 10, 6, 17)  # with two blanks before each, 80 columns


@dataclass(frozen=True)
class RunRow:
    """A run of a work directory, in the table of runs.

    Attributes:
        experiment: an experiment that it belongs to; empty if there is none.
        differs: what distinguishes it from most runs here, such as `lr 0.002`.
        epochs: finished epochs.
        planned: planned epochs.
        finished: whether it is finished.
        validation: validation accuracy of the kept epoch, from 0 to 1.
        test: test accuracy, if the experiment is finished and this run predicted its test images.
        folder: the folder of the run.
    """

    experiment: str
    arm: str
    seed: int
    differs: str
    epochs: int
    planned: int
    finished: bool
    validation: float | None
    test: float | None
    folder: str


def list_runs(workdir: WorkDir) -> list[RunRow]:
    """List the runs of a work directory by experiment, arm and seed; a run of several experiments appears in each.

    Raises:
        StoreError: there is no run.
    """
    folders = {path.parent.name: path.parent for path in sorted(workdir.runs.glob("*/settings.json"))}
    if not folders:
        raise StoreError(f"{workdir.folder} contains no runs. Train some: gpt4image compare.")
    settings = {name: read_json(RunLayout(folder).settings) for name, folder in folders.items()}
    differs = _differences(settings)
    rows, seen = [], set()
    for layout in experiment_layouts(workdir):
        record = Experiment.load(layout.record)
        tested = _test_accuracies(layout)
        for run in record.runs:
            if run.folder in folders:
                seen.add(run.folder)
                rows.append(_row(record.name, folders[run.folder], settings[run.folder], differs[run.folder], tested))
    rows += [_row("", folders[name], settings[name], differs[name], {}) for name in folders if name not in seen]
    return rows


def _row(
    experiment: str, folder: Path, settings: Mapping[str, Any], differs: str, tested: Mapping[str, float]
) -> RunRow:
    layout, planned = RunLayout(folder), settings["recipe"].get("epochs", Recipe().epochs)
    result: dict[str, Any] = read_json(layout.result) if layout.result.exists() else {}
    epochs = len(result["history"]) if result else 0
    if not result and layout.checkpoint.exists():
        from gpt4image.train.checkpoint import checkpoint_progress

        epochs = checkpoint_progress(layout.checkpoint)[0]
    return RunRow(
        experiment=experiment,
        arm=settings["arm"],
        seed=settings["seed"],
        differs=differs,
        epochs=epochs,
        planned=planned,
        finished=bool(result),
        validation=result.get("best_accuracy"),
        test=tested.get(folder.name),
        folder=folder.name,
    )


def _test_accuracies(layout: ExperimentLayout) -> dict[str, float]:
    """Return, by folder, the test accuracy of the runs that predicted an experiment's test images."""
    if not layout.comparison.exists():
        return {}
    comparison = Comparison.load(layout.comparison)
    if comparison.split != "test":
        return {}
    return {run.folder or f"{run.arm}-{run.seed}": run.test_accuracy for arm in comparison.arms for run in arm.runs}


def _differences(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Say how the settings of each run differ from those of most runs of its arm, else of all arms."""
    flat = {name: {"recipe": Recipe().to_dict()} for name in settings}
    known = {name: flatten_settings(flat[name]) | flatten_settings(found) for name, found in settings.items()}
    found: dict[str, str] = {}
    for name, own in known.items():
        alike = [other for other in known.values() if other["arm"] == own["arm"]]
        words = []
        for key, value in own.items():
            if key in ("arm", "seed", "recipe.checkpoint", "text", "classes"):
                continue
            values = [other.get(key) for other in alike]
            common = max(values, key=values.count)
            if value != common:
                title = key.removeprefix("recipe.")
                words.append({"images": "other images", "start": "other first weights"}.get(title, ""))
                words[-1] = words[-1] or f"{title} {in_words(value)}"
        found[name] = ", ".join(words)
    return found


def filter_rows(rows: Sequence[RunRow], words: Sequence[str]) -> Iterator[RunRow]:
    """Yield the rows that contain every word; `NAME=VALUE` matches rows with that value in a column.

    Raises:
        ConfigError: a column is unknown.
    """
    columns = tuple(RunRow.__dataclass_fields__)
    wanted = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name not in columns:
            raise ConfigError(f"filter (--filter): {unknown_name('column', name, columns)}")
        wanted.append((name, value) if equals else (None, word))
    for row in rows:
        text = " ".join(str(getattr(row, column)) for column in columns).lower()
        if all(
            str(getattr(row, name)).lower() == value.lower() if name else value.lower() in text
            for name, value in wanted
        ):
            yield row


def runs_table(rows: Sequence[RunRow]) -> str:
    """Format runs as a table at most 80 characters wide, with a section for each experiment."""
    if not rows:
        return "No run matches the filter."
    lines: list[str] = []
    for experiment, group in groupby(rows, key=lambda row: row.experiment):
        lines += ["", single_line(experiment or "runs without an experiment"), _table_line(HEAD)]
        for row in group:
            epochs = str(row.planned) if row.finished else f"{row.epochs}/{row.planned}"
            figures = [NOTHING if value is None else f"{100 * value:.1f}%" for value in (row.validation, row.test)]
            lines += _table_rows((row.arm, str(row.seed), epochs, *figures, row.differs))
    return "\n".join(lines[1:])


def _table_rows(cells: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a row, wrapping long cells."""
    parts = [textwrap.wrap(single_line(cell), width) or [""] for cell, width in zip(cells, WIDTHS, strict=True)]
    for line in zip_longest(*parts, fillvalue=""):
        yield _table_line(line)


def _table_line(cells: Sequence[str]) -> str:
    aligned = (
        cell.rjust(width) if 0 < at < len(WIDTHS) - 1 else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )
    return ("  " + "  ".join(aligned)).rstrip()


def runs_csv(rows: Sequence[RunRow]) -> str:
    """Write runs as comma-separated values, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(RunRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    return text.getvalue().rstrip("\n")
