"""Experiments of a work directory: their names, what each planned, and the runs that they share."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt4image.compare.records import Comparison
from gpt4image.core import console
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import File, Layout, atomic_write, read_json
from gpt4image.core.record import Record
from gpt4image.core.workdir import WorkDir
from gpt4image.train.identity import flatten, in_words
from gpt4image.train.recipe import Recipe
from gpt4image.train.spec import RunLayout

if TYPE_CHECKING:
    from gpt4image.compare.plan import Plan

NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,79}")
EARLIER = "earlier"  # the experiment that a comparison of a version without experiments becomes
LONGEST_NAME = 60  # of derived names
PUBLISHED = ("comparison.json", "gallery.json", "report.html", "test_answers.csv")


class ExperimentRun(Record):
    """A run of an experiment: its folder is relative to `runs`, None as long as it waits for its baseline."""

    arm: str
    seed: int
    folder: str | None
    changes: dict[str, str]


class Experiment(Record):
    """What an experiment trains. `identity` is the hash of all that decides it."""

    name: str
    identity: str
    created: str
    arms: list[str]
    seeds: list[int]
    recipe: dict[str, Any]
    searched: dict[str, Any]  # settings that were swept or tuned
    runs: list[ExperimentRun]
    finished: bool = False


class ExperimentLayout(Layout):
    """Files of an experiment."""

    record = File("experiment.json")
    comparison = File("comparison.json")
    comparison_inputs = File("comparison-inputs.json")  # what it was made from; written last
    gallery = File("gallery.json")
    report = File("report.html")
    test_answers = File("test_answers.csv")


def experiment_layouts(workdir: WorkDir) -> list[ExperimentLayout]:
    """Return the experiments of a work directory, by name."""
    found = workdir.experiments.glob("*/experiment.json") if workdir.experiments.is_dir() else ()
    return [ExperimentLayout(path.parent) for path in sorted(found)]


def check_name(name: str) -> None:
    """Raise ConfigError unless a name can be that of a folder."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"name (--name) should consist of letters, digits and . _ + -, and begin with one of the first two, not "
            f"{name!r}."
        )


def open_experiment(workdir: WorkDir, wanted: Experiment, name: str | None) -> ExperimentLayout:
    """Return the folder of an experiment: the one that an equal experiment has, else a new one.

    An experiment of other settings under the wanted name is kept under another.
    """
    _keep_earlier(workdir)
    known = {layout.folder.name: Experiment.load(layout.record) for layout in experiment_layouts(workdir)}
    equal = [found for found, record in known.items() if record.identity == wanted.identity]
    if name is None:
        name = equal[0] if equal else free_name(derive_name(wanted, known), known)
    elif name in known and known[name].identity != wanted.identity:
        kept = free_name(name, known)
        console.say(f"Earlier experiment {name}, which had other settings, is now called {kept}.")
        workdir_folder = workdir.experiment(name)
        known[name].model_copy(update={"name": kept}).save(workdir_folder / "experiment.json")
        workdir_folder.rename(workdir.experiment(kept))
    layout = ExperimentLayout(workdir.experiment(name))
    wanted.model_copy(update={"name": name}).save(layout.record)
    return layout


def free_name(name: str, known: Mapping[str, Any]) -> str:
    """Return a name that no experiment has: the given one, or with a number at its end."""
    number, free = 1, name
    while free in known:
        number += 1
        free = f"{name}-{number}"
    return free


def derive_name(wanted: Experiment, known: Mapping[str, Experiment]) -> str:
    """Return a name that says what an experiment compares and what it changes from the first one.

    >>> from gpt4image.train.recipe import Recipe
    >>> shared = dict(name="", identity="", created="", arms=["baseline", "described"], runs=[], searched={})
    >>> first = Experiment(**shared, seeds=[0, 1], recipe=Recipe().to_dict())
    >>> derive_name(first, {}), derive_name(first.model_copy(update={"recipe": {"lr": 0.1}}), {"a": first})
    ('described-2-seeds', 'described-lr-0.1-2-seeds')
    """
    words = [arm for arm in wanted.arms if arm != "baseline"][:3]
    first = min(known.values(), key=lambda record: record.created, default=None)
    if first is not None:
        before = flatten({"recipe": first.recipe})
        for key, value in flatten({"recipe": wanted.recipe}).items():
            if before.get(key) != value:
                words += [key.removeprefix("recipe."), in_words(value)]
    words += [f"sweep-{'-'.join(wanted.searched)}"] if wanted.searched else []
    name = re.sub(r"[^\w.+-]+", "-", "-".join(words))[:LONGEST_NAME].strip("-.")
    return f"{name}-{len(wanted.seeds)}-seed{'s' if len(wanted.seeds) > 1 else ''}"


