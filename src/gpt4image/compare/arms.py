"""Train every arm with every seed, predict the test images once, and compare seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from gpt4image.compare.gallery import choose_gallery
from gpt4image.compare.model_facts import measure_model
from gpt4image.compare.predictions import predict_test_images, write_test_answers
from gpt4image.compare.records import CommandRecord, Comparison
from gpt4image.compare.summarize import RunOutcome, find_candidate, record_comparison
from gpt4image.core import console
from gpt4image.core.errors import ConfigError
from gpt4image.core.invocation import current_invocation
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.soft_labels import SoftLabels
from gpt4image.train.data import labelled_rows
from gpt4image.train.guidance import is_text
from gpt4image.train.processes import loader_workers, make_accelerator, on_this_machine
from gpt4image.train.recipe import AUGMENTATION, Recipe
from gpt4image.train.run import train_model
from gpt4image.train.spec import CANDIDATE, REFERENCE, RunInputs, RunLayout, choose_arms
from gpt4image.train.tracking import Tracking


def compare_arms(
    images: ImageTable,
    descriptions: DescriptionSet,
    store: EmbeddingStore | Sequence[EmbeddingStore],
    recipe: Recipe,
    work: Path,
    *,
    soft_labels: Sequence[SoftLabels] = (),
    seeds: Sequence[int] = (0, 1, 2),
    workers: int | None = None,
    checkpoint_seconds: float = 60.0,
    tracking: Tracking | None = None,
    arms: Sequence[str] = (),
    inputs: Callable[[str, int], RunInputs] | None = None,
    margin: float = 0.01,
) -> Comparison:
    """Train arms, with and without descriptions, with each seed, and compare the predictions for the test images.

    Finished runs are not trained again, and an interrupted one resumes. The comparison is also written to
    `comparison.json` and `gallery.json` in the work directory, whenever all arms have finished a seed.

    Args:
        images: the images.
        descriptions: their texts.
        store: vectors of these texts by one or several encoders, and vectors of vision teachers.
        recipe: recipe of all arms.
        work: the work directory.
        soft_labels: soft labels, for recipes that mix them in.
        seeds: seeds; every arm is trained with each.
        workers: processes that prepare batches, None for the default (`loader_workers`).
        checkpoint_seconds: time between two checkpoints of a run.
        tracking: experiment trackers to send the figures of every run to.
        arms: arms to train besides the baseline; default all that are not optional.
        inputs: returns what an arm learns from with a seed, called when the arms before it are trained; default
            `images`, `store` and `soft_labels`. Test images must be the same.
        margin: difference of test accuracy that does not matter, from 0 to 1.

    Raises:
        ConfigError: invalid seeds, no arm that learns from descriptions, or a run in the work directory was created
            with different settings.
        StoreError: the vectors belong to other descriptions.
    """
    stores = (store,) if isinstance(store, EmbeddingStore) else tuple(store)
    _check(images, descriptions, stores, seeds)
    workdir, recipe, seeds = WorkDir(work), on_this_machine(recipe), tuple(seeds)
    workers = loader_workers(workers)
    outcomes: dict[str, list[RunOutcome]] = {arm: [] for arm in _choose_arms(arms, recipe)}
    layouts = {(seed, arm): RunLayout(workdir.run(arm, seed)) for seed in seeds for arm in outcomes}
    done = {key for key, layout in layouts.items() if layout.result.exists()}
    augmentation, numbers, model = _augmentation(tuple(layouts.values())), count(1), None
    with console.progress(f"All {len(layouts)} runs", len(layouts), done=len(done)) as overall:
        for seed in seeds:
            for arm, finished in outcomes.items():
                title = f"Run {next(numbers)} of {len(layouts)}: {arm}, seed {seed}"
                own = RunInputs(images, stores, tuple(soft_labels))
                if inputs is not None:
                    with make_accelerator(recipe).main_process_first():
                        own = inputs(arm, seed)
                run = train_model(
                    own.images,
                    own.stores,
                    recipe,
                    layouts[seed, arm].folder,
                    soft_labels=own.soft_labels,
                    arm=arm,
                    seed=seed,
                    features=workdir.features,
                    workers=workers,
                    checkpoint_seconds=checkpoint_seconds,
                    augmentation=augmentation,
                    tracking=tracking,
                    progress=partial(console.progress, title, part_of=overall),
                )
                predictions = predict_test_images(run, images, features=workdir.features, workers=workers)
                finished.append(RunOutcome(run, predictions))
            known = workdir.comparison.exists() and all((seed, arm) in done for arm in outcomes)
            if known and seed != seeds[-1]:
                continue
            with console.doing("Summarising the runs"):  # those so far, so that a report can be written meanwhile
                model = model or measure_model(outcomes[REFERENCE][0].run)
                found = record_comparison(images, descriptions, stores, recipe, outcomes, soft_labels, margin)
                setting = {"planned_seeds": len(seeds), "model": model, "command": _record_command(workdir)}
                comparison = found.model_copy(update=setting)
                if make_accelerator(recipe).is_main_process:
                    _save(comparison, images, descriptions, outcomes, workdir)
    return comparison


def _save(
    comparison: Comparison,
    images: ImageTable,
    descriptions: DescriptionSet,
    outcomes: Mapping[str, Sequence[RunOutcome]],
    workdir: WorkDir,
) -> None:
    """Write the records that the report reads."""
    first = {arm: outcomes[arm][0].predictions for arm in (REFERENCE, comparison.difference.arm)}
    choose_gallery(images, descriptions, first).save(workdir.gallery)
    answers = {(arm, run.run.seed): run.predictions for arm, runs in outcomes.items() for run in runs}
    write_test_answers(workdir.test_answers, images, answers)
    comparison.save(workdir.comparison)


def _record_command(workdir: WorkDir) -> CommandRecord | None:
    """Return the command line that is running; None in a Python program."""
    typed = current_invocation()
    if typed is None:
        return None
    return CommandRecord(program=typed.program, arguments=list(typed.arguments), work=str(workdir.folder))


def _augmentation(runs: Sequence[RunLayout]) -> int:
    """Return the version of the augmentation of all runs: the oldest that one of them began with."""
    version = min((run.augmentation for run in runs if run.augmentation), default=AUGMENTATION)
    if version < AUGMENTATION and not all(run.result.exists() for run in runs):
        console.say(
            f"Some of these runs began with version {version} of the augmentation, so the others get it too. In a new "
            f"work directory they would get version {AUGMENTATION}."
        )
    return version


def _choose_arms(arms: Sequence[str], recipe: Recipe) -> list[str]:
    """Return the arms to train. ConfigError if nothing would be learned from them."""
    names = choose_arms(arms)
    if find_candidate(names) is None:
        raise ConfigError(
            f"arms: none of {', '.join(names)} learns from descriptions. Add one, such as {CANDIDATE} or text-labels."
        )
    if CANDIDATE in names and not recipe.soft_labels and not (recipe.weight and recipe.align_until):
        raise ConfigError(
            f"The arms {REFERENCE} and {CANDIDATE} would be the same: set weight and align_until above 0 to align with "
            "descriptions, or soft_labels above 0."
        )
    return names


def _check(
    images: ImageTable,
    descriptions: DescriptionSet,
    stores: Sequence[EmbeddingStore],
    seeds: Sequence[int],
) -> None:
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds should be different numbers, 0 or greater, not {list(seeds)}.")
    for store in filter(is_text, stores):
        store.check(descriptions)
    if len(labelled_rows(images, "test")) < 2:
        raise ConfigError(
            f"{images.source} has a single test image, too few to compare on. Add images, or raise "
            "test_share (--test-share)."
        )
