"""The command line: parse, one library call, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from gpt4image.errors import ConfigError, Gpt4ImageError
from gpt4image.options import CheckOptions, DataOptions, DescribeOptions, LabelOptions, TeacherOptions, TextOptions
from gpt4image.seams import unknown_name
from gpt4image.train.named import find_recipe, named_recipe, recipe_names
from gpt4image.train.recipe import Recipe, read_toml, recipe_from

if TYPE_CHECKING:
    from gpt4image.describe.cost.estimate import Estimate

WORK = Path("gpt4image-work")
RecipeName = Annotated[
    str | None,
    tyro.conf.arg(
        name="recipe", help=f"Named recipe to start from: {', '.join(recipe_names())}. More: gpt4image recipes."
    ),
]


@dataclass(frozen=True)
class Demo:
    """Do everything on the example images, without network: train, compare, report, export. Takes some minutes."""

    work: Path = Path("gpt4image-demo")
    """Where everything is written. A demo that was stopped goes on where it was."""
    seeds: int = 5
    """Models trained per arm."""

    def run(self) -> None:
        """Run the demo and say where its products lie."""
        from gpt4image.demo import run_demo
        from gpt4image.report import verdict

        result = run_demo(self.work, seeds=self.seeds)
        print(verdict(result.comparison).text)
        for parity in result.parity:
            print(parity.line())
        print(f"report: {result.report}\nmodel:  {result.model}")


@dataclass(frozen=True)
class Images:
    """Check an image set: what is there, what cannot be read and why, which images lie twice."""

    source: DataOptions
    work: Path = WORK
    """Where the findings are kept, so that no image is read twice."""

    def run(self) -> None:
        """Print every file that was left out, and every image that lies in two splits."""
        from gpt4image.console import printable
        from gpt4image.images import find_duplicates
        from gpt4image.pipeline import open_images
        from gpt4image.workspace import Workspace

        images = open_images(self.source, Workspace(self.work))
        for rejected in images.rejected:
            print(f"left out\t{printable(rejected.path)}\t{printable(rejected.reason)}")
        for image_id, places in find_duplicates(images).leaked.items():
            for split, paths in places.items():
                print(f"leaked\t{image_id}\t{split}\t{printable(', '.join(paths))}")


@dataclass(frozen=True)
class Describe:
    """Have a multimodal LLM describe the images. Says what it will cost first; nothing is paid for twice.

    More: gpt4image describe check, describe export, describe import.
    """

    source: DataOptions
    describer: DescribeOptions = field(default_factory=DescribeOptions)
    estimate: bool = False
    """Describe a few images, and say what all of them will take: money, tokens, time, at several picture sizes."""
    sample: int | None = None
    """Describe so many images, and show the texts here and as a page."""
    yes: bool = False
    """Go on without asking, whatever it costs. With --budget nothing is asked either."""
    work: Path = WORK
    """Where the descriptions are kept."""

    def run(self) -> None:
        """Describe, and say what was done."""
        from gpt4image import describing

        if self.estimate:
            print("\n".join(describing.run_estimate(self.source, self.describer, self.work).lines()))
        elif self.sample is not None:
            self._show_sample(self.sample)
        else:
            confirm = None if self.yes else ask_person
            tally = describing.run_description(self.source, self.describer, self.work, confirm)
            print(f"{tally.line()}: {self.work / 'descriptions'}")

    def _show_sample(self, count: int) -> None:
        from gpt4image.describe.sample import preview_line
        from gpt4image.describing import run_sample
        from gpt4image.workspace import Workspace

        for item in run_sample(self.source, self.describer, self.work, count):
            print(preview_line(item))
        print(f"page: {Workspace(self.work).description_preview}")


@dataclass(frozen=True)
class DescribeCheck:
    """Look for what is wrong with the descriptions, and measure what they know that the model does not."""

    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    work: Path = WORK
    """Where the descriptions are kept."""

    def run(self) -> None:
        """Check, and say what was found and where the page lies."""
        from gpt4image.console import printable
        from gpt4image.describe.quality.lines import report_lines
        from gpt4image.describing import run_check
        from gpt4image.workspace import Workspace

        report = run_check(self.source, self.descriptions, self.check, self.work)
        print("\n".join(map(printable, report_lines(report))))
        print(f"page: {Workspace(self.work).description_check}")


@dataclass(frozen=True)
class DescribeExport:
    """Write the descriptions as a data set of Parquet files with a data card, as `datasets` loads it."""

    source: DataOptions
    out: Path
    """Folder for the data set. It must not exist, or be empty."""
    images_inside: bool = False
    """Put the images into the Parquet files, so that the set is complete by itself."""
    with_cost: bool = False
    """Also say what each text has cost."""
    prompt_file: Path | None = None
    """File with prompts of your own, which the card then shows in full."""
    work: Path = WORK
    """Where the descriptions are kept."""

    def run(self) -> None:
        """Export, and say what was written."""
        from gpt4image.describing import run_export

        found = run_export(
            self.source,
            self.work,
            self.out,
            images_inside=self.images_inside,
            with_cost=self.with_cost,
            prompt_file=self.prompt_file,
        )
        print(found.line())


@dataclass(frozen=True)
class DescribeImport:
    """Take an exported set, or a table of texts, in among the descriptions; nothing of it is asked again."""

    source: DataOptions
    descriptions: Annotated[Path, tyro.conf.arg(name="from")]
    """An exported folder or one of its files, or a table of texts keyed by image id or path."""
    model: str | None = None
    """For a table: the model that wrote the texts, where it is known."""
    text_column: str | None = None
    """For a table: its text column, where it is not called text, description or caption."""
    skip_orphans: bool = False
    """Leave out texts that fit no image, in place of stopping."""
    work: Path = WORK
    """Where the descriptions are kept."""

    def run(self) -> None:
        """Import, and say what was taken in."""
        from gpt4image.describing import run_import

        found = run_import(
            self.source,
            self.descriptions,
            self.work,
            model=self.model,
            text_column=self.text_column,
            skip_orphans=self.skip_orphans,
        )
        print(found.line())


@dataclass(frozen=True)
class Embed:
    """Turn descriptions into vectors. Goes on where it was; a text that the store holds is not encoded again."""

    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    work: Path = WORK
    """Where the vectors are kept."""

    def run(self) -> None:
        """Embed and say where the vectors lie."""
        from gpt4image.pipeline import open_descriptions, open_embeddings, open_images
        from gpt4image.workspace import Workspace

        space = Workspace(self.work)
        found = open_descriptions(open_images(self.source, space), self.descriptions, space)
        for store in open_embeddings(found, self.descriptions, space):
            texts = f"{store.manifest.distinct_texts:,} distinct texts of {len(store):,} images"
            print(f"{texts}, {store.width} numbers each: {store.layout.folder}")


@dataclass(frozen=True)
class EmbedImages:
    """Have a vision teacher answer the images, once for all trainings: vectors beside the text's, or soft labels."""

    source: DataOptions
    teacher: TeacherOptions
    work: Path = WORK
    """Where the answers are kept."""

    def run(self) -> None:
        """Answer what is not answered yet, and say how much there is and where it lies."""
        from gpt4image.embed import EmbeddingStore
        from gpt4image.pipeline import run_teacher

        found = run_teacher(self.source, self.teacher, self.work)
        if isinstance(found, EmbeddingStore):
            vectors = f"{found.manifest.texts:,} vectors of {len(found):,} distinct images"
            print(f"{vectors}, {found.width} numbers each: {found.layout.folder}")
            return
        if quality := found.manifest.quality:
            print(f"validation images: {quality.accuracy:.1%} of {quality.images:,} right")
        print(
            f"soft labels of {len(found):,} distinct images in {len(found.classes):,} classes, "
            f"temperature {found.manifest.temperature:.2f}: {found.layout.folder}"
        )


