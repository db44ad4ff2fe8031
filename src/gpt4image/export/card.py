"""The model card of an exported model: results, training, data, licences, use."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from gpt4image.compare.model_facts import parts_of, work_of
from gpt4image.compare.records import Comparison, RunRecord, UsedModelRecord
from gpt4image.core import console
from gpt4image.core.errors import StoreError
from gpt4image.core.files import read_json
from gpt4image.core.format import percent, points
from gpt4image.core.invocation import current_invocation
from gpt4image.core.markdown import MOST_CLASSES, one_line, render_card, write_card
from gpt4image.images.table import SPLITS, ImageTable, rows_with_label
from gpt4image.tasks import TASKS
from gpt4image.train.identity import image_changes, is_trained_on, trained_rows
from gpt4image.train.run import TrainedRun

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData


PLACE = "path/to/this/folder"


PIPELINES: dict[str, tuple[str, list[str]]] = {
    "classifier": ("image-classification", ["mean_average_precision", "f1"]),
    "detector": ("object-detection", ["mean_average_precision"]),
    "segmenter": ("image-segmentation", ["mean_iou"]),
}
"""The Hub's name for a family's task, and its metrics for tasks other than one class per image."""


@dataclass(frozen=True)
class ModelFacts:
    """Everything a card states.

    Attributes:
        run: the run whose model it is.
        images: the images it was trained on.
        checks: how each exported form was verified, measured and timed, one per line.
        repo: the repository on the Hub, USER/NAME; None without one.
    """

    run: TrainedRun
    images: ImageTable
    checks: Sequence[str]
    repo: str | None = None

    @property
    def source(self) -> str:
        """Name of the image set, without its parent folders."""
        return Path(self.images.source).name or self.images.source

    @property
    def backbone(self) -> str:
        """Name of the backbone, without folders of this machine."""
        return self.run.recipe.shareable().backbone

    @property
    def recipe(self) -> str:
        """The recipe as a file for `--config`."""
        return "\n".join(self.run.recipe.shareable().lines())

    @property
    def command(self) -> str:
        """The command that trains this run on the same images, without folders of this machine."""
        typed = current_invocation()
        options = [word if word.startswith("--") else Path(word).name for word in (typed.images[1:] if typed else ())]
        words = ["--config", "recipe.toml", "--arm", self.run.arm.name, "--seed", str(self.run.seed)]
        return f"gpt4image train DATA {shlex.join([*options, *words])}"


def write_model_card(path: Path, facts: ModelFacts) -> None:
    """Write the card, the `README.md` of a model."""
    comparison, parts = find_comparison(facts.run), parts_of(facts.run)
    write_card(path, model_metadata(facts, comparison, parts), model_text(facts, comparison, parts))


def find_comparison(run: TrainedRun) -> Comparison | None:
    """Return the comparison that a run is part of, the work directory's latest one if possible; None without one."""
    workdir = work_of(run)
    for path in (workdir.comparison, *sorted(workdir.experiments.glob("*/comparison.json"))):
        if not path.exists():
            continue
        try:
            comparison = Comparison.load(path)
        except StoreError as error:
            console.say(f"{error} The model card omits this comparison.", "yellow")
            continue
        if comparison.split == "test" and recorded_run(run, comparison):
            return comparison
    return None


def recorded_run(run: TrainedRun, comparison: Comparison) -> RunRecord | None:
    """Return the record of a run in a comparison; None if it has none."""
    return next(
        (
            found
            for arm in comparison.arms
            for found in arm.runs
            if (found.arm, found.seed, found.best_epoch, found.validation_accuracy)
            == (run.arm.name, run.seed, run.best_epoch, run.best_accuracy)
        ),
        None,
    )


def model_metadata(facts: ModelFacts, comparison: Comparison | None, parts: Sequence[UsedModelRecord]) -> ModelCardData:
    """Return the metadata that the Hugging Face Hub reads."""
    from huggingface_hub import ModelCardData

    start = next((part.hub_name for part in parts if part.role == "initial weights"), None)
    family, clips = TASKS.load(facts.run.task).family, facts.run.frames is not None
    kind, several = PIPELINES.get(family, PIPELINES["classifier"])
    kind, plain = "video-classification" if clips else kind, family == "classifier" and not clips
    return ModelCardData(
        library_name="timm" if plain else "gpt4image",
        pipeline_tag=kind,
        tags=["gpt4image", kind, "timm", "transformers" if plain else "torchvision"],
        base_model=start,
        metrics=["accuracy"] if TASKS.load(facts.run.task).one_class else several,
        model_name=one_line(f"{facts.backbone} on {facts.source}"),
        eval_results=results(facts, comparison),
    )


