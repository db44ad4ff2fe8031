"""Settings of the stages around training, shared by the command line and the library.

The docstring below a field is its help text on the command line; its annotation holds its constraints. This module
imports nothing heavy. The settings of describing are in `gpt4image.describe.options`, those of a training run in
`gpt4image.train.recipe`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from annotated_types import Ge, Interval

from gpt4image.core.errors import ConfigError
from gpt4image.core.validation import (
    Count,
    NotNegative,
    Positive,
    Share,
    Whole,
    changed_options,
    check_fields,
    check_value,
)

WORK = Path("gpt4image-work")  # the default work directory


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Output."""

    json: bool = False
    """Print the result as one JSON object instead of text. Notes and progress go to standard error either way."""
    quiet: bool = False
    """Print only the result, warnings and errors; no notes or progress."""


HeldOut = Annotated[float, Interval(ge=0, lt=1)]
SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class DataOptions:
    """Images."""

    data: Annotated[str, tyro.conf.Positional]
    """Image set: a folder of class folders, a folder with metadata, CSV/JSONL, Parquet/Arrow, WebDataset tars, an
    export of Label Studio, FiftyOne or COCO (JSON), OWNER/NAME (hf:NAME) on the Hugging Face Hub, or an address of any
    of these (s3://, gs://, https://)."""
    unlabelled: tuple[str, ...] = ()
    """Additional training images without labels, from any source; labels found there are ignored. In the image set
    itself, images in a folder `unlabelled` or with an empty label are unlabelled as well."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """If an image cannot be read: leave it out and list it, or stop."""
    corrections: Path | None = None
    """Corrected labels: the corrections.csv saved by the page of `gpt4image audit`, or an export of Label Studio or
    FiftyOne (JSON)."""
    leaks: Literal["keep", "drop", "fail"] = "keep"
    """If the same image is in two splits: keep it and warn, drop it from the training set, or stop."""
    image_column: str | None = None
    """Column with the images, if it is not recognised."""
    label_column: str | None = None
    """Column with the labels, if it is not recognised."""
    unusual_labels: Literal["fail", "keep"] = "fail"
    """If the labels look like numbers to predict, several labels in one, one class in two spellings, or parts of the
    set: stop, or use them as classes."""
    task: Literal["classification", "multi-label", "detection", "segmentation"] | None = None
    """classification: one class per image; multi-label: any number of labels per image; detection: boxes from COCO
    (JSON), YOLO or Pascal VOC; segmentation: masks from COCO or in a folder next to the images. Default: multi-label if
    the source has several labels per image (lists in the label column, annotations of COCO, --label-separator,
    --label-columns), else classification. With class folders, multi-label gives an image the classes of all folders
    that contain a copy of it."""
    crops: NotNegative | None = None
    """Treat each annotated box as an image, with this margin as a share of its longer side, such as 0.1. train and
    compare then align boxes with the descriptions of their crops, in addition to whole images with theirs. Needs task
    detection, or segmentation, where the boxes are those around regions."""
    crop_text: str | None = None
    """Where the descriptions of the crops are, if not in this work directory: a file keyed by path ("1.jpg, box 2") or
    id, or another work directory."""
    label_separator: str | None = None
    """Separator of the labels in a cell, if the label column contains several labels."""
    label_columns: tuple[str, ...] = ()
    """Columns of 0 and 1, one for each class, that state which labels an image has; an empty cell means unknown."""
    frames: Count | None = None
    """Read the image set as clips (video files or folders of frames) and use this many frames of each. Default: 8 if
    the folder contains video files and no images."""
    frame_rule: Literal["even", "scene"] = "even"
    """Use evenly spaced frames, or one frame between each two cuts."""
    frame_side: Whole = 768
    """Longest side of a frame in pixels; larger ones are scaled down. 0 keeps the size."""
    max_pixels: Count = 89_478_485
    """Largest width x height to decode."""
    validation_share: HeldOut = 0.1
    """Share of the images to hold out for validation if the source has no such split."""
    test_share: HeldOut = 0.2
    """Share of the images to hold out for testing if the source has no such split."""
    split_seed: Whole = 0
    """Seed of the splits that are made."""

    def __post_init__(self) -> None:
        if self.data is not tyro.MISSING:  # the command line fills it in later
            check_fields(self)

    def words(self) -> list[str]:
        """Return the settings that differ from their defaults as words of a command line.

        >>> DataOptions("photos", corrections=Path("a b.csv"), unlabelled=("x", "y")).words()
        ['photos', '--unlabelled', 'x', 'y', '--corrections', 'a b.csv']
        """
        return [self.data, *changed_options(self)]


@dataclass(frozen=True)
class TextOptions:
    """Descriptions and text encoders."""

    text: str | None = None
    """Where the descriptions are: a text column of the images; a CSV, JSONL or Parquet file keyed by path or id;
    captions of COCO, LLaVA or TextTeacher; the reference project's .pth list; another work directory; or `none` to use
    only teachers. Default: the output of `gpt4image describe` in this work directory, else the column `description`."""
    use_prompts: tuple[str, ...] = ()
    """Use only descriptions written for these prompts."""
    use_models: tuple[str, ...] = ()
    """Use only descriptions written by these models."""
    text_column: str | None = None
    """Text column of the file, if it is not called text, description or caption."""
    orphan_texts: Literal["fail", "skip"] = "fail"
    """If a text matches no image: stop, or leave the text out."""
    encoder: tuple[str, ...] = ("minilm",)
    """Text encoders: minilm, sentence-transformers:MODEL or open-clip:MODEL/PRETRAINED."""
    long_text: Literal["truncate", "pool"] = "truncate"
    """Truncate texts that are longer than the encoder's context, or encode them in chunks and pool the vectors."""
    embed_batch: Count = 64
    """Texts per encoder batch."""
    embed_precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the encoder's matrix products. bfloat16 takes a third of the time on processors that support it.
    Its vectors differ slightly, so use one format throughout a work directory."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class GuidanceOptions(TextOptions):
    """Vision teachers."""

    teachers: tuple[str, ...] = ()
    """Vision teachers to align with in addition to the texts, such as timm:MODEL; run:FOLDER provides soft labels."""
    anchors: Literal["class-texts", "descriptions"] = "class-texts"
    """For the arm class-anchored, what stands for each class in the teacher's text space: its name or texts
    (--classes), or the mean of its descriptions."""


