"""Descriptions: have them written, check them, take them out and in."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gpt4image.core.errors import ConfigError
from gpt4image.core.options import WORK, CheckOptions, DataOptions, TextOptions
from gpt4image.describe.options import DescribeOptions

if TYPE_CHECKING:
    from gpt4image.describe.estimate import Estimate


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
    """Spend without asking, whatever it costs. --budget skips the question too."""
    work: Path = WORK
    """Where the descriptions are kept."""

    def run(self) -> None:
        """Describe, and say what was done."""
        from gpt4image.workflows import describe as describing

        if self.estimate:
            print("\n".join(describing.run_estimate(self.source, self.describer, self.work).lines()))
        elif self.sample is not None:
            self._show_sample(self.sample)
        else:
            confirm = None if self.yes else ask_person
            tally = describing.run_description(self.source, self.describer, self.work, confirm)
            print(f"{tally.line()}: {self.work / 'descriptions'}")

    def _show_sample(self, count: int) -> None:
        from gpt4image.core.workdir import WorkDir
        from gpt4image.workflows.describe import preview_line, run_sample

        for item in run_sample(self.source, self.describer, self.work, count):
            print(preview_line(item))
        print(f"page: {WorkDir(self.work).description_preview}")


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
        from gpt4image.core.format import printable
        from gpt4image.core.workdir import WorkDir
        from gpt4image.report.descriptions.check_page import report_lines
        from gpt4image.workflows.check import run_check

        report = run_check(self.source, self.descriptions, self.check, self.work)
        print("\n".join(map(printable, report_lines(report))))
        print(f"page: {WorkDir(self.work).description_check}")


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
        from gpt4image.workflows.check import run_export

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
        from gpt4image.workflows.check import run_import

        found = run_import(
            self.source,
            self.descriptions,
            self.work,
            model=self.model,
            text_column=self.text_column,
            skip_orphans=self.skip_orphans,
        )
        print(found.line())


def ask_person(estimate: Estimate) -> bool:
    """Show the estimate and ask whether to continue. ConfigError when standard input is not a terminal."""
    from gpt4image.core.console import say

    say("\n".join(estimate.lines()))
    if not sys.stdin.isatty():
        raise ConfigError("Not a terminal: pass --yes or --budget DOLLARS.")
    return input("Continue? [y/N] ").strip().lower() in ("y", "yes")
