"""The work directory: where each stage leaves its product."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """Layout of a work directory.

    Attributes:
        folder: the work directory.
    """

    folder: Path

    @property
    def description_store(self) -> Path:
        """All that describers have answered."""
        return self.folder / "descriptions"

    @property
    def description_preview(self) -> Path:
        """A few descriptions to look at."""
        return self.folder / "descriptions" / "preview.html"

    @property
    def description_findings(self) -> Path:
        """What was found in the descriptions, as a record."""
        return self.folder / "descriptions" / "check.json"

    @property
    def description_check(self) -> Path:
        """What was found in the descriptions, to look at."""
        return self.folder / "descriptions" / "check.html"

    @property
    def descriptions(self) -> Path:
        """The texts, joined to image ids."""
        return self.folder / "descriptions" / "descriptions.parquet"

    def embeddings(self, encoder: str) -> Path:
        """Vectors of one text encoder.

        >>> Workspace(Path("work")).embeddings("open-clip:RN50/openai").as_posix()
        'work/embeddings/open-clip-RN50-openai'
        """
        return self.folder / "embeddings" / file_name(encoder)

    def image_embeddings(self, teacher: str) -> Path:
        """Vectors of the images themselves, by one vision teacher.

        >>> Workspace(Path("work")).image_embeddings("timm:resnet50").as_posix()
        'work/embeddings/images-timm-resnet50'
        """
        return self.embeddings(f"images-{teacher}")

    def labels(self, name: str) -> Path:
        """Soft labels made from the vectors of text encoders, or by a teacher.

        >>> Workspace(Path("work")).labels("minilm+open-clip:RN50/openai").as_posix()
        'work/labels/minilm-open-clip-RN50-openai'
        """
        return self.folder / "labels" / file_name(name)

    @property
    def features(self) -> Path:
        """Stored outputs of frozen modules, shared by all runs."""
        return self.folder / "features"

    def run(self, arm: str, seed: int) -> Path:
        """One training run."""
        return self.folder / "runs" / f"{arm}-{seed}"

    @property
    def comparison(self) -> Path:
        """What the comparison found."""
        return self.folder / "comparison.json"

    @property
    def gallery(self) -> Path:
        """Test images to look at."""
        return self.folder / "gallery.json"


def file_name(name: str) -> str:
    """The name of an encoder as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "encoder"
