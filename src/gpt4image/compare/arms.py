"""Train every arm with every seed, predict the test images once at the end, and compare seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpt4image.compare.experiments import (
    Experiment,
    ExperimentLayout,
    check_experiment_name,
    open_experiment,
    publish,
    record_runs,
)
from gpt4image.compare.gallery import choose_gallery
from gpt4image.compare.model_facts import measure_model, used_models
from gpt4image.compare.plan import FindInputs, Plan, RunMaker, Variant, make_variants
from gpt4image.compare.predictions import predict_test_images, predict_validation_images, write_test_answers
from gpt4image.compare.records import CommandRecord, Comparison, MeasureRecord, ModelRecord
from gpt4image.compare.robustness import RunsByArm
from gpt4image.compare.summarize import (
    RunOutcome,
    TrainedVariants,
    choose_variants,
    find_candidate,
    record_comparison,
    record_variants,
)
from gpt4image.compare.training import Compared, Series, judge_runs, make_inputs, open_processes, train_runs
from gpt4image.compare.tuning import EPOCHS_RANGE, Tuner, search_ranges
from gpt4image.compare.warnings import find_warnings
from gpt4image.core import console
from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.core.format import counted, duration
from gpt4image.core.invocation import current_invocation
from gpt4image.core.side_by_side import SideBySide
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.soft_labels import SoftLabels
from gpt4image.tasks import find_task
from gpt4image.train.build import count_steps
from gpt4image.train.data import labelled_rows
from gpt4image.train.guidance import is_text
from gpt4image.train.identity import images_digest, in_words, settings_digest
from gpt4image.train.libraries import require_library
from gpt4image.train.processes import loader_workers, make_accelerator, on_this_machine
from gpt4image.train.recipe import Recipe
from gpt4image.train.run import TrainedRun
from gpt4image.train.spec import ARMS, CANDIDATE, REFERENCE, RunInputs, check_task, choose_arms
from gpt4image.train.tracking import Tracking


def compare_arms(
    images: ImageTable,
    descriptions: DescriptionSet,
    store: EmbeddingStore | Sequence[EmbeddingStore],
    recipe: Recipe,
    work: str | Path,
    *,
    soft_labels: Sequence[SoftLabels] = (),
    seeds: Sequence[int] = (0, 1, 2),
    workers: int | None = None,
    checkpoint_seconds: float = 60.0,
    tracking: Tracking | None = None,
    arms: Sequence[str] = (),
    margin: float = 0.01,
    inputs: FindInputs | None = None,
    name: str | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    tune: int = 0,
    frozen_accuracy: Callable[[], float | None] | None = None,
    measure: Callable[[RunsByArm], tuple[MeasureRecord, ...]] | None = None,
    series: Series | None = None,
    runs_at_once: int = 1,
) -> Comparison:
    """Train arms, with and without descriptions, with each seed, and compare the predictions for the test images.

    The plan is shown before the first step. Runs with the same settings are shared by all experiments of a work
    directory: finished ones are not trained again, and an interrupted one resumes. The test images are predicted once,
    when all runs are trained, and only with the runs that are compared; until then the record covers the validation
    images and the seeds that all arms have finished. It is written to `comparison.json` and `gallery.json` in the
    experiment's folder, and in the work directory as the latest.

    Args:
        images: the images.
        descriptions: their texts.
        store: vectors of these texts by one or several encoders, and vectors of vision teachers.
        recipe: recipe of all arms.
        work: the work directory.
        soft_labels: soft labels, for recipes that mix them in.
        seeds: seeds; every arm is trained with each.
        workers: processes that prepare batches; None for the default (`loader_workers`).
        checkpoint_seconds: time between two checkpoints of a run.
        tracking: experiment trackers to send the figures of every run to.
        arms: arms to train besides the baseline; by default all that are not optional.
        margin: largest negligible difference of test accuracy, from 0 to 1.
        inputs: returns an arm's inputs for a seed, given the folder of the baseline run if the arm learns from one; by
            default `images`, `store` and `soft_labels`. Test images must be the same.
        name: name of the experiment; by default one that says what it compares.
        sweep: values of recipe settings; every arm is trained with every combination that makes a difference to it,
            and compared with the one that has the best mean validation accuracy.
        tune: trials of a search for each arm's own settings on the validation images, see `compare.tuning`; 0 for none.
        frozen_accuracy: returns the validation accuracy of a classifier on frozen features, to warn of worse models.
        measure: measures the runs of each arm beyond the test images, see `compare.robustness.Measures`.
        series: the series that this comparison is a part of: its plan is shown, and no record is written before the
            end.
        runs_at_once: runs that are trained at once, each in a process of its own with its share of this one's threads.
            A script that asks for several is imported by these processes, so it should begin under
            `if __name__ == "__main__":`.

    Raises:
        ConfigError: invalid seeds, settings or name, or no arm that learns from descriptions.
        StoreError: the vectors belong to other descriptions.
    """
    work = Path(work)
    stores = (store,) if isinstance(store, EmbeddingStore) else tuple(store)
    _check(images, descriptions, stores, seeds)
    if name is not None:
        check_experiment_name(name)
    workdir, recipe, seeds = WorkDir(work), on_this_machine(recipe), tuple(seeds)
    given = RunInputs(images, stores, tuple(soft_labels))
    maker = RunMaker(given, inputs, workdir, loader_workers(workers), checkpoint_seconds, tracking)
    chosen_arms, searched = choose_arms(arms), dict(sweep or {})
    variants = make_variants(chosen_arms, recipe, searched)
    for variant in variants:
        _check_arms(chosen_arms, variant.recipe)
        arm = ARMS.load(variant.arm)
        check_task(images, arm, replace(variant.recipe, **arm.settings))
    if tune:
        variants = _tune(maker, chosen_arms, recipe, tune, seeds)
        searched = {
            variant.arm: [f"{key} {in_words(value)}" for key, value in variant.changes.items()] for variant in variants
        }
    with open_processes(runs_at_once, recipe) as processes:
        if processes is not None:
            make_inputs(processes, [Compared(maker, variants, seeds)])
        plan = Plan.make(maker, variants, seeds)
        plan.find_speed(workdir)
        experiment = Experiment(
            name="",
            identity=_identity(images, descriptions, recipe, plan),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            arms=chosen_arms,
            seeds=list(seeds),
            recipe=recipe.to_dict(),
            searched={key: list(values) for key, values in searched.items()},
            runs=record_runs(plan),
        )
        lines = plan.lines(workdir, runs_at_once)
        accelerator = make_accelerator(recipe)
        accelerator.wait_for_everyone()  # every process reads what is there before the first one changes it
        layout = None
        if accelerator.is_main_process:
            layout = open_experiment(workdir, experiment, name)
        if layout is not None and series is None:
            console.say("\n".join([f"Experiment {layout.folder.name}, {lines[0]}", *lines[1:]]))
        summary = Summary(
            images, descriptions, given, recipe, workdir, layout, len(seeds), margin, frozen_accuracy, tune, measure
        )
        trained = _train_all(plan, maker, summary, series, processes)
        if processes is not None:
            compared = [trained[number][1] for number in choose_variants(trained).values()]
            judged = [run for runs in compared for run in runs]
            frozen = judge_runs(processes, judged, images, workdir.features, frozen_accuracy)
            summary.frozen_accuracy = lambda: frozen
    comparison = summary.write(trained, "test")
    if layout is not None:
        recorded = Experiment.load(layout.record)
        found = [trained[at % len(trained)][1][at // len(trained)].layout.folder.name for at in range(len(plan.runs))]
        runs = [run.model_copy(update={"folder": name}) for run, name in zip(recorded.runs, found, strict=True)]
        recorded.model_copy(update={"runs": runs, "finished": True}).save(layout.record)
    return comparison


def _train_all(
    plan: Plan, maker: RunMaker, summary: Summary, series: Series | None, processes: SideBySide | None
) -> TrainedVariants:
    """Train the runs of a plan; after each seed that all arms have finished, report the results so far."""
    total, arms = len(plan.runs), len(plan.variants)
    before = [run.state == "finished" for run in plan.runs]
    finished: dict[int, TrainedRun] = {}

    def so_far(ends: int) -> TrainedVariants:
        return {n: (v, [finished[at] for at in range(n, ends, arms)]) for n, v in enumerate(plan.variants)}

    told = 0
    with (
        console.progress(f"All {total} runs", total, done=sum(before))
        if series is None
        else nullcontext(series.overall)
    ) as overall:
        for number, run in train_runs(plan, maker, overall, series, processes):
            finished[number] = run
            ends = next((at for at in range(total) if at not in finished), total) // arms * arms
            known = all(before[ends - arms : ends + arms])  # the next seed is finished as well
            if series is None and told < ends < total and not known:
                summary.write(so_far(ends), "validation")
            told = ends
    return so_far(total)


def _tune(maker: RunMaker, arms: Sequence[str], recipe: Recipe, trials: int, seeds: Sequence[int]) -> list[Variant]:
    """Show the cost of the search and search; return each arm with its best settings."""
    require_library("optuna")
    plan = Plan.make(maker, make_variants(arms, recipe, {}), seeds)
    plan.find_speed(maker.workdir)
    ranges = {run.variant.arm: search_ranges(run.spec) for run in plan.runs if run.spec}
    own = [f"  {arm}: {', '.join(map(str, found))}" for arm, found in ranges.items()]
    epoch = next(count_steps(run.spec, make_accelerator(recipe)) for run in plan.runs if run.spec)
    steps = EPOCHS_RANGE * recipe.epochs * epoch * len(arms) * (trials + len(seeds))
    time = f", about {duration(steps * plan.step_seconds)}" if plan.step_seconds else ""
    console.say(
        "\n".join(
            [
                f"Search for settings: {trials} trials for each of {len(arms)} arms with seed {seeds[0]}, judged on "
                f"the validation images; then {counted(len(seeds), 'seed')} of the best.",
                *own,
                f"At most {counted(steps, 'optimiser step')}{time}; trials that fall behind stop early.",
            ]
        )
    )
    return Tuner(maker, recipe, trials, seeds[0]).tune(arms)


@dataclass
class Summary:
    """Writes the results of an experiment.

    Attributes:
        images: the images with all their labels.
        descriptions: their texts.
        given: vectors and soft labels of all arms.
        recipe: recipe of all arms.
        workdir: the work directory.
        layout: files of the experiment; None in processes that write nothing.
        planned_seeds: seeds of the whole experiment.
        margin: see `compare_arms`.
        frozen_accuracy: see `compare_arms`.
        trials: trials of the search for each arm's settings.
        measure: see `compare_arms`.
        model: size and speed of the model, once measured.
    """

    images: ImageTable
    descriptions: DescriptionSet
    given: RunInputs
    recipe: Recipe
    workdir: WorkDir
    layout: ExperimentLayout | None
    planned_seeds: int
    margin: float
    frozen_accuracy: Callable[[], float | None] | None
    trials: int = 0
    measure: Callable[[RunsByArm], tuple[MeasureRecord, ...]] | None = None
    model: ModelRecord | None = None

    def write(self, trained: TrainedVariants, split: str) -> Comparison:
        """Choose each arm's variant on the validation images, predict the images of a split, and write the records."""
        predict = predict_test_images if split == "test" else predict_validation_images
        chosen = choose_variants(trained)
        outcomes: dict[str, list[RunOutcome]] = {}
        with console.doing("Summarising the runs"):
            for arm, number in chosen.items():
                found = ((run, predict(run, self.images, features=self.workdir.features)) for run in trained[number][1])
                outcomes[arm] = [RunOutcome(run, predictions) for run, predictions in found]
            self.model = self.model or measure_model(outcomes[REFERENCE][0].run)
            comparison = record_comparison(
                self.images,
                self.descriptions,
                self.given.stores,
                self.recipe,
                outcomes,
                self.given.soft_labels,
                self.margin,
            )
            searched = any(variant.changes for variant, _ in trained.values())
            changes: dict[str, Any] = {
                "planned_seeds": self.planned_seeds,
                "model": self.model,
                "models": used_models([outcome.run for of_arm in outcomes.values() for outcome in of_arm[:1]]),
                "command": _record_command(self.workdir),
                "experiment": self.layout and self.layout.folder.name,
                "split": split,
                "variants": tuple(record_variants(trained, chosen)) if searched else (),
                "warnings": self._warnings(outcomes) if split == "test" else (),
            }
            if self.trials:
                told = (
                    f"Settings of each arm were searched with {self.trials} trials on the validation images (Optuna, "
                    "median pruner), the same number for every arm."
                )
                changes["notes"] = [*comparison.notes, told]
            comparison = comparison.model_copy(update=changes)
            if self.layout is not None:
                self._save(comparison, outcomes, self.layout)
        if self.measure is not None and self.layout is not None and split == "test":
            measures = self.measure({arm: [outcome.run for outcome in of_arm] for arm, of_arm in outcomes.items()})
            comparison = comparison.model_copy(update={"measures": measures})
            self._save(comparison, outcomes, self.layout)
        return comparison

    def _warnings(self, outcomes: Mapping[str, Sequence[RunOutcome]]) -> tuple[str, ...]:
        frozen = self.frozen_accuracy() if self.frozen_accuracy and self.layout is not None else None
        runs = {arm: [outcome.run for outcome in found] for arm, found in outcomes.items()}
        validation = len(labelled_rows(self.images, "validation"))
        return find_warnings(runs, validation, frozen, find_task(self.images).score)

    def _save(
        self, comparison: Comparison, outcomes: Mapping[str, Sequence[RunOutcome]], layout: ExperimentLayout
    ) -> None:
        """Write the records that the report reads, and delete the experiment's old report, which no longer matches."""
        layout.report.unlink(missing_ok=True)
        first = {arm: outcomes[arm][0].predictions for arm in (REFERENCE, comparison.difference.arm)}
        choose_gallery(self.images, self.descriptions, first).save(layout.gallery)
        if comparison.split == "test":
            answers = {(arm, run.run.seed): run.predictions for arm, runs in outcomes.items() for run in runs}
            write_test_answers(layout.test_answers, self.images, answers)
        comparison.save(layout.comparison)
        publish(layout, self.workdir)