@dataclass(frozen=True)
class EmbedCompare:
    """Compare text encoders by what a classifier on their vectors knows of images it has not seen. Trains no model."""

    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    work: Path = WORK
    """Where the vectors are kept."""

    def run(self) -> None:
        """Print a line an encoder, the best first."""
        from gpt4image.pipeline import ENCODER_HEADING, compare_encoders

        found = compare_encoders(self.source, self.descriptions, self.work)
        print("\n".join([ENCODER_HEADING, *(each.line() for each in found)]))


@dataclass(frozen=True)
class Label:
    """Have the texts label the training images: class probabilities, by a classifier that has not seen them."""

    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    labeller: LabelOptions = field(default_factory=LabelOptions)
    work: Path = WORK
    """Where the labels are kept."""

    def run(self) -> None:
        """Label, and say how good the labels are and which given ones they speak against."""
        from gpt4image.console import printable
        from gpt4image.labelling import account_for, label_by_vectors, write_doubts
        from gpt4image.pipeline import open_descriptions, open_embeddings, open_images
        from gpt4image.workspace import Workspace

        space, how = Workspace(self.work), self.labeller
        images = open_images(self.source, space)
        stores = open_embeddings(open_descriptions(images, self.descriptions, space), self.descriptions, space)
        folder = space.labels("+".join(self.descriptions.encoder))
        labels = label_by_vectors(images, stores, folder, strength=how.strength, folds=how.folds, seed=how.label_seed)
        account = account_for(labels, images)
        write_doubts(labels.layout.doubtful, account.doubts)
        print("\n".join(map(printable, account.lines())))


