"""Train the runs of a plan: one after another in this process, or several at once in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from gpt4image.compare.plan import Plan, PlannedRun, RunMaker, Variant
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core import console
from gpt4image.core.errors import ConfigError
from gpt4image.core.side_by_side import SideBySide, Task
from gpt4image.images.table import ImageTable
from gpt4image.train.processes import make_accelerator
from gpt4image.train.recipe import Recipe
from gpt4image.train.run import TrainedRun, measure_step, train_run
from gpt4image.train.spec import ARMS, REFERENCE, RunSpec


@contextmanager
def open_processes(runs_at_once: int, recipe: Recipe) -> Iterator[SideBySide | None]:
    """Open processes that share the threads of this one, which gets no more than each; None to train here.

    Raises:
        ConfigError: fewer than one run at once, or several processes train each run.
    """
    if runs_at_once < 1:
        raise ConfigError(f"runs_at_once (--runs-at-once) should be 1 or more, not {runs_at_once}.")
    if runs_at_once == 1:
        yield None
        return
    if make_accelerator(recipe).num_processes > 1:
        raise ConfigError("Several processes train each run already: leave runs_at_once (--runs-at-once) at 1.")
    threads = torch.get_num_threads()
    share = max(1, threads // runs_at_once)
    torch.set_num_threads(share)
    try:
        with SideBySide(runs_at_once, share, [__name__]) as processes:
            yield processes
    finally:
        torch.set_num_threads(threads)


def make_inputs(processes: SideBySide, maker: RunMaker, variants: Sequence[Variant], seeds: Sequence[int]) -> None:
    """Make what the runs of a plan learn from, and the features of frozen stages that they share, on all processors.

    The plan then finds these in the work directory.
    """
    made = [variant for variant in variants if _makes_inputs(variant)]
    first = maker(Variant(REFERENCE, variants[0].recipe), seeds[0])
    if first is not None and variants[0].recipe.cached_views and not first.layout.begun:
        processes.submit(Task(None, "storing the features of frozen stages", measure_step, (first,)))
    for seed in seeds:
        for variant in made:
            processes.submit(_labels_task(None, maker, variant, seed))
    with console.progress("Prepare what the runs share", processes.waiting) as meter:
        for _ in processes.finished():
            meter.advance()


def _makes_inputs(variant: Variant) -> bool:
    """Whether an arm learns from labels or texts that are made for it, and do not come from a run."""
    arm = ARMS.load(variant.arm)
    return arm.texts is not None or arm.labels not in (None, "baseline")


def _labels_task(key: int | None, maker: RunMaker, variant: Variant, seed: int) -> Task:
    return Task(key, f"the labels of {variant.title}, seed {seed}", _make_labels, (maker, variant, seed))


def _make_labels(maker: RunMaker, variant: Variant, seed: int) -> None:
    maker(variant, seed)  # leaves them in the work directory


def train_runs(
    plan: Plan,
    maker: RunMaker,
    overall: console.Meter,
    series: console.Series | None,
    processes: SideBySide | None = None,
) -> Iterator[tuple[int, TrainedRun]]:
    """Train the runs of a plan that are not finished; yield each with its position as it ends.

    Args:
        plan: the plan.
        maker: specifies runs that learn from the answers of others.
        overall: line that moves on by one with each run.
        series: the series that the plan is a part of.
        processes: where several runs are trained at once; None to train one after another here.
    """
    training = _Training(plan, maker, overall, series, processes)
    return training.one_by_one() if processes is None else training.side_by_side(processes)


class _Training:
    """The training of a plan's runs; for the arguments see `train_runs`."""

    def __init__(
        self,
        plan: Plan,
        maker: RunMaker,
        overall: console.Meter,
        series: console.Series | None,
        processes: SideBySide | None,
    ) -> None:
        self._plan, self._maker, self._overall, self._series = plan, maker, overall, series
        self._at_once = processes.count if processes else 1
        self._taken: list[Path] = []  # folders of runs that are trained at the same time

    def one_by_one(self) -> Iterator[tuple[int, TrainedRun]]:
        """Train in this process."""
        for number, planned in enumerate(self._plan.runs):
            spec = self._specify(planned)
            if spec.layout.result.exists():
                yield number, self._open(spec)
                continue
            run = train_run(spec, self._lines(number))
            self._plan.learn_speed(run)
            yield number, run

    def side_by_side(self, processes: SideBySide) -> Iterator[tuple[int, TrainedRun]]:
        """Train in other processes. A run that learns from the answers of a baseline begins after that."""
        blocked: list[int] = []
        for number, planned in enumerate(self._plan.runs):
            if planned.state == "finished" and planned.spec is not None:
                yield number, self._open(planned.spec)
            elif planned.spec is not None:
                self._submit(processes, number, planned.spec)
            else:
                blocked.append(number)
        blocked = self._label(processes, blocked)
        for task, result in processes.finished():
            number = task.key
            if task.function is train_run:
                self._plan.learn_speed(result)
                yield number, result
                blocked = self._label(processes, blocked)
                continue
            spec = self._specify(self._plan.runs[number])
            if spec.layout.result.exists():
                yield number, self._open(spec)
            else:
                self._submit(processes, number, spec)

    def _label(self, processes: SideBySide, blocked: Sequence[int]) -> list[int]:
        """Let baselines that are finished answer for the runs that learn from them; return those that still wait."""
        waiting = []
        for number in blocked:
            planned = self._plan.runs[number]
            if self._has_baseline(planned.seed):
                processes.submit(_labels_task(number, self._maker, planned.variant, planned.seed))
            else:
                waiting.append(number)
        return waiting

    def _has_baseline(self, seed: int) -> bool:
        baselines = [run for run in self._plan.runs if run.variant.arm == REFERENCE and run.seed == seed]
        return all(run.state == "finished" for run in baselines)

    def _specify(self, planned: PlannedRun) -> RunSpec:
        spec = planned.spec or self._maker(
            planned.variant, planned.seed, augmentation=self._plan.augmentation, reserved=self._taken
        )
        if spec is None:
            raise ConfigError(f"The arm {planned.variant.arm} learns from the baseline, which is not trained.")
        return spec

    def _open(self, spec: RunSpec) -> TrainedRun:
        """Open a finished run."""
        if self._series is not None:
            self._overall.skip()
        return train_run(spec)

    def _submit(self, processes: SideBySide, number: int, spec: RunSpec) -> None:
        self._taken.append(spec.layout.folder)
        title = f"training {spec.arm.name}, seed {spec.seed}"
        processes.submit(Task(number, title, train_run, (spec,), partial(self._lines, number)))

    def _lines(self, number: int) -> console.OpenProgress:
        """Return what opens the progress line of a run that begins now."""
        planned, series = self._plan.runs[number], self._series
        if series is None:
            title = f"Run {number + 1} of {len(self._plan.runs)}: {planned.variant.title}, seed {planned.seed}"
            title += self._plan.time_left(number, at_once=self._at_once)
        else:
            title = f"{series.place}, run {series.before + number + 1} of {series.runs}"
            later = series.runs - series.before - len(self._plan.runs)
            left = self._plan.time_left(number, later, self._at_once)
            title += left.replace("about ", "")  # as short as a terminal of 80 columns wants it
        return partial(console.progress, title, part_of=self._overall)


def judge_runs(
    processes: SideBySide,
    runs: Sequence[TrainedRun],
    images: ImageTable,
    features: Path,
    frozen_accuracy: Callable[[], float | None] | None,
) -> float | None:
    """Let trained runs predict the test images on all processors; the predictions are stored with the runs.

    Args:
        processes: where.
        runs: the runs.
        images: the images.
        features: folder of cached features.
        frozen_accuracy: called there as well; its result is returned.
    """
    if frozen_accuracy is not None:
        processes.submit(Task("frozen", "a classifier on frozen features", frozen_accuracy, ()))
    for run in runs:
        title = f"predicting the test images with {run.arm.name}, seed {run.seed}"
        processes.submit(Task("run", title, _predict, (run, images, features)))
    with console.progress("Predict the test images", processes.waiting) as meter:
        found: float | None = None
        for task, result in processes.finished():
            found = result if task.key == "frozen" else found
            meter.advance()
    return found


def _predict(run: TrainedRun, images: ImageTable, features: Path) -> None:
    predict_test_images(run, images, features=features)
