"""Experiments of a work directory: their names, their plans, and the runs that they share."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpt4image.compare.records import Comparison
from gpt4image.core import console
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import File, Layout, atomic_write
from gpt4image.core.record import Record
from gpt4image.core.registry import unknown_name
from gpt4image.core.workdir import WorkDir
from gpt4image.train.identity import flatten_settings, in_words
from gpt4image.train.recipe import Recipe

if TYPE_CHECKING:
    from gpt4image.compare.plan import Plan

NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,79}")
EARLIER = "earlier"  # name given to the comparison of a version that had no experiments
LONGEST_NAME = 60  # of derived names
PUBLISHED = ("comparison.json", "gallery.json", "report.html", "test_answers.csv")


class ExperimentRun(Record):
    """A run of an experiment. Its folder is relative to `runs`, and None while the run waits for its baseline."""

    arm: str
    seed: int
    folder: str | None
    changes: dict[str, str]


class Experiment(Record):
    """What an experiment trains. `identity` is the hash of everything that determines it."""

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


def find_experiment(workdir: WorkDir, name: str) -> ExperimentLayout:
    """Return the files of an experiment. ConfigError suggests the nearest name."""
    layouts = {layout.folder.name: layout for layout in experiment_layouts(workdir)}
    if name not in layouts:
        raise ConfigError(unknown_name("experiment", name, layouts))
    return layouts[name]


def check_experiment_name(name: str) -> None:
    """Raise ConfigError unless a name is valid as that of a folder."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            "name (--name) must consist of letters, digits and . _ + -, and begin with a letter or digit, not "
            f"{name!r}."
        )


def open_experiment(workdir: WorkDir, wanted: Experiment, name: str | None) -> ExperimentLayout:
    """Return the folder of an experiment: that of an identical experiment, else a new one.

    An existing experiment of that name with different settings is renamed.
    """
    _keep_earlier(workdir)
    known = {layout.folder.name: Experiment.load(layout.record) for layout in experiment_layouts(workdir)}
    equal = [found for found, record in known.items() if record.identity == wanted.identity]
    if name is None:
        name = equal[0] if equal else free_name(derive_name(wanted, known), known)
    elif name in known and known[name].identity != wanted.identity:
        kept = free_name(name, known)
        console.say(f"Earlier experiment {name}, created with different settings, is now called {kept}.")
        workdir_folder = workdir.experiment(name)
        known[name].model_copy(update={"name": kept}).save(workdir_folder / "experiment.json")
        workdir_folder.rename(workdir.experiment(kept))
    layout = ExperimentLayout(workdir.experiment(name))
    wanted.model_copy(update={"name": name}).save(layout.record)
    return layout


def free_name(name: str, known: Mapping[str, Any]) -> str:
    """Return a name that no experiment has: the given one, with a number appended if it is taken."""
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
        before = flatten_settings({"recipe": first.recipe})
        for key, value in flatten_settings({"recipe": wanted.recipe}).items():
            if before.get(key) != value and key != "recipe.checkpoint":
                words += [key.removeprefix("recipe."), in_words(value)]
    words += [f"sweep-{'-'.join(wanted.searched)}"] if wanted.searched else []
    name = re.sub(r"[^\w.+-]+", "-", "-".join(words))[:LONGEST_NAME].strip("-.")
    return f"{name}-{len(wanted.seeds)}-seed{'s' if len(wanted.seeds) > 1 else ''}"


def read_sweep(words: Sequence[str]) -> dict[str, list[Any]]:
    """Read settings to sweep as they are typed: `weight=0.1,0.3,1`.

    >>> read_sweep(["weight=0.1,1", "loss=clip,cosine"])
    {'weight': [0.1, 1], 'loss': ['clip', 'cosine']}

    Raises:
        ConfigError: no name, no value, a name twice, an unknown setting, or a value that does not fit it.
    """
    found: dict[str, list[Any]] = {}
    for word in words:
        name, _, values = word.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        parts = [part.strip() for part in values.split(",")]
        if not name or not all(parts):
            raise ConfigError(
                f"sweep (--sweep) must have the form NAME=VALUE,VALUE, such as weight=0.1,0.3,1, not {word!r}."
            )
        if name in found:
            raise ConfigError(f"sweep (--sweep) names {name} twice: give all its values at once, {name}=A,B,C.")
        found[name] = [_read_value(part) for part in parts]
        for value in found[name]:
            Recipe().override({name: value}, "sweep (--sweep)")
    return found


def _read_value(text: str) -> Any:  # noqa: ANN401 - a setting of any type
    named = {"true": True, "on": True, "false": False, "off": False}
    if text.lower() in named:
        return named[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


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
    """Copy an experiment's files into the work directory, where the other commands look for the latest."""
    for name in PUBLISHED:
        source, target = layout.folder / name, workdir.folder / name
        if not source.exists():
            target.unlink(missing_ok=True)
        elif not target.exists() or source.read_bytes() != target.read_bytes():
            with source.open("rb") as read, atomic_write(target) as written:
                shutil.copyfileobj(read, written)


def _keep_earlier(workdir: WorkDir) -> None:
    """Keep a comparison made by a version without experiments, which the next one would replace."""
    if workdir.experiments.exists() or not workdir.comparison.exists():
        return
    try:
        comparison = Comparison.load(workdir.comparison)
    except StoreError as error:
        console.say(f"{error} It was not saved as an experiment.", "yellow")
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
