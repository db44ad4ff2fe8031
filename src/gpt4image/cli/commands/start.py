"""First steps: the demo, a check of an image set, an examination of the installation, and shell completion."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from gpt4image.cli.commands.train import comparison_values
from gpt4image.core.options import WORK, DataOptions, OutputOptions
from gpt4image.core.validation import Count, Whole, check_fields


@dataclass(frozen=True)
class Demo(OutputOptions):
    """Show what descriptions do with few, wrong and clean labels, on the example images.

    Trains with and without descriptions in each case, and draws one figure of all cases. Needs no network and takes
    6 to 10 minutes on two cores; an interrupted demo resumes.
    """

    KEYS: ClassVar = {
        "cases": "for each case, what `compare --json` prints",
        "page": "path of the page with all cases",
        "figure": "path of the figure, an SVG",
    }
    work: Path = Path("gpt4image-demo")
    """Work directory; an interrupted demo resumes there."""
    seeds: Count | None = None
    """Number of draws of the labels in every case; each draw also seeds the training. Default: 3 to 8, depending on the
    case."""

    runs_at_once: Count | None = None
    """Number of runs to train at once, each in its own process. Default: one per processor, at most 8. Each run has one
    thread, so this number changes no result."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Run the demo and print its findings."""
        from gpt4image.core.console import result, show
        from gpt4image.workflows.demo import run_demo

        demo = run_demo(self.work, seeds=self.seeds, runs_at_once=self.runs_at_once)
        show("\n".join([*demo.lines, f"page: {demo.page}", f"figure: {demo.figure}"]))
        result(cases=[comparison_values(each) for each in demo.comparisons], page=demo.page, figure=demo.figure)


@dataclass(frozen=True)
class Images(OutputOptions):
    """Check an image set for missing labels, unreadable files, duplicates and leakage.

    Prints a line for each class with the number of its images in each split, for each file that is left out, and for
    each image that occurs twice, in two splits or in two classes. Lines are aligned in a terminal, and tab-separated
    elsewhere.
    """

    EXAMPLE: ClassVar = "photos --leaks fail"
    KEYS: ClassVar = {
        "classes": "number of images of each class in each split",
        "unlabelled": "number of unlabelled images in each split",
        "boxes": "in a set with boxes: number of boxes of each class in each split",
        "pixels": "in a set with masks: number of pixels of each class, and of void pixels, in each split",
        "left_out": "files left out: path, reason",
        "boxes_left_out": "boxes left out: path of the image, place in the source, reason",
        "copies": "paths of images that occur more than once, by image id",
        "leaked": "images in more than one split: paths in each split, by image id",
        "conflicting": "images with more than one label: paths for each label, by image id",
        "splits": "with --splits, each image: split, path, id",
    }
    source: DataOptions
    work: Path = WORK
    """Work directory. It keeps the result, so that no later command reads the images again."""
    splits: bool = False
    """Also print a line for each image with its split, path and id."""

    def run(self) -> None:
        """Print the findings."""
        from gpt4image.cli.rows import write_rows
        from gpt4image.core.console import result
        from gpt4image.core.workdir import WorkDir
        from gpt4image.images.open import find_in_images, finding_rows, open_images

        images = open_images(self.source, WorkDir(self.work), names_follow=True)
        found = find_in_images(images, splits=self.splits)
        for _, rows in groupby(finding_rows(found), key=itemgetter(0)):  # each kind has columns of its own
            write_rows(list(rows))
        result(**found)


@dataclass(frozen=True)
class Doctor(OutputOptions):
    """Show versions, devices, keys, servers, free disk space, and missing optional parts.

    Starts nothing, sends nothing, and shows no key.
    """

    KEYS: ClassVar = {"findings": "for each item checked: section, name, state (ok, missing, warning), detail"}
    work: Path = WORK
    """Work directory whose disk is checked."""
    backbone: str | None = None
    """Also show the memory that training a classifier with this timm model takes, computed from shapes alone."""
    image_size: Count = 224
    """Height and width of the model's input in pixels."""
    batch_size: Count = 256
    """Images per step, summed over all processes."""
    processes: Count = 1
    """Number of processes, such as GPUs, that share the batch."""
    vector_width: Count = 1024
    """Length of the text vectors."""
    lora: Whole = 0
    """Rank of low-rank adapters that are trained instead of the pretrained weights; 0 trains all weights."""
    optimizer: str = "adamw"
    """Name of any timm optimiser."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Print the findings, section by section."""
        from gpt4image.core.console import result, show
        from gpt4image.core.format import printable
        from gpt4image.workflows.doctor import examine_installation, training_memory

        findings = examine_installation(self.work)
        if self.backbone is not None:
            findings += training_memory(
                self.backbone,
                image_size=self.image_size,
                batch_size=self.batch_size,
                processes=self.processes,
                width=self.vector_width,
                lora=self.lora,
                optimizer=self.optimizer,
            )
        marks = {"ok": " ", "missing": "-", "warning": "!"}
        for section in dict.fromkeys(finding.section for finding in findings):
            lines = [
                f"  {marks[finding.state]} {finding.name:<22}{finding.detail}"
                for finding in findings
                if finding.section == section
            ]
            show("\n".join([section, *map(printable, lines)]))
        show("- cannot be used here, ! needs attention")
        result(findings=[finding._asdict() for finding in findings])


@dataclass(frozen=True)
class Completion(OutputOptions):
    """Print a script that completes commands and options in a shell.

    For bash: eval "$(gpt4image completion bash)", for instance in ~/.bashrc.
    For zsh: eval "$(gpt4image completion zsh)", in ~/.zshrc after compinit.
    """

    EXAMPLE: ClassVar = "bash"
    KEYS: ClassVar = {"script": "the script"}
    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]]
    """The shell."""

    def run(self) -> None:
        """Print the script."""
        from gpt4image.cli.commands import COMMANDS
        from gpt4image.cli.completion import completion_script
        from gpt4image.core.console import result, write

        script = completion_script(COMMANDS, self.shell)
        write(script)
        result(script=script)
