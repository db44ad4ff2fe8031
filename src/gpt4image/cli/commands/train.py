"""Training: one run, or a comparison with its report; and the named recipes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from gpt4image.core.options import (
    WORK,
    ArmOptions,
    DataOptions,
    GuidanceOptions,
    LabelOptions,
    MeasureOptions,
    OutputOptions,
    SimulationOptions,
)
from gpt4image.core.validation import Positive, Whole, check_value
from gpt4image.core.workdir import WorkDir
from gpt4image.train.named_recipes import find_recipe, recipe_names
from gpt4image.train.recipe import Recipe
from gpt4image.train.spec import CANDIDATE
from gpt4image.train.tracking import TrackerName

if TYPE_CHECKING:
    from gpt4image.compare.records import Comparison

RecipeName = Annotated[
    str | None,
    tyro.conf.arg(
        name="recipe",
        help=f"Named recipe to start from: {', '.join(recipe_names())}. The command `recipes` lists them.",
    ),
]

COMPARISON_KEYS = {
    "verdict": "the claim that the runs support, such as better, worse or undecided",
    "claim": "the verdict in words",
    "score": "what accuracy means below: accuracy, or with several labels per image average precision per image",
    "difference": "difference of the test accuracies, 0 to 1, with its 95% interval: mean, low, high, seeds and more",
    "next_command": "the command to run next; empty if there is none",
    "experiment": "name of the experiment",
    "arms": "each arm: name, title, runs (seed, validation and test accuracy, folder), difference to the baseline",
    "controls": "with --controls, every arm minus each of its controls (the reference), as difference",
    "rivals": "the arm of the difference minus each arm that learns from images alone (the reference), as difference",
    "variants": "with --sweep or --tune, every variant: settings, validation accuracies, and whether it was chosen",
    "warnings": "reasons to doubt the result",
    "report": "path of the report",
}


def show_comparison(comparison: Comparison) -> None:
    """Print the findings of a comparison."""
    from gpt4image.core.console import say, show, write_command
    from gpt4image.core.format import percent
    from gpt4image.report import verdict

    found = verdict(comparison)
    show(found.text)
    if found.command:
        write_command(found.command)
    for line in comparison.warnings:
        say(line, "yellow")
    for variant in comparison.variants:
        chosen = ", compared" if variant.chosen else ""
        show(f"variant: {variant.title}: {percent(variant.mean)} of the validation images{chosen}")


def comparison_values(comparison: Comparison) -> dict[str, object]:
    """Return the findings of a comparison as values for JSON."""
    from gpt4image.report import verdict

    found = verdict(comparison)
    return {
        "verdict": found.kind,
        "claim": found.claim,
        "score": comparison.score,
        "difference": comparison.difference,
        "next_command": found.command,
        "experiment": comparison.experiment,
        "arms": list(_arm_values(comparison)),
        "controls": comparison.controls,
        "rivals": comparison.rivals,
        "variants": comparison.variants,
        "warnings": comparison.warnings,
    }


def _arm_values(comparison: Comparison) -> Iterator[dict[str, object]]:
    """Yield the results of each arm as values for JSON."""
    differences = {found.arm: found for found in (comparison.difference, *comparison.others)}
    kept = ("seed", "validation_accuracy", "test_accuracy", "best_epoch", "seconds", "folder")
    for arm in comparison.arms:
        yield {
            "name": arm.name,
            "title": arm.title,
            "runs": [{name: getattr(run, name) for name in kept} for run in arm.runs],
            "difference": differences.get(arm.name),
        }


@dataclass(frozen=True)
class RecipeCommand(OutputOptions):
    """The options of commands that take a recipe."""

    source: DataOptions
    descriptions: GuidanceOptions = field(default_factory=GuidanceOptions)
    recipe: Recipe = field(default_factory=Recipe)
    recipe_name: RecipeName = None
    config: Path | None = None
    """TOML file with recipe settings. It overrides the named recipe; options override both."""
    work: Path = WORK
    """Work directory."""
    workers: Whole | None = None
    """Number of processes that load images. Default: one per processor when training on a GPU, otherwise none."""

    def __post_init__(self) -> None:
        check_value(Whole | None, self.workers, "workers")


@dataclass(frozen=True)
class TrainingCommand(RecipeCommand):
    """The options that both training commands have."""

    track: tuple[TrackerName, ...] = ()
    """Send losses, accuracies, speed and settings to experiment trackers."""


@dataclass(frozen=True)
class Advise(RecipeCommand):
    """Say which arm is worth training on these labels and descriptions, and what expected gain; trains nothing.

    Holds out parts of the labels in turn, and measures on frozen image features what labels from the descriptions would
    add. See also: gpt4image describe check, label, audit.
    """

    SHORT: ClassVar = ("text", "encoder", "classes", "backbone", "checkpoint", "recipe", "image-features", "work")
    EXAMPLE: ClassVar = "photos --backbone resnet50"
    KEYS: ClassVar = {
        "case": "no labels, few labels, wrong labels, skewed classes, clean labels or uninformative texts",
        "title": "the advice in a sentence or two",
        "arm": "the arm to train",
        "gain": "its accuracy minus that of labels alone, 0 to 1, with a 95% prediction interval; null if unknown",
        "command": "the command to run",
        "basis": "the measurements behind the advice, in words",
        "helps": "what would help more, in words",
        "labelled": "training images with a text and a label",
        "training": "training images with a text",
        "classes": "number of classes",
        "wrong": "estimated share of wrong labels with its 95% interval; null if it cannot be estimated",
        "skew": "labels of the largest class divided by those of the smallest",
        "rehearsal": "measurements on held-out labels, each with its 95% interval; null if there are too few",
        "expected": "the expected gain, for each arm that was simulated",
    }
    labeller: LabelOptions = field(default_factory=LabelOptions)
    image_features: bool = True
    """Compute features of the images with the recipe's backbone. Without them, no gain is estimated."""

    def run(self) -> None:
        """Print the advice, the command, and the evidence."""
        from gpt4image.cli.commands.describe import show_advice
        from gpt4image.core.console import result
        from gpt4image.workflows.advise import RecipeChoice, run_advice

        advice = run_advice(
            self.source,
            self.descriptions,
            self.labeller,
            RecipeChoice(self.recipe, self.recipe_name, self.config),
            self.work,
            image_features=self.image_features,
            workers=self.workers or 0,
        )
        show_advice(advice)
        result(**{key: getattr(advice, key) for key in self.KEYS})