def _identity(images: ImageTable, descriptions: DescriptionSet, recipe: Recipe, plan: Plan) -> str:
    """Return the hash of everything that determines an experiment: its runs and the test images."""
    runs = (
        settings_digest(run.spec.settings())
        if run.spec and ARMS.load(run.variant.arm).labels != "baseline"  # its labels may not be known yet
        else repr((run.variant, run.seed))
        for run in plan.runs
    )
    return digest(images_digest(images, with_test=True), descriptions.text_hash, repr(recipe), *runs)


def _record_command(workdir: WorkDir) -> CommandRecord | None:
    """Return the command line of this process; None in a Python program."""
    typed = current_invocation()
    if typed is None:
        return None
    return CommandRecord(
        program=typed.program, arguments=list(typed.arguments), work=str(workdir.folder), images=typed.images
    )


def _check_arms(names: Sequence[str], recipe: Recipe) -> None:
    """Raise ConfigError if the arms would not allow a comparison."""
    if find_candidate(names) is None:
        raise ConfigError(
            f"arms: none of {', '.join(names)} learns from descriptions. Add one, such as {CANDIDATE} or text-labels."
        )
    if CANDIDATE in names and not recipe.soft_labels and not (recipe.weight and recipe.align_until):
        raise ConfigError(
            f"The arms {REFERENCE} and {CANDIDATE} would be the same: set weight (--weight) and align_until "
            "(--align-until) above 0 to align with descriptions, or soft_labels (--soft-labels) above 0."
        )


def _check(
    images: ImageTable,
    descriptions: DescriptionSet,
    stores: Sequence[EmbeddingStore],
    seeds: Sequence[int],
) -> None:
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds must be distinct numbers, 0 or greater, not {list(seeds)}.")
    for store in filter(is_text, stores):
        store.check(descriptions)
    if len(labelled_rows(images, "test")) < 2:
        raise ConfigError(
            f"{images.source} has a single test image, too few to compare on. Add images, or raise "
            "test_share (--test-share)."
        )
