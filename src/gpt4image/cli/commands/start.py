"""First steps: the demo, a check of an image set, a look at the installation, shell completion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from gpt4image.core.options import WORK, DataOptions


@dataclass(frozen=True)
class Demo:
    """Train, compare, report and export on the example images.

    Needs no network and takes some minutes.
    """

    work: Path = Path("gpt4image-demo")
    """Work directory; an interrupted demo resumes there."""
    seeds: int = 5
    """Training runs per arm."""

    def run(self) -> None:
        """Run the demo and print where the results are."""
        from gpt4image.core.console import show, write
        from gpt4image.report import verdict
        from gpt4image.workflows.demo import run_demo

        result = run_demo(self.work, seeds=self.seeds)
        found = verdict(result.comparison)
        show(found.text)
        if found.command:
            write(f"  {found.command}")
        show(
            "\n".join(
                [*(parity.line() for parity in result.parity), f"report: {result.report}", f"model: {result.model}"]
            )
        )


@dataclass(frozen=True)
class Images:
    """Check an image set for missing labels, unreadable files, duplicates and leakage.

    Prints a tab-separated line for each class with its images a split, for each file left out, and for each image that
    occurs twice, in two splits or in two classes.
    """

    EXAMPLE: ClassVar = "photos --leaks fail"
    source: DataOptions
    work: Path = WORK
    """Work directory; it keeps the result, so no later command scans the images again."""
    splits: bool = False
    """Also print a line for each image with its split, path and id."""

    def run(self) -> None:
        """Print the findings."""
        from gpt4image.core.console import write
        from gpt4image.core.format import printable
        from gpt4image.core.workdir import WorkDir
        from gpt4image.images.open import findings, open_images

        images = open_images(self.source, WorkDir(self.work), names_follow=True)
        for line in findings(images, splits=self.splits):
            write("\t".join(map(printable, line)))


@dataclass(frozen=True)
class Doctor:
    """Show versions, devices, keys, servers, free disk space, and what is missing for what.

    Starts nothing, sends nothing, and shows no key.
    """

    work: Path = WORK
    """Work directory whose disk is looked at."""
    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        """Print the findings, section by section."""
        from gpt4image.core.console import show, write
        from gpt4image.core.format import printable
        from gpt4image.workflows.doctor import examine_installation

        findings = examine_installation(self.work)
        if self.json:
            import json

            write(json.dumps([finding._asdict() for finding in findings], indent=2))
            return
        marks = {"ok": " ", "missing": "-", "warning": "!"}
        for section in dict.fromkeys(finding.section for finding in findings):
            lines = [
                f"  {marks[finding.state]} {finding.name:<22}{finding.detail}"
                for finding in findings
                if finding.section == section
            ]
            show("\n".join([section, *map(printable, lines)]))
        show("- cannot be used here, ! needs attention")


@dataclass(frozen=True)
class Completion:
    """Print a script that completes commands and options in a shell.

    For bash: eval "$(gpt4image completion bash)", for instance in ~/.bashrc.
    """

    EXAMPLE: ClassVar = "bash"
    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]]
    """The shell."""

    def run(self) -> None:
        """Print the script."""
        from gpt4image.cli.commands import COMMANDS
        from gpt4image.cli.completion import completion_script
        from gpt4image.core.console import write

        write(completion_script(COMMANDS, self.shell))
