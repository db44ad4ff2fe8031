"""From a source of images to a description set: what `gpt4image describe` and its Python call run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gpt4image.errors import ConfigError
from gpt4image.options import DataOptions, DescribeOptions
from gpt4image.pipeline import open_images
from gpt4image.workspace import Workspace

if TYPE_CHECKING:
    from gpt4image.describe.cost.estimate import Estimate
    from gpt4image.describe.job import DescribeJob
    from gpt4image.describe.runner import Tally
    from gpt4image.images import ImageTable

T = TypeVar("T")

SIZES = (256, 512, 768, 1024, 1536)
"""Longest sides in pixels whose tokens an estimate shows."""

Confirm = Callable[["Estimate"], bool]


def run_description(data: DataOptions, options: DescribeOptions, work: Path, confirm: Confirm | None = None) -> Tally:
    """Write every description that is still missing into the work directory.

    Args:
        data: the images.
        options: who describes them and what is asked.
        work: the work directory.
        confirm: asked with an estimate before money is spent that no budget limits; without it nothing is asked.

    Raises:
        DescribeError: no description can be written; what was answered is kept.
    """
    from gpt4image.describe.job import describe

    return with_job(data, options, work, lambda job: describe(job, confirm))


def run_estimate(data: DataOptions, options: DescribeOptions, work: Path) -> Estimate:
    """Measure on a few descriptions, which are kept, what all of them will take."""
    from gpt4image.describe.job import estimate

    return with_job(data, options, work, lambda job: estimate(job, sizes=SIZES))


def with_job(data: DataOptions, options: DescribeOptions, work: Path, do: Callable[[DescribeJob], T]) -> T:
    """Open images, store and describers, and do something with them."""
    from gpt4image.describe.job import hold_store, open_job, read_strategies
    from gpt4image.describe.session import open_session, outside_loops
    from gpt4image.describe.store import DescriptionStore

    space = Workspace(work)
    store = DescriptionStore(space.description_store)

    def work_through() -> T:
        read_strategies(options)  # what cannot be meant is said before an image is read
        with open_session(options) as session:
            images = open_images(data, space)
            with hold_store(store):
                return do(open_job(images, store, session, options, read_neighbours(images, options, space)))

    return outside_loops(work_through)


def read_neighbours(
    images: ImageTable, options: DescribeOptions, space: Workspace
) -> Mapping[int, tuple[str, ...]] | None:
    """The classes that a trained run confuses with each, where the options name a run.

    Raises:
        ConfigError: the run was trained on other classes.
        StoreError: there is no finished run.
    """
    if options.confusions is None:
        return None
    from gpt4image.describe.prompts.values import most_confused
    from gpt4image.evaluate.confusion import validation_confusion
    from gpt4image.train.run import open_run

    run = open_run(options.confusions)
    if run.classes != images.classes:
        raise ConfigError(f"{options.confusions} was trained on other classes than those of {images.source}.")
    return most_confused(validation_confusion(run, images, space.features), images.classes)
