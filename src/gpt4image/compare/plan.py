"""The plan of a comparison: every arm, variant and seed, what is already finished, and how long the rest takes."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from gpt4image.core import console
from gpt4image.core.files import digest
from gpt4image.core.format import counted, duration
from gpt4image.core.workdir import WorkDir
from gpt4image.soft_labels import summarise_text_labels
from gpt4image.train.build import count_steps
from gpt4image.train.checkpoint import checkpoint_progress
from gpt4image.train.identity import in_words, settings_digest
from gpt4image.train.processes import device_name, make_accelerator
from gpt4image.train.recipe import AUGMENTATION, GUIDANCE_SETTINGS, Recipe, field_names
from gpt4image.train.run import TrainedRun, measure_step, open_run, specify_run
from gpt4image.train.spec import ARMS, REFERENCE, RunInputs, RunSpec
from gpt4image.train.tracking import Tracking

RunState = Literal["finished", "begun", "new"]
FindInputs = Callable[[str, int, Path | None], RunInputs]
"""Returns an arm's inputs for a seed; the folder is that of the baseline run, for arms that need one."""
SPEED_SETTINGS = (
    "backbone",
    "image_size",
    "batch_size",
    "accumulate",
    "freeze",
    "cached_views",
    "precision",
    "compile",
)
MEASURED_CROPS = 16  # crops on which a teacher is timed
MOST_CHANGES = 4  # differences from earlier runs that are shown for each arm


@dataclass(frozen=True)
class Variant:
    """An arm with settings of its own.

    Attributes:
        arm: name of the arm.
        recipe: its recipe.
        changes: settings in which this variant differs from others of the arm.
        baseline: recipe of the baseline runs that make labels for this arm; None if it needs none.
    """

    arm: str
    recipe: Recipe
    changes: Mapping[str, Any] = field(default_factory=dict)
    baseline: Recipe | None = None

    @property
    def title(self) -> str:
        """The arm and what this variant changes, such as `described, weight 0.1`."""
        return ", ".join([self.arm, *(f"{name} {in_words(value)}" for name, value in self.changes.items())])


def make_variants(arms: Sequence[str], recipe: Recipe, sweep: Mapping[str, Sequence[Any]]) -> list[Variant]:
    """Return a variant of each arm for each combination of swept settings that makes a difference to it.

    Raises:
        ConfigError: an unknown setting or an invalid value; the message says which.
    """
    found: dict[str, Variant] = {}
    for arm, values in product(arms, product(*sweep.values())):
        changes = dict(zip(sweep, values, strict=True))
        changed = recipe.override(changes, "sweep (--sweep)")
        chosen = ARMS.load(arm)
        idle = set(chosen.settings) if chosen.uses_text else {*chosen.settings, *field_names(*GUIDANCE_SETTINGS)}
        own = {name: value for name, value in changes.items() if name not in idle}
        effective = replace(changed, **chosen.settings)
        found.setdefault(digest(arm, repr(effective)), Variant(arm, changed, own))
    return list(found.values())


@dataclass(frozen=True)
class RunMaker:
    """Specifies runs.

    Attributes:
        given: images, vectors and soft labels of arms without inputs of their own.
        inputs: finds an arm's inputs, if arms differ in them.
        workdir: the work directory.
        workers: processes that prepare batches.
        checkpoint_seconds: time between two checkpoints.
        tracking: experiment trackers.
    """

    given: RunInputs
    inputs: FindInputs | None
    workdir: WorkDir
    workers: int
    checkpoint_seconds: float
    tracking: Tracking | None = None

    def __call__(
        self, variant: Variant, seed: int, *, augmentation: int | None = None, reserved: Sequence[Path] = ()
    ) -> RunSpec | None:
        """Return the specification of a run; None if the baseline that makes its labels is not trained yet."""
        baseline: Path | None = None
        if self.inputs is not None and ARMS.load(variant.arm).labels == "baseline":
            teacher = self(Variant(REFERENCE, variant.baseline or variant.recipe), seed, augmentation=augmentation)
            if teacher is None or not teacher.layout.result.exists():
                return None
            baseline = teacher.layout.folder
        own = self.given
        if self.inputs is not None:
            with make_accelerator(variant.recipe).main_process_first():
                own = self.inputs(variant.arm, seed, baseline)
        return specify_run(
            own,
            variant.recipe,
            self.workdir.run(variant.arm, seed),
            arm=variant.arm,
            seed=seed,
            features=self.workdir.features,
            workers=self.workers,
            checkpoint_seconds=self.checkpoint_seconds,
            augmentation=augmentation,
            tracking=self.tracking,
            reserved=reserved,
        )