@dataclass(frozen=True)
class Train:
    """Train one model. A run that was stopped goes on where it was."""

    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
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
        from gpt4image.pipeline import run_training

        run = run_training(
            self.source, self.descriptions, self.recipe, self.work, arm=self.arm, seed=self.seed, workers=self.workers
        )
        print(f"best epoch {run.best_epoch}, validation accuracy {run.best_accuracy:.1%}: {run.layout.folder}")


@dataclass(frozen=True)
class Compare:
    """Train with and without descriptions, and report which is better. Skips what is finished."""

    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
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
        from gpt4image.pipeline import run_comparison
        from gpt4image.report import verdict

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


@dataclass(frozen=True)
class Export:
    """Write a run's model for deployment, plain timm weights and ONNX, and prove that they answer alike."""

    source: DataOptions
    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """The run, such as gpt4image-work/runs/described-0."""
    out: Path
    """Folder for the model."""
    onnx: bool = True
    """Also write ONNX."""
    tolerance: float = 1e-3
    """Largest allowed difference of a logit."""
    work: Path = WORK
    """The work directory that the images were checked in."""

    def run(self) -> None:
        """Export and print how near each form is to the trained model."""
        from gpt4image.export import export_model
        from gpt4image.pipeline import open_images
        from gpt4image.train.run import open_run
        from gpt4image.workspace import Workspace

        images = open_images(self.source, Workspace(self.work))
        found = export_model(open_run(self.run_folder), images, self.out, onnx=self.onnx, tolerance=self.tolerance)
        print("\n".join(parity.line() for parity in found) + f"\nmodel: {self.out}")


@dataclass(frozen=True)
class Predict:
    """Label images with an exported model: one line an image, tab separated."""

    model: tyro.conf.Positional[Path]
    """Folder of the exported model."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Images, or folders of images."""
    top: int = 3
    """Classes named for each image."""

    def run(self) -> None:
        """Print path, then class and probability in turn; an unreadable image gets its reason."""
        from gpt4image.console import printable
        from gpt4image.export import predict_images

        for found in predict_images(self.model, self.images, top=self.top):
            answers = [cell for name, probability in found.answers for cell in (name, f"{probability:.4f}")]
            cells = [str(found.path), *(answers or [f"error: {found.error}"])]
            print("\t".join(map(printable, cells)))


