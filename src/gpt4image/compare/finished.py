"""Recognise a comparison that was finished before, without loading a model: its inputs and files are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from gpt4image.compare.records import Comparison
from gpt4image.core.files import digest
from gpt4image.core.options import ArmOptions, GuidanceOptions
from gpt4image.core.record import Record
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.images.sources.listing import state_of
from gpt4image.images.table import ImageTable
from gpt4image.train.recipe import Recipe
from gpt4image.train.spec import ARMS, RunLayout, choose_arms


class FinishedComparison(Record):
    """What a finished comparison was made from.

    Attributes:
        inputs: hash of everything that determines it.
        files: size and times of the files it was made from and made, by path; None for a file that did not exist.
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
) -> str:
    """Hash what determines a comparison, so that another input or setting is another comparison.

    Encoders and teachers count by name; those that are files or folders here also by `state_of_files`.
    """
    columns = (str(images.rows[name].to_pylist()) for name in ("id", "path", "label", "split"))
    settings = [asdict(options), recipe.to_dict(), seeds, images.classes, images.source, asdict(arms)]
    return digest(
        version("gpt4image"),
        *columns,
        repr(images.rejected),
        descriptions.text_hash,
        repr((descriptions.source, descriptions.coverage)),
        json.dumps(settings, default=str),
        repr([ARMS.load(name) for name in choose_arms(arms.arms)]),
    )


def find_finished(
    inputs: str, options: GuidanceOptions, recipe: Recipe, work: Path, seeds: int, arms: ArmOptions
) -> Comparison | None:
    """Return the comparison in a work directory if it was made from the same inputs and no file changed since."""
    workdir = WorkDir(work)
    if not workdir.comparison_inputs.exists():
        return None
    known = FinishedComparison.load(workdir.comparison_inputs)
    same = known == FinishedComparison(inputs=inputs, files=state_of_files(options, recipe, work, seeds, arms))
    return Comparison.load(workdir.comparison) if same and None not in known.files.values() else None


def save_finished(
    inputs: str, options: GuidanceOptions, recipe: Recipe, work: Path, seeds: int, arms: ArmOptions
) -> None:
    """Remember what the comparison in a work directory was made from. Call it when all files are written."""
    files = state_of_files(options, recipe, work, seeds, arms)
    FinishedComparison(inputs=inputs, files=files).save(WorkDir(work).comparison_inputs)


def state_of_files(
    options: GuidanceOptions, recipe: Recipe, work: Path, seeds: int, arms: ArmOptions
) -> dict[str, tuple[int, int, int] | None]:
    """Return size and times of the files that a comparison reads and writes; relative if in `work`."""
    found: dict[str, tuple[int, int, int] | None] = {}
    files = [] if arms.labeller.classes is None else [arms.labeller.classes]
    for path in (*_results(work, seeds, choose_arms(arms.arms)), *_local_files(options, recipe), *files):
        name = path.relative_to(work) if path.is_relative_to(work) else path
        found[name.as_posix()] = state_of(path, path.stat()) if path.exists() else None
    return found


def _results(work: Path, seeds: int, arms: Sequence[str]) -> Iterator[Path]:
    workdir = WorkDir(work)
    yield from (workdir.comparison, workdir.gallery, workdir.report)
    for arm in arms:
        for seed in range(seeds):
            run = RunLayout(workdir.run(arm, seed))
            yield from (run.settings, run.result, run.weights, run.predictions)


def _local_files(options: GuidanceOptions, recipe: Recipe) -> Iterator[Path]:
    """Yield the files of encoders, teachers and first weights that are here, not on a hub."""
    for name in (*options.encoder, *options.teachers, recipe.checkpoint or ""):
        place = Path(name.partition(":")[2] or name)
        if name and place.is_dir():
            yield from sorted(path for path in place.rglob("*") if path.is_file())
        elif name and place.is_file():
            yield place