@dataclass(frozen=True)
class PlannedRun:
    """A run of a plan. `spec` is None while it waits for its baseline."""

    variant: Variant
    seed: int
    spec: RunSpec | None

    @property
    def state(self) -> RunState:
        """Whether it is finished, interrupted or new."""
        if self.spec is None or not self.spec.layout.begun:
            return "new"
        return "finished" if self.spec.layout.result.exists() else "begun"


@dataclass
class Plan:
    """The runs of a comparison, seed by seed, and their speed.

    Attributes:
        runs: the runs in the order of training.
        augmentation: version of the augmentation of all runs.
        step_seconds: seconds of an optimiser step; None if nothing is left to train.
        measured: whether that was measured now rather than in earlier runs.
        crop_seconds: additional seconds that a vision-language teacher takes for a crop; 0 if no crops are left.
    """

    runs: list[PlannedRun]
    augmentation: int
    step_seconds: float | None = None
    measured: bool = False
    crop_seconds: float = 0.0

    @classmethod
    def make(
        cls, maker: RunMaker, variants: Sequence[Variant], seeds: Sequence[int], taken: list[Path] | None = None
    ) -> Plan:
        """Specify every run, which checks all settings. Variants that give the same runs are merged.

        Args:
            maker: specifies them.
            variants: the arms and their recipes.
            seeds: seeds of each.
            taken: folders of other planned runs that have not begun; those of this plan are added.
        """
        others = tuple(taken or ())
        with console.doing("Planning the runs"):
            plan = cls._specify(maker, variants, seeds, None, others)
            begun = {run.spec.augmentation for run in plan.runs if run.spec and run.state != "new"}
            version = min(begun, default=AUGMENTATION)
            if version < AUGMENTATION:
                if any(run.state != "finished" for run in plan.runs):
                    console.say(
                        f"Some of these runs were started with version {version} of the augmentation, so the others "
                        f"use it too. In a new work directory they would use version {AUGMENTATION}."
                    )
                plan = cls._specify(maker, variants, seeds, version, others)
        if taken is not None:
            taken += [run.spec.layout.folder for run in plan.runs if run.spec]
        return plan

    @classmethod
    def _specify(
        cls,
        maker: RunMaker,
        variants: Sequence[Variant],
        seeds: Sequence[int],
        augmentation: int | None,
        taken: Sequence[Path] = (),
    ) -> Plan:
        found: dict[str, tuple[Variant, list[RunSpec | None]]] = {}
        reserved = list(taken)
        for variant in variants:
            specs = [maker(variant, seed, augmentation=augmentation, reserved=reserved) for seed in seeds]
            identity = digest(*(settings_digest(spec.settings()) if spec else repr(variant) for spec in specs))
            if identity in found:  # only the changes that both share distinguish them from others
                shared = {name: value for name, value in found[identity][0].changes.items() if name in variant.changes}
                shared = {name: value for name, value in shared.items() if variant.changes[name] == value}
                found[identity] = (replace(found[identity][0], changes=shared), found[identity][1])
            else:
                found[identity] = (variant, specs)
                reserved += [spec.layout.folder for spec in specs if spec]
        in_order = [
            PlannedRun(variant, seed, specs[number])
            for number, seed in enumerate(seeds)
            for variant, specs in found.values()
        ]
        return cls(in_order, augmentation or AUGMENTATION)

    @property
    def variants(self) -> list[Variant]:
        """The variants, each once if several gave the same runs."""
        return [run.variant for run in self.runs if run.seed == self.runs[0].seed]

    def steps_left(self, run: PlannedRun) -> int:
        """Return the optimiser steps that a run still needs."""
        if run.state == "finished":
            return 0
        known, epoch = self._epoch(run)
        done = checkpoint_progress(known.layout.checkpoint) if run.state == "begun" else (0, 0)
        return run.variant.recipe.epochs * epoch - done[0] * epoch - done[1]

    def _epoch(self, run: PlannedRun) -> tuple[RunSpec, int]:
        """Return the specification of a run, else of another with its seed, and its optimiser steps per epoch."""
        known = run.spec or next(other.spec for other in self.runs if other.spec and other.seed == run.seed)
        return known, count_steps(known, make_accelerator(known.recipe))

    def find_speed(self, workdir: WorkDir) -> None:
        """Find how long a step takes: from finished runs on the same device, else by timing a few steps."""
        unfinished = [run.spec for run in self.runs if run.spec and run.state != "finished"]
        if not unfinished:
            return
        todo = min(unfinished, key=lambda spec: spec.guidance.anchors is not None)
        taught = next((spec for spec in unfinished if spec.guidance.anchors), None)
        if taught is not None:
            with console.doing("Measuring the speed of the teacher"):
                self.crop_seconds = measure_teacher(taught)
        earlier = list(_recorded_speeds(workdir, todo))
        if earlier:
            self.step_seconds = statistics.median(earlier)
            return
        with console.doing("Measuring the speed of a few steps"):
            self.step_seconds, self.measured = measure_step(todo), True

    def crops_left(self, runs: Sequence[PlannedRun]) -> int:
        """Return how many crops a vision-language teacher still has to embed; stored views count once."""
        taught = [run for run in runs if run.state != "finished" and run.spec and run.spec.guidance.anchors]
        if taught and taught[0].variant.recipe.cached_views:
            views, images = taught[0].variant.recipe.cached_views, taught[0].spec and taught[0].spec.images
            return views * len(images.split("train")) if images else 0
        return sum(self.steps_left(run) * run.variant.recipe.batch_size for run in taught)

    def lines(self, workdir: WorkDir, at_once: int = 1) -> list[str]:
        """Describe the plan and its duration in words, with `at_once` runs trained at once."""
        counts = Counter(run.state for run in self.runs)
        steps = sum(map(self.steps_left, self.runs))
        words: dict[RunState, str] = {"finished": "finished before", "begun": "to resume", "new": "to train"}
        shares = [f"{counts[state]} {words[state]}" for state in words if counts[state]]
        lines = [f"{counted(len(self.runs), 'run')}: {', '.join(shares)}."]
        arms_told: set[str] = set()
        for variant in self.variants:
            runs = [run for run in self.runs if run.variant is variant]
            states = Counter(run.state for run in runs)
            own = [f"{states[state]} {words[state]}" for state in words if states[state]]
            lines.append(f"  {variant.title}: {', '.join(own)}")
            fresh = [(run.spec, run.seed) for run in runs if run.spec and run.state == "new"]
            found = (spec.describe_changes(workdir.run(variant.arm, seed)) for spec, seed in fresh)
            changes = next(filter(None, found), [])  # of one seed: simulated labels differ between seeds
            made = runs[0].spec.guidance.soft_labels if runs[0].spec and runs[0].variant.arm not in arms_told else ()
            for estimate in (labels.manifest.estimate for labels in made):
                if estimate is not None and states["new"]:
                    arms_told.add(variant.arm)
                    lines.append(f"    Labels, seed {runs[0].seed}: {summarise_text_labels(estimate)}.")
            if changes:
                told = changes[:MOST_CHANGES]
                more = [f"{len(changes) - len(told)} more"] if len(changes) > len(told) else []
                lines.append(f"    Differs from earlier runs: {'; '.join([*told, *more])}.")
        if steps and self.step_seconds is not None:
            source = "measured now, without validation" if self.measured else "as in earlier runs"
            speed = f"{duration(self.step_seconds)}" if self.step_seconds >= 1 else f"{self.step_seconds * 1000:.0f} ms"
            left = f"about {duration(steps * self.step_seconds / at_once)}"
            left += f" with {at_once} runs at once" if at_once > 1 else ""
            lines.append(f"{counted(steps, 'optimiser step')}, {speed} each ({source}): {left}.")
        if crops := self.crop_seconds and self.crops_left(self.runs):
            ms, left = self.crop_seconds * 1000, f"about {duration(crops * self.crop_seconds)} more"
            lines.append(f"A vision-language teacher sees {counted(int(crops), 'crop')}, {ms:.2g} ms each: {left}.")
        lines.append("The test images are predicted once, after all runs are trained.")
        return lines

    def time_left(self, after: int, later: int = 0, at_once: int = 1) -> str:
        """Return how long the runs from a position on will take, in words; empty if unknown.

        Args:
            after: the position.
            later: number of runs after this plan, each taken to last as long as its last one.
            at_once: number of runs that are trained at once.
        """
        if self.step_seconds is None:
            return ""
        last = self.runs[-1]
        steps = sum(map(self.steps_left, self.runs[after:])) + later * last.variant.recipe.epochs * self._epoch(last)[1]
        seconds = self.step_seconds * steps
        seconds += self.crop_seconds * self.crops_left(self.runs[after:])
        seconds = max(seconds / at_once, self.step_seconds * self.steps_left(self.runs[after]))
        return _in_words(seconds)

    def learn_speed(self, run: TrainedRun) -> None:
        """Use the speed of the run that was just trained as the estimate for the next ones."""
        if run.steps and run.seconds and run.arm.guidance != "anchors":
            self.step_seconds = run.seconds / run.steps