@dataclass(frozen=True)
class TeacherOptions:
    """Vision teacher."""

    teacher: str
    """timm:MODEL (pooled features), open-clip:MODEL/PRETRAINED (image tower), or run:FOLDER (a finished run or an
    exported model, whose logits become soft labels)."""
    teacher_checkpoint: Path | None = None
    """Weights file for a timm teacher, instead of its pretrained weights."""
    teacher_size: Count | None = None
    """Height and width of a timm teacher's input in pixels. Default: the size it was trained with."""
    splits: tuple[SplitName, ...] = ("train",)
    """Splits to process. Training needs only train."""
    views: Count = 1
    """Vectors per image: the whole picture first, then random crops."""
    view_seed: Whole = 0
    """Seed of the random crops."""
    teacher_batch: Count = 64
    """Images per batch."""
    workers: Whole = 0
    """Processes that load images."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_splits(self.splits)


@dataclass(frozen=True)
class LabelOptions:
    """Classifier on the texts."""

    classes: Path | None = None
    """File with the names of the classes, one per line, or a table with the columns class and text, whose texts
    describe the classes. Default: the names of the images' classes."""
    label_form: Literal["hard", "sharp", "soft"] = "hard"
    """Form of text labels. hard: the most likely class; soft: calibrated probabilities; sharp: sharpened
    probabilities."""
    abstain: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Give no text label to images whose most likely class has a lower probability than this."""
    label_adjustment: NotNegative = 0.0
    """For skewed classes: adjust new text labels by this multiple of the logarithm of the classes' shares among the
    given labels; 1 gives all classes an equal chance."""
    strength: Annotated[Positive, Interval(lt=float("inf"))] | None = None
    """Inverse regularisation strength: higher values fit the texts more closely. Default: 3 for soft labels; for text
    labels 10, unless cross-validation on the given labels clearly prefers another value."""
    folds: Annotated[int, Ge(2)] = 5
    """Number of folds for cross-fitting: each image is labelled by a classifier that has not seen its fold."""
    label_seed: Whole = 0
    """Seed of the folds."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class SimulationOptions:
    """Simulation of few, wrong or skewed labels, drawn anew with each seed; test labels never change."""

    labels_per_class: Annotated[int, Ge(0)] | None = None
    """Keep only this many training labels of each class; 0 keeps none."""
    label_share: Share | None = None
    """Keep only this share of each class's training labels."""
    label_noise: Share = 0.0
    """Make this share of the training and validation labels wrong."""
    noise_kind: Literal["symmetric", "pairwise"] = "symmetric"
    """What a wrong label is: any other class, or always the next class."""
    long_tail: Annotated[float, Ge(1)] | None = None
    """Leave out training and validation images until the largest class has this many times as many images as the
    smallest. The order of the classes is drawn at random."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.labels_per_class is not None and self.label_share is not None:
            raise ConfigError(
                "labels_per_class (--labels-per-class) and label_share (--label-share) exclude each other: keep "
                "either a number of labels or a share."
            )

    @property
    def active(self) -> bool:
        """Whether any label or image is removed or changed."""
        fewer = self.labels_per_class is not None or self.label_share is not None or self.long_tail is not None
        return fewer or self.label_noise > 0


@dataclass(frozen=True)
class MeasureOptions:
    """Evaluation beyond the test images."""

    corruptions: bool = False
    """Also measure accuracy under the 15 corruptions of ImageNet-C. Needs the extra `robustness`."""
    corruption_severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities of the corruptions, from 1 to 5."""
    transfer: tuple[str, ...] = ()
    """Also evaluate the models' features on other image sets, with a linear probe and with nearest neighbours."""

    def __post_init__(self) -> None:
        if not self.corruption_severities or not set(self.corruption_severities) <= {1, 2, 3, 4, 5}:
            raise ConfigError(
                "corruption_severities (--corruption-severities) are numbers from 1 to 5, not "
                f"{list(self.corruption_severities)}."
            )


