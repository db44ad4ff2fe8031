"""Describing as a step of a datatrove pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from gpt4image.options import DataOptions, DescribeOptions


@dataclass(frozen=True)
class Order:
    """What every worker is told: plain settings, which may end in logs and pickles. No key is among them.

    Attributes:
        data: the images.
        options: who describes them; what may be under way at once is one worker's share.
        work: the work directory, absolute, on a file system that all workers share.
        run: folder of the run in it.
        home: the directory that other paths are relative to.
        dollars: what a worker may spend; None for no limit.
        launcher: process that started the workers and that they end with; None for whatever process starts them.
        alone: whether nobody holds the store for the workers while they are at work.
    """

    data: DataOptions
    options: DescribeOptions
    work: Path
    run: Path
    home: Path
    dollars: float | None = None
    launcher: int | None = None
    alone: bool = False


class DescribeStep(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Describes one share of what is left.

    Args:
        order: what is to be done.
    """

    name = "describe"
    type = "gpt4image"

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """Describe share `rank` of `world_size`.

        Raises:
            DescribeError: it could not go on. Raised here, so that logs that show the values of variables find no key.
        """
        from gpt4image.engine.worker import do_share

        failure = do_share(self.order, rank, world_size)
        if failure is not None:
            raise failure
