"""Arms x seeds: train what is not finished, answer the test images once, and compare seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt4image.compare.gallery import choose_gallery
from gpt4image.compare.records import Comparison
from gpt4image.compare.summarize import CANDIDATE, REFERENCE, RunOutcome, record_comparison
from gpt4image.compare.test_answers import answer_test_images
from gpt4image.core.errors import ConfigError
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.soft_labels import SoftLabels
from gpt4image.train.data import labelled_rows
from gpt4image.train.guidance import is_text
from gpt4image.train.processes import make_accelerator
from gpt4image.train.recipe import Recipe
from gpt4image.train.run import train_model


def compare_arms(
    images: ImageTable,
    descriptions: DescriptionSet,
    store: EmbeddingStore | Sequence[EmbeddingStore],
    recipe: Recipe,
    work: Path,
    *,
    soft_labels: Sequence[SoftLabels] = (),
    seeds: Sequence[int] = (0, 1, 2),
    workers: int = 0,
    checkpoint_seconds: float = 60.0,
) -> Comparison:
    """Train with and without descriptions with each seed and compare the two on the test images.

    Runs that are finished are not trained again; one that was killed goes on where it was. The comparison is also
    written to `comparison.json` and `gallery.json` in the work directory.

    Args:
        images: the images.
        descriptions: their texts.
        store: vectors of these texts, by one encoder or several, and those of vision teachers.
        recipe: how both arms are trained.
        work: the work directory.
        soft_labels: labels that recipes may mix in.
        seeds: seeds; both arms are trained with each.
        workers: processes that prepare batches.
        checkpoint_seconds: time between two checkpoints of a run.

    Raises:
        ConfigError: no seed or one twice, or a run with other settings is there.
        StoreError: the vectors are not those of the descriptions.
    """
    check_seeds(seeds)
    if not recipe.soft_labels and not (recipe.weight and recipe.align_until):
        raise ConfigError("weight, align_until and soft_labels leave nothing to compare: both arms would be the same.")
    stores = (store,) if isinstance(store, EmbeddingStore) else tuple(store)
    for each in stores:
        if is_text(each):
            each.check(descriptions)
    if len(labelled_rows(images, "test")) < 2:
        raise ConfigError(
            f"{images.source} has a single test image: that compares nothing. Add images, or raise --test-share."
        )
    workdir = WorkDir(work)
    outcomes: dict[str, list[RunOutcome]] = {REFERENCE: [], CANDIDATE: []}
    for seed in seeds:
        for arm, finished in outcomes.items():
            run = train_model(
                images,
                stores,
                recipe,
                workdir.run(arm, seed),
                soft_labels=soft_labels,
                arm=arm,
                seed=seed,
                features=workdir.features,
                workers=workers,
                checkpoint_seconds=checkpoint_seconds,
            )
            finished.append(
                RunOutcome(run, answer_test_images(run, images, features=workdir.features, workers=workers))
            )
    comparison = record_comparison(images, descriptions, stores, recipe, outcomes, soft_labels)
    if make_accelerator(recipe).is_main_process:
        comparison.save(workdir.comparison)
        choose_gallery(images, descriptions, {arm: runs[0].answers for arm, runs in outcomes.items()}).save(
            workdir.gallery
        )
    return comparison


def check_seeds(seeds: Sequence[int]) -> None:
    """ConfigError unless the seeds are some different numbers from 0 up."""
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds must be different numbers from 0 up, not {list(seeds)}.")
