"""The work directory, where each stage leaves its results, and the folder of an exported model."""

from __future__ import annotations

import re
from pathlib import Path

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import File, Layout


class ExportLayout(Layout):
    """Files of an exported model."""

    weights = File("model.safetensors")  # under timm's names
    program = File("model.pt2")
    onnx = File("model.onnx")
    int8 = File("model.int8.onnx")
    config = File("config.json")  # architecture, class names and preprocessing, in timm's format
    card = File("README.md")

    def require(self) -> None:
        """Raise ConfigError if the folder holds no exported model."""
        if not (self.config.exists() and self.weights.exists()):
            raise ConfigError(f"{self.folder} contains no exported model. Name a folder written by gpt4image export.")

    def require_free(self) -> None:
        """Raise ConfigError if an export would overwrite anything but an export."""
        if not self.folder.exists():
            return
        needed = {self.weights, self.config}
        own = needed | {self.program, self.onnx, self.int8, self.card}
        inside = set(self.folder.iterdir()) if self.folder.is_dir() else {self.folder}
        if inside and not needed <= inside <= own:
            raise ConfigError(f"{self.folder} contains something other than an exported model. Choose another folder.")


class WorkDir(Layout):
    """Layout of a work directory.

    The store of descriptions (`descriptions/`) also holds the pages and the joined table made from it.
    """

    description_store = File("descriptions")
    description_preview = File("descriptions/preview.html")
    description_findings = File("descriptions/check.json")
    description_check = File("descriptions/check.html")
    rehearsal = File("labels/rehearsal.json")  # measurements on held-out labels, for advice
    audit = File("audit/audit.json")
    audit_page = File("audit/audit.html")
    descriptions = File("descriptions/descriptions.parquet")  # the texts joined to image ids
    features = File("features")  # outputs of frozen modules, shared by all runs
    class_texts = File("classes")  # class texts written by a model
    class_texts_table = File("classes.csv")  # the same as a table, for --classes
    comparison = File("comparison.json")  # of the latest experiment, like the next three
    gallery = File("gallery.json")
    report = File("report.html")
    cases = File("cases.json")  # comparisons shown on one page
    cases_page = File("cases.html")
    cases_figure = File("cases.svg")  # the page's figure as a file
    test_answers = File("test_answers.csv")  # every arm's and seed's answer for every test image
    runs = File("runs")
    experiments = File("experiments")  # a folder for each, with its own comparison
    tuning = File("tuning")  # trials of the search for settings
    tracking = File("tracking")  # files of experiment trackers

    def embeddings(self, encoder: str) -> Path:
        """Return the folder of one text encoder's vectors.

        >>> WorkDir(Path("work")).embeddings("open-clip:RN50/openai").as_posix()
        'work/embeddings/open-clip-RN50-openai'
        """
        return self.folder / "embeddings" / file_name(encoder)

    def image_embeddings(self, teacher: str) -> Path:
        """Return the folder of the image vectors that one vision teacher has computed.

        >>> WorkDir(Path("work")).image_embeddings("timm:resnet50").as_posix()
        'work/embeddings/images-timm-resnet50'
        """
        return self.embeddings(f"images-{teacher}")

    def labels(self, name: str) -> Path:
        """Return the folder of soft labels made from the vectors of text encoders, or by a teacher.

        >>> WorkDir(Path("work")).labels("minilm+open-clip:RN50/openai").as_posix()
        'work/labels/minilm-open-clip-RN50-openai'
        """
        return self.folder / "labels" / file_name(name)

    def text_labels(self, name: str) -> Path:
        """Return the folder of text labels made from the vectors of text encoders, or of frozen image features.

        >>> WorkDir(Path("work")).text_labels("minilm").as_posix()
        'work/labels/text-minilm'
        """
        return self.labels(f"text-{name}")

    def run(self, arm: str, seed: int) -> Path:
        """Return the folder of an arm's first run with a seed; runs with different settings add a hash."""
        return self.runs / f"{arm}-{seed}"

    def experiment(self, name: str) -> Path:
        """Return the folder of an experiment."""
        return self.experiments / name


def file_name(name: str) -> str:
    """Turn the name of an encoder or a teacher into a folder name.

    >>> file_name("timm:resnet50")
    'timm-resnet50'
    """
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "encoder"
