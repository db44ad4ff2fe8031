"""First steps: the demo, and what an image set holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpt4image.core.options import WORK, DataOptions


@dataclass(frozen=True)
class Demo:
    """Do everything on the example images, without network: train, compare, report, export. Takes some minutes."""

    work: Path = Path("gpt4image-demo")
    """Where everything is written. A demo that was stopped goes on where it was."""
    seeds: int = 5
    """Models trained per arm."""

    def run(self) -> None:
        """Run the demo and say where its products lie."""
        from gpt4image.report import verdict
        from gpt4image.workflows.demo import run_demo

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
        """Print the images of each class and split, the files that were left out, and the images that occur twice."""
        from gpt4image.core.format import printable
        from gpt4image.core.workdir import WorkDir
        from gpt4image.images.open import findings, open_images

        images = open_images(self.source, WorkDir(self.work), names_follow=True)
        for line in findings(images):
            print("\t".join(map(printable, line)))
