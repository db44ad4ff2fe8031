"""Descriptions: write them, check them, export and import them."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from gpt4image.core.errors import ConfigError
from gpt4image.core.options import WORK, CheckOptions, DataOptions, OutputOptions, PushOptions, TextOptions
from gpt4image.describe.options import DescribeOptions

if TYPE_CHECKING:
    from gpt4image.describe.estimate import Estimate
    from gpt4image.quality.advice import Advice


TALLY = ("answered", "total", "failures", "failed_before", "tokens_in", "tokens_out", "cost", "seconds", "stopped")


@dataclass(frozen=True)
class Describe(OutputOptions):
    """Describe images with a multimodal LLM.

    Shows the estimated cost before you spend more than a trial, and never pays for a description twice. See also:
    gpt4image describe check, describe export, describe import.

    Exit status: 0 if every requested description is written, 3 if some failed, 1 if none is written or the run stopped
    early, 130 if it was interrupted.
    """

    SHORT: ClassVar = (
        *("model", "base-url", "describer", "prompts", "samples", "splits"),
        *("budget", "estimate", "sample", "yes", "engine", "work"),
    )
    EXAMPLE: ClassVar = "photos --base-url http://localhost:8000/v1 --prompts attributes"
    KEYS: ClassVar = {
        "answered": "descriptions written",
        "total": "descriptions that were requested",
        "failures": "failed descriptions by reason",
        "failed_before": "descriptions that failed in earlier runs and were not retried",
        "tokens_in": "input tokens",
        "tokens_out": "output tokens",
        "cost": "US dollars; 0 where no price is known",
        "seconds": "time taken",
        "stopped": "why the run ended early; empty if it did not",
        "store": "folder of the descriptions",
        "estimate": "with --estimate, instead of all of these: remaining, measured_on, tokens_in and tokens_out per "
        "description, dollars, batch_dollars, seconds at best and at worst",
        "sample": "with --sample, instead of all of these: path, label, prompt, text, error",
    }
    source: DataOptions
    describer: DescribeOptions = field(default_factory=DescribeOptions)
    estimate: bool = False
    """Describe a few images, and estimate cost, tokens and time for the rest, at several picture sizes."""
    sample: int | None = None
    """Describe this many images and show the texts, in the terminal and on a page."""
    yes: bool = False
    """Skip the confirmation of the cost."""
    work: Path = WORK
    """Work directory that keeps the descriptions."""

    def run(self) -> int:
        """Describe, print the counts and return the exit status."""
        from gpt4image.core.console import result, show
        from gpt4image.core.workdir import WorkDir
        from gpt4image.workflows import describe as workflow

        workdir = WorkDir(self.work)
        if self.estimate:
            estimate = workflow.run_estimate(self.source, self.describer, self.work)
            show("\n".join(estimate.lines()))
            result(estimate=estimate.fields())
        elif self.sample is not None:
            items = workflow.run_sample(self.source, self.describer, self.work, self.sample)
            for line in workflow.preview_lines(items):
                show(line)
            show(f"page: {workdir.description_preview}")
            result(sample=[item.fields() for item in items])
            answered = sum(item.record.answered for item in items)
            return 1 if not answered else 3 if answered < len(items) else 0
        else:
            confirm = None if self.yes else ask_user
            tally = workflow.run_description(self.source, self.describer, self.work, confirm)
            show(f"{tally.line()}: {workdir.description_store}")
            result(**tally.fields(), store=workdir.description_store)
            return tally.exit_status
        return 0


@dataclass(frozen=True)
class DescribeClasses(OutputOptions):
    """Have an LLM describe the classes in words, for labelling and searching.

    Sends no pictures. Writes a table for --classes.
    """

    SHORT: ClassVar = ("model", "base-url", "classes", "prompts", "samples", "budget", "yes", "out", "work")
    EXAMPLE: ClassVar = "photos --model gpt-4o-mini"
    KEYS: ClassVar = {name: Describe.KEYS[name] for name in TALLY} | {"table": "table with the columns class and text"}
    source: DataOptions
    describer: DescribeOptions = field(default_factory=DescribeOptions)
    yes: bool = False
    """Skip the confirmation of the cost."""
    out: Path | None = None
    """File for the table. Default: classes.csv in the work directory."""
    work: Path = WORK
    """Work directory that keeps the answers."""

    def run(self) -> int:
        """Describe the classes, and print the counts and where the table is."""
        from gpt4image.core.console import result, show
        from gpt4image.core.workdir import WorkDir
        from gpt4image.workflows.describe import run_class_texts

        out = self.out or WorkDir(self.work).class_texts_table
        tally = run_class_texts(self.source, self.describer, self.work, out, None if self.yes else ask_user)
        show(f"{tally.line()}\nto use them: --classes {out}")
        result(**tally.fields(), table=out)
        return tally.exit_status


@dataclass(frozen=True)
class DescribeCheck(OutputOptions):
    """Check descriptions for faults, and measure how well they predict the class.

    Writes a page with the findings and examples.
    """

    SHORT: ClassVar = ("backbone", "checkpoint", "image-size", "drop", "retry", "undo", "language", "text", "work")
    EXAMPLE: ClassVar = "photos --backbone resnet50 --drop refusal --retry loop"
    KEYS: ClassVar = {
        "findings": "for each kind: kind, severity, title, advice, count, share, examples",
        "knowledge": "how well the texts predict the class; null without --backbone",
        "page": "page with findings and examples",
        "advice": "what to train and the expected gain, as in gpt4image advise: case, title, arm, gain, command; "
        "null if there is no advice",
    }
    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    work: Path = WORK
    """Work directory that keeps the descriptions."""

    def run(self) -> None:
        """Print the findings, where the page is, and advice."""
        from gpt4image.core.console import result, show
        from gpt4image.core.workdir import WorkDir
        from gpt4image.report.descriptions.check_page import report_lines
        from gpt4image.workflows.check import run_check

        found, advice = run_check(self.source, self.descriptions, self.check, self.work)
        page = WorkDir(self.work).description_check
        show("\n".join([*report_lines(found), f"page: {page}"]))
        findings = [each.model_dump(exclude={"keys", "image_ids", "explanation"}) for each in found.findings]
        if advice is not None:
            show_advice(advice, short=True)
        short = advice and {key: getattr(advice, key) for key in ("case", "title", "arm", "gain", "command")}
        result(findings=findings, knowledge=found.knowledge, page=page, advice=short)


def show_advice(advice: Advice, *, short: bool = False) -> None:
    """Print advice with its command and, unless `short`, its evidence."""
    from gpt4image.core.console import show, write_command

    head, rest = advice.lines()
    show("\n".join(head))
    write_command(advice.command)
    if not short:
        show("\n".join(rest))


@dataclass(frozen=True)
class DescribeExport(OutputOptions):
    """Export descriptions as a Parquet dataset with a dataset card, for `datasets` and the Hugging Face Hub."""

    SHORT: ClassVar = ("out", "images-inside", "with-cost", "prompt-file", "push", "private", "work")
    EXAMPLE: ClassVar = "photos --out described-photos"
    KEYS: ClassVar = {
        "summary": "what was exported, in words",
        "folder": "folder of the dataset",
        "pushed": "address on the Hub; null without --push",
    }
    source: DataOptions
    out: Path
    """Folder for the dataset; must be empty or not exist."""
    images_inside: bool = False
    """Include the image files with their metadata, such as where a photo was taken."""
    with_cost: bool = False
    """Include what each text cost."""
    prompt_file: Path | None = None
    """TOML file with your own prompts, which the card then shows in full."""
    work: Path = WORK
    """Work directory that keeps the descriptions."""
    hub: PushOptions = field(default_factory=PushOptions)

    def run(self) -> None:
        """Export, print the counts, and push if requested."""
        from gpt4image.core.console import result, show
        from gpt4image.core.hub_push import hub_token, push_folder
        from gpt4image.workflows.check import run_export

        if self.hub.push:
            hub_token(self.hub.push)  # fails before the work if there is none
        found = run_export(
            self.source,
            self.work,
            self.out,
            images_inside=self.images_inside,
            with_cost=self.with_cost,
            prompt_file=self.prompt_file,
            repo=self.hub.push,
        )
        show(found.line())
        if place := push_folder(self.out, self.hub, kind="dataset", old=["data/*", "metadata.jsonl"]):
            show(f"pushed: {place}")
        result(summary=found.line(), folder=self.out, pushed=place)


@dataclass(frozen=True)
class DescribeImport(OutputOptions):
    """Import an exported dataset or a table of texts, so that you need not pay for them again."""

    SHORT: ClassVar = ("from", "model", "text-column", "skip-orphans", "work")
    EXAMPLE: ClassVar = "photos --from described-photos"
    KEYS: ClassVar = {
        "added": "texts added",
        "known": "texts that were already in the work directory",
        "orphans": "texts that match no image",
        "empty": "rows without a text",
        "ignored": "columns that were not used",
        "by_end": "texts that were matched only because their path ends like that of their image",
    }
    source: DataOptions
    descriptions: Annotated[Path, tyro.conf.arg(name="from")]
    """An exported folder or one of its files, a table of texts keyed by image id or path, or captions in the format of
    COCO, LLaVA or similar."""
    model: str | None = None
    """For a table: the model that wrote the texts, if known."""
    text_column: str | None = None
    """For a table: the text column, if it is not called text, description or caption."""
    skip_orphans: bool = False
    """Leave out texts that match no image, instead of stopping."""
    work: Path = WORK
    """Work directory that keeps the descriptions."""

    def run(self) -> None:
        """Import, and print the counts."""
        from gpt4image.core.console import result, show
        from gpt4image.workflows.check import run_import

        found = run_import(
            self.source,
            self.descriptions,
            self.work,
            model=self.model,
            text_column=self.text_column,
            skip_orphans=self.skip_orphans,
        )
        show(found.line())
        result(**asdict(found))


def ask_user(estimate: Estimate) -> bool:
    """Show the estimated cost and ask for confirmation. ConfigError if standard input is not a terminal."""
    from gpt4image.core.console import ask, say

    if not sys.stdin.isatty():
        say("\n".join(estimate.lines()))
        raise ConfigError("Not a terminal, so you cannot confirm the cost: pass --yes or --budget DOLLARS.")
    return ask("\n".join([*estimate.lines(), "Continue? [y/N] "])).lower() in ("y", "yes")
