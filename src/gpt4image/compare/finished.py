"""Recognise a finished comparison by its inputs and files, without loading a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from gpt4image.compare.experiments import Experiment, ExperimentLayout, experiment_layouts, publish
from gpt4image.compare.records import Comparison
from gpt4image.core.files import digest
from gpt4image.core.options import ArmOptions, GuidanceOptions
from gpt4image.core.record import Record
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.sources.listing import file_state
from gpt4image.images.table import ImageTable
from gpt4image.train.identity import OBJECTS, RunLayout
from gpt4image.train.recipe import Recipe
from gpt4image.train.spec import ARMS, choose_arms


class FinishedComparison(Record):
    """What a finished comparison was made from.

    Attributes:
        inputs: hash of everything that determines it.
        files: size and times of the files that it read and wrote, by path; None for a file that did not exist.
    """

    inputs: str
    files: dict[str, tuple[int, int, int] | None]


def hash_inputs(
    images: ImageTable,
    descriptions: DescriptionSet,
    options: GuidanceOptions,
    recipe: Recipe,
    seeds: int,
    arms: ArmOptions,
    regions: Sequence[EmbeddingStore] = (),
    margin: float = 0.0,
) -> str:
    """Hash what determines a comparison, so that a different input or setting gives a different one.

    Encoders and teachers enter by name; `state_of_files` covers those that are local files or folders.
    """
    names = ("id", "path", "label", "split", *(name for name in OBJECTS if name in images.rows.schema.names))
    columns = (str(images.rows[name].to_pylist()) for name in names)
    settings = [asdict(options), recipe.to_dict(), seeds, images.classes, images.source, asdict(arms)]
    return digest(
        version("gpt4image"),
        *columns,
        repr(images.rejected),
        descriptions.text_hash,
        repr((descriptions.source, descriptions.coverage)),
        descriptions.picks.digest if descriptions.picks else "",
        json.dumps(settings, default=str),
        repr([ARMS.load(name) for name in choose_arms(arms.arms)]),
        *(repr((store.manifest.encoder, store.manifest.text_hash, margin)) for store in regions),
    )


def find_finished(
    inputs: str, options: GuidanceOptions, recipe: Recipe, work: Path, arms: ArmOptions, name: str | None = None
) -> Comparison | None:
    """Return the comparison of a finished experiment if its inputs are the same and no file has changed since.

    It becomes the latest of the work directory.

    Args:
        name: the experiment's name; None for any.
    """
    workdir = WorkDir(work)
    for layout in experiment_layouts(workdir):
        if not layout.comparison_inputs.exists() or name not in (None, layout.folder.name):
            continue
        known = FinishedComparison.load(layout.comparison_inputs)
        if known.inputs == inputs and known.files == state_of_files(layout, options, recipe, work, arms):
            publish(layout, workdir)
            return Comparison.load(layout.comparison)
    return None


def save_finished(
    inputs: str, options: GuidanceOptions, recipe: Recipe, work: Path, arms: ArmOptions, name: str
) -> None:
    """Record what an experiment was made from. Call it once all its files are written."""
    layout = ExperimentLayout(WorkDir(work).experiment(name))
    files = state_of_files(layout, options, recipe, work, arms)
    if None not in files.values():
        FinishedComparison(inputs=inputs, files=files).save(layout.comparison_inputs)


def state_of_files(
    layout: ExperimentLayout, options: GuidanceOptions, recipe: Recipe, work: Path, arms: ArmOptions
) -> dict[str, tuple[int, int, int] | None]:
    """Return size and times of the files that an experiment reads and writes; relative if in `work`."""
    found: dict[str, tuple[int, int, int] | None] = {}
    files = [] if arms.labeller.classes is None else [arms.labeller.classes]
    for path in (*_results(layout, work), *_local_files(options, recipe), *files):
        name = path.relative_to(work) if path.is_relative_to(work) else path
        found[name.as_posix()] = file_state(path, path.stat()) if path.exists() else None
    return found


def _results(layout: ExperimentLayout, work: Path) -> Iterator[Path]:
    yield from (layout.comparison, layout.gallery, layout.report)
    compared = {run.folder for arm in Comparison.load(layout.comparison).arms for run in arm.runs}
    for planned in Experiment.load(layout.record).runs:
        run = RunLayout(WorkDir(work).runs / (planned.folder or ""))
        yield from (run.settings, run.result, run.weights)
        if planned.folder in compared:
            yield run.predictions


def _local_files(options: GuidanceOptions, recipe: Recipe) -> Iterator[Path]:
    """Yield the local files of encoders, teachers and initial weights, leaving out those on a hub."""
    for name in (*options.encoder, *options.teachers, recipe.checkpoint or ""):
        place = Path(name.partition(":")[2] or name)
        if name and place.is_dir():
            yield from sorted(path for path in place.rglob("*") if path.is_file())
        elif name and place.is_file():
            yield place
