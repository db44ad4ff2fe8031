"""Training: one model, or a comparison with its report; and the recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt4image.core.options import WORK, DataOptions, GuidanceOptions
from gpt4image.train.recipe import Recipe, find_recipe, recipe_names

RecipeName = Annotated[
    str | None,
    tyro.conf.arg(
        name="recipe", help=f"Named recipe to start from: {', '.join(recipe_names())}. More: gpt4image recipes."
    ),
]


@dataclass(frozen=True)
class Train:
    """Train one model. A run that was stopped goes on where it was."""

    source: DataOptions
    descriptions: GuidanceOptions = field(default_factory=GuidanceOptions)
    recipe: Recipe = field(default_factory=Recipe)
    recipe_name: RecipeName = None
    config: Path | None = None
    """TOML file with recipe settings, which come before those of a named recipe; options come before both."""
    arm: Literal["baseline", "described"] = "described"
    """Train on labels alone, or with descriptions."""
    seed: int = 0
    """Seed of the classifier's start, the order and all augmentation."""
    work: Path = WORK
    """Where everything is written."""
    workers: int = 0
    """Processes that prepare batches. Changes speed alone."""

    def run(self) -> None:
        """Train and say where the model lies."""
        from gpt4image.workflows.train import run_training

        run = run_training(
            self.source, self.descriptions, self.recipe, self.work, arm=self.arm, seed=self.seed, workers=self.workers
        )
        print(f"best epoch {run.best_epoch}, validation accuracy {run.best_accuracy:.1%}: {run.layout.folder}")


@dataclass(frozen=True)
class Compare:
    """Train with and without descriptions, and report which is better. Skips what is finished."""

    source: DataOptions
    descriptions: GuidanceOptions = field(default_factory=GuidanceOptions)
    recipe: Recipe = field(default_factory=Recipe)
    recipe_name: RecipeName = None
    config: Path | None = None
    """TOML file with recipe settings, which come before those of a named recipe; options come before both."""
    seeds: int = 3
    """Models trained per arm, with seeds 0, 1, 2... One cannot tell luck from effect."""
    work: Path = WORK
    """Where everything is written."""
    workers: int = 0
    """Processes that prepare batches. Changes speed alone."""

    def run(self) -> None:
        """Compare, and say what came out and where the report lies."""
        from gpt4image.report import verdict
        from gpt4image.workflows.train import run_comparison

        comparison = run_comparison(
            self.source, self.descriptions, self.recipe, self.work, seeds=self.seeds, workers=self.workers
        )
        print(f"{verdict(comparison).text}\nreport: {self.work / 'report.html'}")


@dataclass(frozen=True)
class Recipes:
    """List the named recipes: what each is for, where it is from, what it sets. One alone makes a --config file."""

    name: tyro.conf.Positional[str | None] = None
    """The one to show; all when not given."""

    def run(self) -> None:
        """Print them."""
        names = recipe_names() if self.name is None else (self.name,)
        print("\n\n".join("\n".join(find_recipe(name).lines()) for name in names))


@dataclass(frozen=True)
class Report:
    """Write the report of a finished comparison again."""

    work: Path = WORK
    """The comparison's work directory."""

    def run(self) -> None:
        """Write the report and say where it lies."""
        from gpt4image.report import write_report

        print(f"report: {write_report(self.work)}")