def record_runs(plan: Plan) -> list[ExperimentRun]:
    """Return the runs of a plan for the record of its experiment."""
    return [
        ExperimentRun(
            arm=run.variant.arm,
            seed=run.seed,
            folder=run.spec.layout.folder.name if run.spec else None,
            changes={name: in_words(value) for name, value in run.variant.changes.items()},
        )
        for run in plan.runs
    ]


def publish(layout: ExperimentLayout, workdir: WorkDir) -> None:
    """Make an experiment's files those of the work directory, where the other commands look for the latest."""
    for name in PUBLISHED:
        source, target = layout.folder / name, workdir.folder / name
        if not source.exists():
            target.unlink(missing_ok=True)
        elif not target.exists() or source.read_bytes() != target.read_bytes():
            with source.open("rb") as read, atomic_write(target) as written:
                shutil.copyfileobj(read, written)


def _keep_earlier(workdir: WorkDir) -> None:
    """Keep a comparison of a version without experiments, which the next one would replace."""
    if workdir.experiments.exists() or not workdir.comparison.exists():
        return
    try:
        comparison = Comparison.load(workdir.comparison)
    except StoreError as error:
        console.say(f"{error} It is not kept as an experiment.", "yellow")
        return
    layout = ExperimentLayout(workdir.experiment(EARLIER))
    for name in PUBLISHED:
        if (workdir.folder / name).exists():
            layout.folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(workdir.folder / name, layout.folder / name)
    Experiment(
        name=EARLIER,
        identity="",
        created=comparison.created,
        arms=[arm.name for arm in comparison.arms],
        seeds=comparison.difference.seeds,
        recipe=comparison.recipe,
        searched={},
        runs=[
            ExperimentRun(arm=run.arm, seed=run.seed, folder=f"{run.arm}-{run.seed}", changes={})
            for arm in comparison.arms
            for run in arm.runs
        ],
        finished=True,
    ).save(layout.record)


@dataclass(frozen=True)
class RunRow:
    """A run of a work directory, in the table of runs.

    Attributes:
        experiment: an experiment that it belongs to; empty if there is none.
        differs: what distinguishes it from most runs here, such as `lr 0.002`.
        epochs: finished epochs.
        planned: epochs of a whole run.
        finished: whether it is finished.
        validation: validation accuracy of the kept epoch, from 0 to 1.
        test: test accuracy, if the experiment is finished and has answered the test images with this run.
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
    """List the runs of a work directory by experiment, arm and seed; a run of several experiments is in each.

    Raises:
        StoreError: there is none.
    """
    folders = {path.parent.name: path.parent for path in sorted(workdir.runs.glob("*/settings.json"))}
    if not folders:
        raise StoreError(f"{workdir.folder} holds no runs. Train some: gpt4image compare.")
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
    """Return the test accuracy by folder of the runs that answered the test images in an experiment."""
    if not layout.comparison.exists():
        return {}
    comparison = Comparison.load(layout.comparison)
    if comparison.split != "test":
        return {}
    return {run.folder or f"{run.arm}-{run.seed}": run.test_accuracy for arm in comparison.arms for run in arm.runs}


def _differences(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Say for each run which of its settings are not those of most runs of its arm, else of all."""
    flat = {name: {"recipe": Recipe().to_dict()} for name in settings}
    known = {name: flatten(flat[name]) | flatten(found) for name, found in settings.items()}
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
    """Yield the rows that hold all words, or for `NAME=VALUE` have that value in a column.

    Raises:
        ConfigError: a column is unknown.
    """
    columns = tuple(RunRow.__dataclass_fields__)
    wanted = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name not in columns:
            from gpt4image.core.registry import unknown_name

            raise ConfigError(f"filter (--filter): {unknown_name('column', name, columns)}")
        wanted.append((name, value) if equals else (None, word))
    for row in rows:
        text = " ".join(str(getattr(row, column)) for column in columns).lower()
        if all(
            str(getattr(row, name)).lower() == value.lower() if name else value.lower() in text
            for name, value in wanted
        ):
            yield row