def time_left(plans: Sequence[Plan], at_once: int) -> str:
    """Return how long the unfinished runs of several plans will take, in words; empty if unknown.

    Args:
        plans: the plans, whose runs share one queue.
        at_once: number of runs that are trained at once.
    """
    found = [(plan.step_seconds or 0) * steps for plan in plans for steps in map(plan.steps_left, plan.runs) if steps]
    return _in_words(max(sum(found) / at_once, *found)) if found and all(found) else ""


def _in_words(seconds: float) -> str:
    return f", about {duration(60 * round(seconds / 60) if seconds > 90 else max(1, round(seconds)))} left"


def _recorded_speeds(workdir: WorkDir, spec: RunSpec) -> Iterator[float]:
    """Yield the seconds per step of comparable finished runs on the same device."""
    device = device_name(make_accelerator(spec.recipe))
    for path in sorted(workdir.runs.glob("*/result.json")):
        run = open_run(path.parent)
        same = all(getattr(run.recipe, name) == getattr(spec.recipe, name) for name in SPEED_SETTINGS)
        alike = run.arm.uses_text == spec.arm.uses_text and run.arm.guidance != "anchors"
        if same and run.steps and run.device == device and alike:
            yield run.seconds / run.steps


def measure_teacher(spec: RunSpec) -> float:
    """Return the seconds that the vision-language teacher of a run takes for a crop; 0 if it has none."""
    if spec.guidance.anchors is None:
        return 0.0
    device, size = make_accelerator(spec.recipe).device, spec.recipe.image_size
    crops = torch.rand(MEASURED_CROPS, 3, size, size, device=device)
    times: list[float] = []
    for _ in range(2):  # the first one warms up
        started = time.monotonic()
        spec.guidance.anchors.teacher.embed_crops(crops).sum().item()  # reading the number waits for the device
        times.append(time.monotonic() - started)
    return times[-1] / MEASURED_CROPS