@dataclass(frozen=True)
class Train(TrainingCommand):
    """Train one model; an interrupted run resumes."""

    SHORT: ClassVar = (
        *("text", "encoder", "arm", "recipe", "config", "backbone", "image-size"),
        *("epochs", "lr", "seed", "classes", "work"),
    )
    EXAMPLE: ClassVar = "photos --text captions.jsonl --recipe fine-tune --backbone resnet50"
    KEYS: ClassVar = {
        "run": "folder of the run",
        "arm": "the arm that was trained",
        "seed": "seed of the run",
        "best_epoch": "epoch whose weights are kept, from 1",
        "epochs": "epochs trained",
        "validation_accuracy": "accuracy or average precision per image in that epoch on the validation images, 0 to 1",
        "seconds": "time spent on training and validation",
    }
    arm: str = CANDIDATE
    """What to train with. baseline: labels alone; described: aligned with the descriptions as well; text-labels: labels
    from the descriptions replace missing and wrong ones. compare --arms lists the other arms."""
    seed: int = 0
    """Seed of the initialisation, the image order and the augmentation."""
    labeller: LabelOptions = field(default_factory=LabelOptions)

    def run(self) -> None:
        """Train, and print where the model is."""
        from gpt4image.core.console import result, show
        from gpt4image.core.format import percent
        from gpt4image.tasks import TASKS
        from gpt4image.workflows.train import run_training

        run = run_training(
            self.source,
            self.descriptions,
            self.recipe,
            self.work,
            arm=self.arm,
            seed=self.seed,
            workers=self.workers,
            track=self.track,
            labeller=self.labeller,
        )
        epoch = f"best epoch {run.best_epoch + 1} of {len(run.history)}"
        show(f"{epoch}, validation {TASKS.load(run.task).score} {percent(run.best_accuracy)}: {run.layout.folder}")
        result(
            run=run.layout.folder,
            arm=run.arm.name,
            seed=run.seed,
            best_epoch=run.best_epoch + 1,
            epochs=len(run.history),
            validation_accuracy=run.best_accuracy,
            seconds=run.seconds,
        )


