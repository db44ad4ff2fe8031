"""Training: one run, or a comparison with its report; and the named recipes."""

from __future__ import annotations

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
    OutputOptions,
    SimulationOptions,
)
from gpt4image.core.validation import Positive, Whole, check_value
from gpt4image.core.workdir import WorkDir
from gpt4image.train.recipe import Recipe, find_recipe, recipe_names
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
    "verdict": "which claim the runs allow, such as better, worse or undecided",
    "claim": "the verdict in words",
    "difference": "difference of the test accuracies, 0 to 1, with its 95% interval: mean, low, high, seeds and more",
    "next_command": "command for what to do next; empty if there is none",
    "report": "the page",
}


def show_comparison(comparison: Comparison) -> dict[str, object]:
    """Print what a comparison shows, and return it as values for JSON."""
    from gpt4image.core.console import show, write
    from gpt4image.report import verdict

    found = verdict(comparison)
    show(found.text)
    if found.command:
        write(f"  {found.command}")
    return {
        "verdict": found.kind,
        "claim": found.claim,
        "difference": comparison.difference,
        "next_command": found.command,
    }


@dataclass(frozen=True)
class TrainingCommand(OutputOptions):
    """The options that both training commands have."""

    source: DataOptions
    descriptions: GuidanceOptions = field(default_factory=GuidanceOptions)
    recipe: Recipe = field(default_factory=Recipe)
    recipe_name: RecipeName = None
    config: Path | None = None
    """TOML file with recipe settings. It overrides the named recipe, and options override both."""
    work: Path = WORK
    """Work directory."""
    workers: Whole | None = None
    """Processes that load images. Default: one for each processor if a GPU trains, none otherwise."""
    track: tuple[TrackerName, ...] = ()
    """Send losses, accuracies, speed and settings to experiment trackers."""

    def __post_init__(self) -> None:
        check_value(Whole | None, self.workers, "workers")


@dataclass(frozen=True)
class Train(TrainingCommand):
    """Train one model; an interrupted run resumes."""

    SHORT: ClassVar = (
        *("text", "encoder", "arm", "recipe", "config", "backbone", "image-size"),
        *("epochs", "batch-size", "lr", "seed", "work"),
    )
    EXAMPLE: ClassVar = "photos --text captions.jsonl --recipe fine-tune --backbone resnet50"
    KEYS: ClassVar = {
        "run": "folder of the run",
        "arm": "what it trained on",
        "seed": "its seed",
        "best_epoch": "epoch whose weights are kept, from 1",
        "epochs": "epochs trained",
        "validation_accuracy": "accuracy of that epoch on the validation images, 0 to 1",
        "seconds": "time spent on training and validation",
    }
    arm: str = CANDIDATE
    """baseline trains on labels alone, described with descriptions as well, text-labels with labels from the texts
    where labels are missing or wrong; see also compare --arms."""
    seed: int = 0
    """Seed of the initialisation, the order of the images and the augmentation."""

    def run(self) -> None:
        """Train, and print where the model is."""
        from gpt4image.core.console import result, show
        from gpt4image.core.format import percent
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
        )
        epoch = f"best epoch {run.best_epoch + 1} of {len(run.history)}"
        show(f"{epoch}, validation accuracy {percent(run.best_accuracy)}: {run.layout.folder}")
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

    Skips finished runs and resumes interrupted ones.
    """

    SHORT: ClassVar = (
        *("text", "encoder", "recipe", "config", "backbone", "image-size"),
        *("epochs", "batch-size", "lr", "seeds", "track", "work"),
    )
    EXAMPLE: ClassVar = "photos --text captions.jsonl --recipe fine-tune --seeds 5"
    KEYS: ClassVar = COMPARISON_KEYS
    seeds: int = 3
    """Runs per arm, with seeds 0, 1, 2 and so on. One run cannot tell an effect from chance."""
    arms: tuple[str, ...] = ()
    """Arms to train besides the baseline: described, text-labels, described+text-labels, image-labels, self-training,
    teacher, teacher+described. Default: described."""
    controls: bool = False
    """Train controls as well, to tell whether the descriptions help or just any additional loss: the same with the
    class's name as text, with shuffled descriptions, shuffled ones within each class, random words, random vectors."""
    margin: Positive = 1.0
    """Difference of test accuracy that does not matter to you, in percentage points: the bound for "no difference"."""
    labeller: LabelOptions = field(default_factory=LabelOptions)
    simulation: SimulationOptions = field(default_factory=SimulationOptions)

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
            options=ArmOptions(self.arms, self.labeller, self.simulation, self.controls, self.margin),
        )
        compared, report = show_comparison(comparison), WorkDir(self.work).report
        lines = [*other_arms(comparison), *(f"control, {line}" for line in control_arms(comparison))]
        show("\n".join([*lines, f"report: {report}"]))
        result(**compared, report=report)


@dataclass(frozen=True)
class Recipes(OutputOptions):
    """List the named recipes with purpose, source and settings; one alone is a --config file."""

    EXAMPLE: ClassVar = "fine-tune > recipe.toml"
    KEYS: ClassVar = {"recipes": "for each recipe: name, about, source, recipe (its settings)"}
    name: tyro.conf.Positional[str | None] = None
    """Recipe to print. Default: all."""

    def run(self) -> None:
        """Print them."""
        from gpt4image.core.console import result, write

        names = recipe_names() if self.name is None else (self.name,)
        found = [find_recipe(name) for name in names]
        write("\n\n".join("\n".join(each.lines()) for each in found))
        result(recipes=found)


@dataclass(frozen=True)
class Report(OutputOptions):
    """Write the report of a comparison, also while its runs are still going."""

    KEYS: ClassVar = {"report": "the page"}
    work: Path = WORK
    """Work directory of the comparison."""

    def run(self) -> None:
        """Write the report and print where it is."""
        from gpt4image.core.console import result, show
        from gpt4image.report import write_report

        page = write_report(self.work)
        show(f"report: {page}")
        result(report=page)
