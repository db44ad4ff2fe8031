"""Search for each arm's settings on the validation images, with the same effort for every arm.

Optuna proposes the settings (TPE, Bergstra et al., NeurIPS 2011) and stops trials that fall behind the median of
earlier ones (Golovin et al., "Google Vizier", KDD 2017, section 3.2.2). Its study is an SQLite file in the work
directory, so a killed search resumes: the trial that was running resumes from its checkpoint. Trials train
like any run, on training images, and are judged on validation images; test images are not read.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from gpt4image.compare.experiments import Experiment, experiment_layouts
from gpt4image.compare.plan import RunMaker, Variant
from gpt4image.core import console
from gpt4image.core.errors import ConfigError
from gpt4image.core.files import exclusive
from gpt4image.core.format import percent
from gpt4image.train.identity import NAMES, in_words, settings_digest
from gpt4image.train.libraries import require_library
from gpt4image.train.processes import make_accelerator
from gpt4image.train.recipe import Recipe
from gpt4image.train.run import train_run
from gpt4image.train.spec import ARMS, REFERENCE, RunSpec

if TYPE_CHECKING:
    import optuna

RANGE = 10.0  # settings are searched from a tenth of the recipe's value to ten times it
EPOCHS_RANGE = 2  # the epochs are searched from half the recipe's value to twice it
SMALLEST_WEIGHT_DECAY = 0.01  # in place of 0, whose range would be empty
LEAST_SHARE = 0.1  # smallest share of soft labels
PARTS = 10  # parts of a training; trials are compared after each, because they differ in their epochs
STARTUP_TRIALS = 5  # first trials, which are never stopped early
DIGITS = 3  # significant digits of a proposed number


class PrunedError(Exception):
    """Raised to stop a trial that has fallen behind."""


@dataclass(frozen=True)
class Range:
    """Values of a setting to search: from low to high, on a logarithmic scale, evenly, or whole numbers."""

    name: str
    low: float
    high: float
    kind: str = "log"

    def suggest(self, trial: optuna.Trial) -> float | int:
        """Let a trial propose a value."""
        if self.kind == "whole":
            return trial.suggest_int(self.name, int(self.low), int(self.high))
        return trial.suggest_float(self.name, self.low, self.high, log=self.kind == "log")

    def __str__(self) -> str:
        return f"{NAMES.get(self.name, self.name)} {in_words(self.low)} to {in_words(self.high)}"


def search_ranges(spec: RunSpec) -> list[Range]:
    """Return the settings to search for an arm: those that every arm has, and the arm's own weight."""
    recipe, fixed = spec.recipe, ARMS.load(spec.arm.name).settings
    decay = recipe.weight_decay or SMALLEST_WEIGHT_DECAY
    ranges = [
        Range("lr", recipe.lr / RANGE, recipe.lr * RANGE),
        Range("weight_decay", decay / RANGE, decay * RANGE),
        Range("epochs", max(1, recipe.epochs // EPOCHS_RANGE), recipe.epochs * EPOCHS_RANGE, "whole"),
    ]
    if spec.guidance.sources:
        ranges.append(Range("weight", recipe.weight / RANGE, recipe.weight * RANGE))
    if spec.guidance.soft_labels:
        ranges.append(Range("soft_labels", LEAST_SHARE, 1.0, "even"))
    return [found for found in ranges if found.name not in fixed]


@dataclass
class Tuner:
    """Searches for settings.

    Attributes:
        maker: specifies runs.
        recipe: recipe that the search begins with.
        trials: number of trials of each arm.
        seed: seed of every trial.
    """

    maker: RunMaker
    recipe: Recipe
    trials: int
    seed: int = 0

    def tune(self, arms: Sequence[str]) -> list[Variant]:
        """Return each arm with its best settings.

        Raises:
            MissingExtraError: Optuna is not installed.
            BusyError: another process searches in this work directory.
        """
        require_library("optuna")
        folder = self.maker.workdir.tuning
        first = make_accelerator(self.recipe).is_main_process
        found: dict[str, Variant] = {}
        with exclusive(folder / "tuning.lock", f"the search in {folder}") if first else nullcontext():
            for arm in arms:
                found[arm] = self._tune_arm(arm, found.get(REFERENCE))
        return list(found.values())

    def _tune_arm(self, arm: str, baseline: Variant | None) -> Variant:
        """Search for the settings of one arm; arms that learn from a baseline use the tuned one."""
        labels_from = baseline.recipe if baseline else None
        spec = self.maker(Variant(arm, self.recipe, baseline=labels_from), self.seed)
        if spec is None:
            raise ConfigError(f"The arm {arm} learns from the baseline, which is not trained yet: tune it first.")
        accelerator = make_accelerator(self.recipe)
        first = accelerator.is_main_process
        search = ArmStudy(self.maker.workdir.tuning, spec, search_ranges(spec), self.trials) if first else None
        with console.progress(f"Search for settings of {arm}", self.trials, done=search.done if search else 0) as meter:
            while True:
                values = _from_first(search.ask() if search else None)
                if values is None:
                    break
                variant = Variant(arm, self.recipe.override(values, "tune"), values, labels_from)
                self._try(variant, search, meter)
        best = _from_first(search.best() if search else None)
        if search:
            search.clean_up(self.maker.workdir.runs, protected_runs(self.maker))
            console.say(f"Best settings of {arm} on the validation images: {search.summary()}.")
        return Variant(arm, self.recipe.override(best, "tune"), best, labels_from)

    def _try(self, variant: Variant, search: ArmStudy | None, meter: console.Meter) -> None:
        """Train one trial to its end, or until it falls behind."""
        spec = self.maker(variant, self.seed)
        assert spec is not None  # its baseline is trained already
        if search:
            search.begin(spec)

        def after_epoch(history: Sequence[Mapping[str, Any]]) -> None:
            if _from_first(search.falls_behind(history, spec.recipe.epochs) if search else None):
                raise PrunedError

        title = f"Trial {search.number if search else 0} of {self.trials}: {variant.title}"
        try:
            run = train_run(spec, partial(console.progress, title, part_of=meter), after_epoch)
        except PrunedError:
            if search:
                search.prune()
        else:
            if search:
                search.falls_behind(run.history, spec.recipe.epochs)
                search.finish(run.best_accuracy)
        if search:
            meter.set(search.done)


class ArmStudy:
    """The study of one arm, which only the first process has.

    Args:
        folder: folder of all studies.
        spec: the run that the search begins with; its settings identify the study.
        ranges: what to search.
        trials: number of trials.
    """

    def __init__(self, folder: Path, spec: RunSpec, ranges: Sequence[Range], trials: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        folder.mkdir(parents=True, exist_ok=True)
        self._ranges, self._trials = ranges, trials
        self._trial: optuna.Trial | None = None
        self._told: set[int] = set()
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder / 'studies.db'}",
            study_name=f"{spec.arm.name}-{spec.seed}-{settings_digest(spec.settings())}",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=PARTS // 3),
            load_if_exists=True,
        )
        if not self._study.trials:
            start = {found.name: getattr(spec.recipe, found.name) for found in ranges}
            self._study.enqueue_trial({name: value or SMALLEST_WEIGHT_DECAY for name, value in start.items()})
        for trial in self._study.trials:  # those of a process that was killed
            if trial.state == optuna.trial.TrialState.RUNNING:
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                self._study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in self._study.trials)

    @property
    def number(self) -> int:
        """Number of the trial that is running, from 1."""
        return self.done + 1

    def ask(self) -> dict[str, Any] | None:
        """Propose settings; None if all trials have ended."""
        import optuna

        if self.done >= self._trials:
            return None
        # a sampler of its own for each trial: proposals depend on the trials so far, not on when the search was killed
        self._study.sampler = optuna.samplers.TPESampler(seed=self.done)
        self._trial, self._told = self._study.ask(), set()
        return {found.name: _round(found.suggest(self._trial)) for found in self._ranges}

    def begin(self, spec: RunSpec) -> None:
        """Record the run of a trial, and whether it was created only for the trial."""
        assert self._trial is not None
        if "folder" not in self._trial.user_attrs:
            self._trial.set_user_attr("own", not spec.layout.begun)
        self._trial.set_user_attr("folder", spec.layout.folder.name)

    def falls_behind(self, history: Sequence[Mapping[str, Any]], epochs: int) -> bool:
        """Report the accuracies so far, by tenths of the training; return whether the trial should stop."""
        assert self._trial is not None
        best = 0.0
        for epoch in history:
            best = max(best, epoch["validation_accuracy"])
            part = PARTS * (epoch["epoch"] + 1) // epochs
            if part not in self._told:
                self._told.add(part)
                self._trial.report(best, part)
        return len(history) < epochs and self._trial.should_prune()

    def prune(self) -> None:
        """End a trial that has fallen behind."""
        import optuna

        assert self._trial is not None
        self._study.tell(self._trial, state=optuna.trial.TrialState.PRUNED)

    def finish(self, accuracy: float) -> None:
        """End a trial with its validation accuracy."""
        assert self._trial is not None
        self._study.tell(self._trial, accuracy)

    def best(self) -> dict[str, Any]:
        """Return the settings of the trial with the best validation accuracy."""
        return {name: _round(value) for name, value in self._study.best_trial.params.items()}

    def summary(self) -> str:
        """Summarise the best settings and the trials."""
        pruned = sum(trial.state.name == "PRUNED" for trial in self._study.trials)
        values = ", ".join(f"{name} {in_words(value)}" for name, value in self.best().items())
        return f"{values} ({percent(self._study.best_value)}; {self.done} trials, {pruned} stopped early)"

    def clean_up(self, runs: Path, protected: set[str]) -> None:
        """Delete the runs of all trials except the best; runs that an experiment uses are kept."""
        best = self._study.best_trial.user_attrs.get("folder")
        for trial in self._study.trials:
            folder = trial.user_attrs.get("folder")
            if folder and trial.user_attrs.get("own") and folder != best and folder not in protected:
                shutil.rmtree(runs / folder, ignore_errors=True)


def protected_runs(maker: RunMaker) -> set[str]:
    """Return the folders of the runs that belong to experiments."""
    records = (Experiment.load(layout.record) for layout in experiment_layouts(maker.workdir))
    return {run.folder for record in records for run in record.runs if run.folder}


def _from_first(value: Any) -> Any:  # noqa: ANN401 - any value of the first process
    """Return the value that the first of several training processes holds."""
    shared = [value]
    broadcast_object_list(shared)
    return shared[0]


def _round(value: float) -> float | int:
    """Round a proposed number to what a person would type.

    >>> _round(0.00123456), _round(12)
    (0.00123, 12)
    """
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