@dataclass(frozen=True)
class Compare(TrainingCommand):
    """Train with and without descriptions and report the difference.

    Shows the plan first. Finished runs with the same settings are reused, and interrupted runs are resumed. The test
    images are predicted once, when all runs are trained.
    """

    SHORT: ClassVar = (
        *("text", "encoder", "recipe", "backbone", "epochs", "lr"),
        *("seeds", "arms", "sweep", "tune", "name", "work"),
    )
    EXAMPLE: ClassVar = "photos --text captions.jsonl --recipe fine-tune --seeds 5"
    KEYS: ClassVar = COMPARISON_KEYS
    seeds: int = 3
    """Runs per arm, with seeds 0, 1, 2 and so on. One run cannot tell an effect from chance."""
    arms: tuple[str, ...] = ()
    """Arms to train besides the baseline: described, text-labels, described+text-labels, image-labels,
    text+image-labels, co-training, llm-labels, self-training, text-pretraining, fixmatch, gce, teacher,
    teacher+described, class-anchored. Default: described."""
    controls: bool = False
    """Also train controls, which show whether the descriptions help or whether any additional loss would: the same arms
    with the class's name as text, with descriptions shuffled among all images or within each class, with random words,
    and with random vectors."""
    margin: Positive = 1.0
    """Difference of test accuracy, in percentage points, that is too small to matter to you: the bound for the verdict
    "no difference"."""
    sweep: tuple[str, ...] = ()
    """Recipe settings to try, such as weight=0.1,0.3,1 lr=1e-3,1e-4. Every arm is trained with each combination that
    affects it; arms are compared at the combination that is best on the validation images."""
    tune: Whole = 0
    """Search for the best learning rate, weight decay, number of epochs and own weight of each arm on the validation
    images, with this many trials per arm; then train the best settings with all seeds."""
    runs_at_once: int = 1
    """Train this many runs at once, each in its own process with its share of the threads. That is faster for small
    models on a CPU, where a run gains little from a second core. The number of threads may change the last digits of a
    result."""
    name: str | None = None
    """Name of the experiment. The default name says what it compares. Earlier experiments are kept, and experiments
    share runs with the same settings."""
    labeller: LabelOptions = field(default_factory=LabelOptions)
    simulation: SimulationOptions = field(default_factory=SimulationOptions)
    measures: MeasureOptions = field(default_factory=MeasureOptions)

    def run(self) -> None:
        """Compare, and print the verdict and where the report is."""
        from gpt4image.core.console import result, show
        from gpt4image.report import control_arms, other_arms
        from gpt4image.workflows.train import run_comparison

        comparison = run_comparison(
            self.source,
            self.descriptions,
            self.recipe,
            self.work,
            seeds=self.seeds,
            workers=self.workers,
            track=self.track,
            options=ArmOptions(
                arms=self.arms,
                labeller=self.labeller,
                simulation=self.simulation,
                controls=self.controls,
                margin=self.margin,
                sweep=self.sweep,
                tune=self.tune,
                measures=self.measures,
            ),
            name=self.name,
            runs_at_once=self.runs_at_once,
        )
        show_comparison(comparison)
        report = WorkDir(self.work).report
        lines = [*other_arms(comparison), *(f"control, {line}" for line in control_arms(comparison))]
        show("\n".join([*lines, f"report: {report}"]))
        result(**comparison_values(comparison), report=report)


@dataclass(frozen=True)
class Recipes(OutputOptions):
    """List the named recipes with purpose, source and settings, or print one as a --config file."""

    EXAMPLE: ClassVar = "fine-tune > recipe.toml"
    KEYS: ClassVar = {"recipes": "for each recipe: name, about, source, recipe (its settings)"}
    name: tyro.conf.Positional[str | None] = None
    """Recipe to print. Default: all recipes."""

    def run(self) -> None:
        """Print the recipes."""
        from gpt4image.core.console import result, write

        names = recipe_names() if self.name is None else (self.name,)
        found = [find_recipe(name) for name in names]
        write("\n\n".join("\n".join(each.lines()) for each in found))
        result(recipes=found)


@dataclass(frozen=True)
class Report(OutputOptions):
    """Write the report of a comparison, even while its runs are still training."""

    KEYS: ClassVar = {"report": "path of the report"}
    work: Path = WORK
    """Work directory of the comparison."""
    name: str | None = None
    """Name of the experiment. Default: the latest."""

    def run(self) -> None:
        """Write the report and print where it is."""
        from gpt4image.compare.experiments import find_experiment
        from gpt4image.core.console import result, show
        from gpt4image.core.errors import StoreError

        workdir = WorkDir(self.work)
        folder = find_experiment(workdir, self.name).folder if self.name else self.work
        if not (self.name or workdir.comparison.exists()):
            raise StoreError(
                f"{self.work} contains no comparison. Run one: gpt4image compare; or name another work directory "
                "(--work)."
            )
        from gpt4image.report import write_report

        page = write_report(folder)
        show(f"report: {page}")
        result(report=page)


@dataclass(frozen=True)
class Runs(OutputOptions):
    """List the training runs of a work directory, by experiment."""

    SHORT: ClassVar = ("work", "filter", "csv")
    EXAMPLE: ClassVar = "--filter arm=described lr"
    KEYS: ClassVar = {
        "runs": "each run: experiment, arm, seed, what differs, epochs, planned epochs, whether it is finished, "
        "validation and test accuracy (0 to 1), folder",
    }
    work: Path = WORK
    """Work directory."""
    filter: tuple[str, ...] = ()
    """Show only runs that contain all of these words, or that have this value with COLUMN=VALUE, such as
    arm=described."""
    csv: bool = False
    """Print comma-separated values."""

    def run(self) -> None:
        """Print the table."""
        from gpt4image.compare.run_table import filter_rows, list_runs, runs_csv, runs_table
        from gpt4image.core.console import result, write

        rows = list(filter_rows(list_runs(WorkDir(self.work)), self.filter))
        write(runs_csv(rows) if self.csv else runs_table(rows))
        result(runs=rows)
