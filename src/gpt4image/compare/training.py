"""Train the runs of a plan: one after another in this process, or several at once in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from gpt4image.compare.plan import Plan, PlannedRun, RunMaker, Variant, time_left
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
    """Open processes that share this one's threads evenly with it; yield None to train in this process.

    Raises:
        ConfigError: fewer than one run at once, or several processes train each run.
    """
    if runs_at_once < 1:
        raise ConfigError(f"runs_at_once (--runs-at-once) must be 1 or more, not {runs_at_once}.")
    if runs_at_once == 1:
        yield None
        return
    if make_accelerator(recipe).num_processes > 1:
        raise ConfigError("Each run is already trained by several processes: leave runs_at_once (--runs-at-once) at 1.")
    threads = torch.get_num_threads()
    share = max(1, threads // runs_at_once)
    torch.set_num_threads(share)
    try:
        with SideBySide(runs_at_once, share, [__name__]) as processes:
            yield processes
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Series:
    """A series of comparisons with one progress line, and the place of the current one.

    Attributes:
        place: the place, such as `Case 2 of 3`.
        before: runs of the comparisons before it.
        runs: runs of the whole series.
        overall: progress line that advances by one with each run.
        trained: whether all runs of the series are trained and counted on the line.
    """

    place: str
    before: int
    runs: int
    overall: console.Meter
    trained: bool = False


@dataclass(frozen=True)
class Compared:
    """The runs of a comparison before they are planned.

    Attributes:
        maker: specifies them.
        variants: the arms and their recipes.
        seeds: seeds of each.
        place: place of the comparison in a series; None outside a series.
    """

    maker: RunMaker
    variants: Sequence[Variant]
    seeds: Sequence[int]
    place: Series | None = None


def make_inputs(processes: SideBySide, compared: Sequence[Compared]) -> None:
    """Make the inputs of the runs of several comparisons in parallel, and the features of frozen stages they share.

    The plans then find them in the work directory.
    """
    maker, recipe = compared[0].maker, compared[0].variants[0].recipe
    first = maker(Variant(REFERENCE, recipe), compared[0].seeds[0])
    if first is not None and recipe.cached_views and not first.layout.begun:
        processes.submit(Task(None, "storing the features of frozen stages", measure_step, (first,)))
    for each in compared:
        made = [variant for variant in each.variants if _makes_inputs(variant)]
        for seed, variant in product(each.seeds, made):
            processes.submit(_labels_task(None, each.maker, variant, seed))
    with console.progress("Prepare what the runs share", processes.waiting) as meter:
        for _ in processes.finished():
            meter.advance()


def _makes_inputs(variant: Variant) -> bool:
    """Whether an arm learns from labels or texts that are made for it without a finished run."""
    arm = ARMS.load(variant.arm)
    return arm.texts is not None or arm.labels not in (None, "baseline")


def _labels_task(key: tuple[int, int] | None, maker: RunMaker, variant: Variant, seed: int) -> Task:
    return Task(key, f"the labels of {variant.title}, seed {seed}", _make_labels, (maker, variant, seed))


def _make_labels(maker: RunMaker, variant: Variant, seed: int) -> None:
    maker(variant, seed)  # leaves them in the work directory


def train_runs(
    plan: Plan,
    maker: RunMaker,
    overall: console.Meter,
    series: Series | None,
    processes: SideBySide | None = None,
) -> Iterator[tuple[int, TrainedRun]]:
    """Train the runs of a plan that are not finished; yield each with its position as it ends.

    Args:
        plan: the plan.
        maker: specifies runs that learn from the predictions of others.
        overall: progress line that advances by one with each run.
        series: the series that the plan is a part of.
        processes: processes to train several runs at once; None to train them one by one in this process.
    """
    training = _Training(plan, maker, overall, series, processes)
    if processes is None:
        return training.one_by_one()
    return ((number, run) for _, number, run in _side_by_side([training], processes))


def train_together(
    compared: Sequence[Compared], overall: console.Meter, processes: SideBySide
) -> list[list[TrainedRun]]:
    """Train the runs of several comparisons that share no run; return those of each, in the order of its plan.

    All are in one queue, so that no process waits for the end of a comparison.

    Args:
        compared: the comparisons.
        overall: progress line that advances by one with each run.
        processes: processes to train in.
    """
    make_inputs(processes, compared)
    plans, taken = list[Plan](), list[Path]()
    for each in compared:
        plan = Plan.make(each.maker, each.variants, each.seeds, taken)
        known = next((other for other in plans if other.step_seconds is not None), None)
        if known is None:
            plan.find_speed(each.maker.workdir)
        else:
            plan.step_seconds = known.step_seconds
        plans.append(plan)
    trainings = [
        _Training(plan, each.maker, overall, each.place, processes, plans, taken)
        for plan, each in zip(plans, compared, strict=True)
    ]
    found: list[dict[int, TrainedRun]] = [{} for _ in plans]
    for at, number, run in _side_by_side(trainings, processes):
        found[at][number] = run
    return [[runs[number] for number in sorted(runs)] for runs in found]


def _side_by_side(trainings: Sequence[_Training], processes: SideBySide) -> Iterator[tuple[int, int, TrainedRun]]:
    """Train in other processes; yield the position of a training, the position of a run in it, and the run."""
    for at, training in enumerate(trainings):
        for number, run in training.begin(at):
            yield at, number, run
    for task, result in processes.finished():
        at, number = task.key
        for found in trainings[at].take(task, number, result):
            yield at, *found


class _Training:
    """The training of a plan's runs; for the arguments see `train_runs`."""

    def __init__(
        self,
        plan: Plan,
        maker: RunMaker,
        overall: console.Meter,
        series: Series | None,
        processes: SideBySide | None,
        together: Sequence[Plan] = (),
        taken: list[Path] | None = None,
    ) -> None:
        self._plan, self._maker, self._overall, self._series = plan, maker, overall, series
        self._processes, self._at_once = processes, processes.count if processes else 1
        self._together = together  # the plans whose runs are trained at the same time, including this one
        self._taken = [] if taken is None else taken  # folders of runs that are trained at the same time
        self._place = 0  # of this one among several
        self._blocked: list[int] = []

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

    def begin(self, place: int = 0) -> Iterator[tuple[int, TrainedRun]]:
        """Hand the runs to other processes; yield those that are finished.

        A run that learns from a baseline's predictions begins after the baseline.

        Args:
            place: position of this training among several.
        """
        self._place = place
        for number, planned in enumerate(self._plan.runs):
            if planned.state == "finished" and planned.spec is not None:
                yield number, self._open(planned.spec)
            elif planned.spec is not None:
                self._submit(number, planned.spec)
            else:
                self._blocked.append(number)
        self._label()

    def take(self, task: Task, number: int, result: Any) -> Iterator[tuple[int, TrainedRun]]:  # noqa: ANN401
        """Process the result of a run's task; yield the run once it is trained."""
        if task.function is train_run:
            for plan in self._together or (self._plan,):
                plan.learn_speed(result)
            yield number, result
            self._label()
            return
        spec = self._specify(self._plan.runs[number])
        if spec.layout.result.exists():
            yield number, self._open(spec)
        else:
            self._submit(number, spec)

    def _label(self) -> None:
        """Let finished baselines make labels for the runs that learn from them."""
        waiting = []
        for number in self._blocked:
            planned = self._plan.runs[number]
            if self._has_baseline(planned.seed):
                self._hand_out(_labels_task((self._place, number), self._maker, planned.variant, planned.seed))
            else:
                waiting.append(number)
        self._blocked = waiting

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
        if self._series is not None and not self._series.trained:
            self._overall.skip()
        return train_run(spec)

    def _submit(self, number: int, spec: RunSpec) -> None:
        self._taken.append(spec.layout.folder)
        title = f"training {spec.arm.name}, seed {spec.seed}"
        self._hand_out(Task((self._place, number), title, train_run, (spec,), partial(self._lines, number)))

    def _hand_out(self, task: Task) -> None:
        assert self._processes is not None
        self._processes.submit(task)

    def _lines(self, number: int) -> console.OpenProgress:
        """Return a function that opens the progress line of a run that begins now."""
        planned, series = self._plan.runs[number], self._series
        if series is None:
            title = f"Run {number + 1} of {len(self._plan.runs)}: {planned.variant.title}, seed {planned.seed}"
            left = self._plan.time_left(number, at_once=self._at_once)
        else:
            title = f"{series.place}, run {series.before + number + 1} of {series.runs}"
            if self._together:
                left = time_left(self._together, self._at_once)
            else:
                later = series.runs - series.before - len(self._plan.runs)
                left = self._plan.time_left(number, later, self._at_once)
            left = left.replace("about ", "")  # to fit a terminal of 80 columns
        return partial(console.progress, title, part_of=self._overall, remark=left)


def judge_runs(
    processes: SideBySide,
    runs: Sequence[TrainedRun],
    images: ImageTable,
    features: Path,
    frozen_accuracy: Callable[[], float | None] | None,
) -> float | None:
    """Predict the test images with trained runs, in parallel; the predictions are stored with the runs.

    Args:
        processes: processes to predict in.
        runs: the runs.
        images: the images.
        features: folder of cached features.
        frozen_accuracy: also called in one of the processes; its result is returned.
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