@dataclass(frozen=True)
class ArmOptions:
    """What a comparison trains.

    Attributes:
        arms: arms to train besides the baseline. Default: all that are not optional.
        controls: whether to train the controls of these arms as well.
        margin: difference of accuracy that does not matter, in percentage points.
        labeller: how text labels are made.
        simulation: labels to remove or make wrong.
        sweep: values of recipe settings, such as `weight=0.1,0.3,1`.
        tune: trials of the search for each arm's settings; 0 for no search.
        measures: what else to measure besides test accuracy.
    """

    arms: tuple[str, ...] = ()
    labeller: LabelOptions = field(default_factory=LabelOptions)
    simulation: SimulationOptions = field(default_factory=SimulationOptions)
    controls: bool = False
    margin: Positive = 1.0
    sweep: tuple[str, ...] = ()
    tune: Whole = 0
    measures: MeasureOptions = field(default_factory=MeasureOptions)

    def __post_init__(self) -> None:
        check_value(Positive, self.margin, "margin")
        check_value(Whole, self.tune, "tune")


@dataclass(frozen=True)
class CheckOptions:
    """Checks of the descriptions, and what to do about findings."""

    backbone: str | None = None
    """The timm model that you will train. Compares how well the texts and the frozen features of this model predict the
    class."""
    checkpoint: Path | None = None
    """Weights file of the model, instead of timm's pretrained weights."""
    image_size: Count = 224
    """Height and width of the model's input in pixels."""
    language: str | None = None
    """Expected language of the texts, such as en. Default: the language of most texts."""
    splits: tuple[SplitName, ...] | None = None
    """Splits that should have descriptions. Default: the splits that have any."""
    prompt_file: Path | None = None
    """TOML file with your own prompts."""
    class_in_prompt: bool | None = None
    """For texts of unknown prompts: whether the prompt named the class."""
    drop: tuple[str, ...] = ()
    """Kinds of findings whose texts to exclude from training, such as refusal or loop."""
    retry: tuple[str, ...] = ()
    """Kinds of findings whose texts the next `gpt4image describe` will write again."""
    undo: bool = False
    """First revert the decisions of all earlier --drop and --retry."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.checkpoint is not None and self.backbone is None:
            raise ConfigError(
                "checkpoint (--checkpoint) contains weights of a backbone: set backbone (--backbone) as well."
            )


@dataclass(frozen=True)
class PushOptions:
    """Hugging Face Hub."""

    push: str | None = None
    """Upload the folder to this repository of the Hub, USER/NAME, with the token in HF_TOKEN. Default: push nothing."""
    private: bool = False
    """Make that repository private."""

    def __post_init__(self) -> None:
        if self.private and self.push is None:
            raise ConfigError("private (--private) needs a repository to push to: name one with push (--push).")


def check_splits(splits: Collection[str]) -> None:
    """Raise ConfigError if no split is named."""
    if not splits:
        raise ConfigError("splits is empty: name at least one, such as train.")