def results(facts: ModelFacts, comparison: Comparison | None) -> list[EvalResult]:
    """Return the main metrics of the run, for the `model-index`."""
    from huggingface_hub import EvalResult

    task = TASKS.load(facts.run.task)
    kind, _ = PIPELINES.get(task.family, PIPELINES["classifier"])
    kind = "video-classification" if facts.run.frames else kind
    score = (task.score.replace(" ", "_"), task.score.capitalize())
    values: dict[tuple[str, str, str], float | None] = {("validation", *score): facts.run.best_accuracy}
    record = comparison and recorded_run(facts.run, comparison)
    if record and not task.one_class:
        values |= {
            ("test", *score): record.test_accuracy,
            ("test", "mean_average_precision", "mAP"): record.mean_average_precision,
            ("test", "f1", "Micro F1"): record.micro_f1,
            ("test", "mean_iou", "mIoU"): record.mean_iou,
        }
    elif record:
        values |= {
            ("test", "accuracy", "Accuracy"): record.test_accuracy,
            ("test", "balanced_accuracy", "Balanced accuracy"): record.balanced_accuracy,
        }
    return [
        EvalResult(
            task_type=kind,
            dataset_type="imagefolder",
            dataset_name=one_line(facts.source),
            dataset_split=split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for (split, metric, name), value in values.items()
        if value is not None
    ]


def model_text(facts: ModelFacts, comparison: Comparison | None, parts: Sequence[UsedModelRecord]) -> str:
    """Render the Markdown of the card."""
    run = facts.run
    splits, labelled = count_trained(run, facts.images)
    return render_card(
        __package__,
        {"percent": shown_share, "mean": mean_share},
        facts=facts,
        run=run,
        several=not TASKS.load(run.task).one_class,
        boxes=TASKS.load(run.task).family == "detector",
        frames=run.frames,
        use_clips=f"gpt4image predict {PLACE} clips --csv",
        use_clips_python=use_clips(),
        masks=TASKS.load(run.task).family == "segmenter",
        use_segmenter=f"gpt4image predict {PLACE} photos --masks masks --drawn drawn",
        use_segmenter_python=use_segmenter(),
        use_detector=f"gpt4image predict {PLACE} photos --coco objects.json --drawn drawn",
        use_detector_python=use_detector(),
        score=TASKS.load(run.task).score,
        use=use_with_timm(facts.repo, facts.run.task),
        use_transformers=use_with_transformers(facts.repo),
        comparison=comparison,
        record=comparison and recorded_run(run, comparison),
        finding=comparison and finding(comparison),
        splits=splits,
        labelled=labelled,
        changes=changes_since_training(run, facts.images),
        classes=run.classes if len(run.classes) <= MOST_CLASSES else (),
        parts=parts,
        versions={name: version(name) for name in ("gpt4image", "torch", "timm")}
        | {"Python": platform.python_version()},
    )


def changes_since_training(run: TrainedRun, images: ImageTable) -> list[str]:
    """Say how images, labels and splits differ from those used in training, one clause for each change."""
    if is_trained_on(read_json(run.layout.settings), images):
        return []
    return image_changes(run.layout.read_images(), images)


def count_trained(run: TrainedRun, images: ImageTable) -> tuple[dict[str, int], int]:
    """Return the number of images in each split during training, and of training images with a label.

    A run of version 0.1 did not record them, so the given images are counted.
    """
    rows = run.layout.read_images()
    if rows is None:
        rows = trained_rows(images)
    splits = rows["split"].to_pylist()
    counts = {split: splits.count(split) for split in SPLITS} | {"test": len(images.split("test"))}
    return counts, int((rows_with_label(rows) & np.equal(splits, "train")).sum())


def use_detector() -> str:
    """Return lines of Python that find objects in a photo."""
    return (
        "from pathlib import Path\n\n"
        "from gpt4image.export import detect_objects, open_detector\n\n"
        f'detector = open_detector(Path("{PLACE}"))\n'
        'for found in detect_objects(detector, [Path("photo.jpg")]):\n'
        "    print(found.path, found.objects)"
    )


def use_clips() -> str:
    """Return lines of Python that classify the clips of a folder."""
    return (
        "from pathlib import Path\n\n"
        "from gpt4image import predict_images\n\n"
        f'for found in predict_images(Path("{PLACE}"), [Path("clips")]):\n'
        "    print(found.path, found.answers, found.error)"
    )


def use_segmenter() -> str:
    """Return lines of Python that find the class of each pixel of a photo."""
    return (
        "from pathlib import Path\n\n"
        "from gpt4image.export import open_segmenter, segment_images\n\n"
        f'segmenter = open_segmenter(Path("{PLACE}"))\n'
        'for found in segment_images(segmenter, [Path("photo.jpg")]):\n'
        "    print(found.path, found.mask)"
    )


def use_with_timm(repo: str | None, task: str = "classification") -> str:
    """Return three lines of Python that classify a photo with timm, after the imports."""
    place = f"hf-hub:{repo}" if repo else f"local-dir:{PLACE}"
    return (
        "import timm, torch\n"
        "from PIL import Image\n\n"
        f'model = timm.create_model("{place}", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)\n"
        'print(model(transform(Image.open("photo.jpg").convert("RGB")).unsqueeze(0)).'
        f"{'softmax(dim=1)' if TASKS.load(task).one_class else 'sigmoid()'})"
    )


def use_with_transformers(repo: str | None) -> str:
    """Return three lines of Python that classify a photo with transformers."""
    return (
        "from transformers import pipeline\n\n"
        f'classify = pipeline("image-classification", model="{repo or PLACE}")\n'
        'print(classify("photo.jpg"))'
    )


def mean_share(runs: Sequence[RunRecord], name: str) -> Markup:
    """Return the mean of a metric over runs."""
    return shown_share(fmean(getattr(run, name) for run in runs))


def shown_share(share: float) -> Markup:
    """Return a share as a percentage, which needs no escaping."""
    return Markup(percent(share))


def finding(comparison: Comparison) -> str:
    """State the difference of a comparison with its interval, claiming only what it shows."""
    difference = comparison.difference
    mean, low, high = points((difference.mean, difference.low, difference.high))
    measured = (
        f"{difference.arm} minus {difference.reference}: {mean} points of test {comparison.score} (95% interval {low} "
        f"to {high}"
    )
    if difference.covers == "images only":
        return f"{measured}, for the test images only). One seed cannot tell an effect from chance."
    if difference.low <= 0 <= difference.high:
        return f"{measured}). The interval includes zero: these runs do not show that descriptions help or hurt."
    return f"{measured}). Training with descriptions made the model {'better' if difference.low > 0 else 'worse'}."