DescribeCommand = Describe | DescribeCheck | DescribeExport | DescribeImport
Command = (
    Demo
    | Images
    | DescribeCommand
    | Embed
    | EmbedImages
    | EmbedCompare
    | Label
    | Train
    | Compare
    | Recipes
    | Report
    | Export
    | Predict
)

COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "images": Images,
    "describe": Describe,
    "describe check": DescribeCheck,
    "describe export": DescribeExport,
    "describe import": DescribeImport,
    "embed": Embed,
    "embed images": EmbedImages,
    "embed compare": EmbedCompare,
    "label": Label,
    "train": Train,
    "compare": Compare,
    "recipes": Recipes,
    "report": Report,
    "export": Export,
    "predict": Predict,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error that the message explains, 130 when interrupted."""
    try:
        command = parse(list(sys.argv[1:] if arguments is None else arguments))
        command.run()
    except Gpt4ImageError as error:
        from gpt4image.console import say

        say(f"error: {error}", style="red")
        return 1
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that must not be written to
        from gpt4image.console import say

        say(f"error: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        from gpt4image.console import say

        say("Stopped. The same command goes on from here.")
        return 130
    return 0


def parse(arguments: list[str]) -> Command:
    """Arguments to a command; a named recipe, then a `--config` file, take the place of the recipe's defaults.

    Raises:
        ConfigError: unknown command or recipe, or a `--config` file that cannot be meant.
        SystemExit: help was asked for, or an option is wrong.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        raise SystemExit(0 if arguments else 2)
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, options = " ".join(arguments[:words]), arguments[words:]
    if name not in COMMANDS:
        raise ConfigError(unknown_name("command", name, list(COMMANDS)))
    kind = COMMANDS[name]
    default: dict[str, Any] = {}
    if kind in (Train, Compare) and (recipe := starting_recipe(options)):
        default = {"default": kind(source=DataOptions(tyro.MISSING), recipe=recipe)}
    chosen: Command = tyro.cli(
        kind, prog=f"gpt4image {name}", args=options, config=(tyro.conf.OmitArgPrefixes,), **default
    )
    return chosen


def ask_person(estimate: Estimate) -> bool:
    """Show what it will cost, and ask whether to go on. ConfigError where there is nobody to ask."""
    from gpt4image.console import say

    say("\n".join(estimate.lines()))
    if not sys.stdin.isatty():
        raise ConfigError("Nobody can be asked whether to go on: give --yes, or --budget DOLLARS.")
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")


def overview() -> str:
    """What there is to do, a line a command."""
    lines = [f"  {name:16} {str(kind.__doc__).splitlines()[0]}" for name, kind in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gpt4image COMMAND ...",
            "",
            "Better image classifiers of ordinary size: descriptions at training, nothing extra at inference.",
            "",
            *lines,
            "",
            "gpt4image COMMAND --help shows every setting.",
        ]
    )


def starting_recipe(arguments: list[str]) -> Recipe | None:
    """The recipe that options change: the one named by `--recipe`, changed by the file of `--config`; None for neither.

    Raises:
        ConfigError: there is no such recipe, or the file cannot be meant.
    """
    name, file = option_value(arguments, "--recipe"), option_value(arguments, "--config")
    if name is None and file is None:
        return None
    recipe = Recipe() if name is None else named_recipe(name)
    return recipe if file is None else recipe_from(recipe, read_toml(Path(file)), file)


def option_value(arguments: list[str], option: str) -> str | None:
    """What follows an option, or None without it.

    >>> option_value(["data", "--config=a.toml"], "--config")
    'a.toml'
    """
    for argument, following in pairwise([*arguments, ""]):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None
