"""Records of a comparison, kept as `comparison.json` and `gallery.json`. The report reads nothing else."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gpt4image.core.record import Record
from gpt4image.probing.calibration import ReliabilityBin
from gpt4image.probing.verdicts import VerdictKind, judge


class EpochRecord(Record):
    """One epoch of one run. Losses are means over its steps; accuracies here and below lie between 0 and 1."""

    epoch: int
    learning_rate: float
    classification_loss: float
    alignment_loss: float | None
    validation_accuracy: float
    seconds: float
    self_supervised_loss: float | None = None


class RunRecord(Record):
    """One trained model, with the metrics of its task on the test images (`tasks.Predictions.measure`).

    `validation_accuracy` and `test_accuracy` are in the metric that `Comparison.score` names.
    """

    arm: str
    seed: int
    best_epoch: int
    validation_accuracy: float
    test_accuracy: float
    balanced_accuracy: float | None = None  # mean recall of the classes that occur in the test split
    negative_log_likelihood: float | None = None  # mean over the test images, in nats
    seconds: float
    history: list[EpochRecord]
    # the following are missing in records of version 0.1
    top5_accuracy: float | None = None
    macro_f1: float | None = None
    brier_score: float | None = None
    calibration_error: float | None = None
    folder: str | None = None  # name of the run's folder
    # tasks with several labels per image
    mean_average_precision: float | None = None
    micro_f1: float | None = None
    # detection
    mean_average_precision_50: float | None = None  # at an overlap of one half
    # segmentation
    mean_iou: float | None = None  # over the classes that occur
    pixel_accuracy: float | None = None  # share of the known pixels


class ArmRecord(Record):
    """One arm, over all seeds.

    `confusion[i][j]` counts test images of class i predicted as class j, and is empty where images have no single
    class; `reliability` holds the bins of a reliability diagram over the predictions of all seeds.
    """

    name: str
    title: str
    runs: list[RunRecord]
    confusion: list[list[int]]
    reliability: tuple[ReliabilityBin, ...] = ()
    controls: str | None = None  # the arm that this one is a control of


class Needed(Record):
    """The sample size that it takes to judge a difference like the measured one, see `probing.intervals.SampleSize`."""

    seeds: int | None
    times_images: int
    shows: Literal["difference", "no difference"] = "difference"


class Difference(Record):
    """Paired difference of test accuracy, `arm` minus `reference`, with its 95% confidence interval.

    `covers` says what the interval covers: seeds and test images, or with a single seed only the test images. `p_value`
    tests the hypothesis of no difference; `adjusted_p` corrects it by Holm's method for all arms that are compared with
    the baseline. `equivalence` is the 90% interval that the two one-sided tests use. See `probing.intervals` and
    `probing.verdicts`. `needed` is None where nothing is left to decide, with a single seed, and in records of version
    0.1, which lack the tests as well.
    """

    arm: str
    reference: str
    seeds: list[int]
    per_seed: list[float]
    mean: float
    low: float
    high: float
    covers: Literal["seeds and images", "images only"]
    needed: Needed | None = None
    p_value: float | None = None
    adjusted_p: float | None = None
    equivalence: tuple[float, float] | None = None

    def kind(self, margin: float) -> VerdictKind:
        """Return the verdict by the rules of `probing.verdicts.judge`; a single seed shows nothing."""
        if self.covers == "images only" or len(self.seeds) < 2:
            return "one seed"
        p_value = self.p_value if self.adjusted_p is None else self.adjusted_p
        if p_value is None:
            p_value = 1.0 if self.low <= 0 <= self.high else 0.0
        return judge(self.mean, p_value, self.equivalence or (self.low, self.high), margin)


class ClassRecord(Record):
    """One class: its images, each arm's accuracy on its test images (mean over seeds), and the paired difference.

    `intervals` are those of the accuracies, `p_value` is that of `probing.intervals.exact_paired_test`. The task
    computes both, and the interval of the difference (`tasks.Task.compare_classes`). Where images have several labels
    or boxes, the accuracy of a class is its average precision, and where they have masks its IoU.
    """

    name: str
    train_images: int
    test_images: int
    accuracy: dict[str, float | None]
    difference: float | None
    low: float | None
    high: float | None
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    p_value: float | None = None


class GroupRecord(ClassRecord):
    """The classes with a similar number of labelled training images (`summarize.GROUPS`) taken together."""

    classes: int


class VariantRecord(Record):
    """An arm with settings of its own, judged on the validation images; only `chosen` ones predict the test images."""

    arm: str
    title: str
    changes: dict[str, str]
    seeds: list[int]
    validation_accuracy: list[float]  # by seed
    mean: float
    chosen: bool


class MeasureRecord(Record):
    """A measure of all arms beyond the test images (`compare.robustness`).

    `accuracy` is the mean over the seeds, by arm; `differences` are those from the baseline; `parts` holds accuracies
    by part, such as a corruption, and arm.
    """

    name: str
    title: str
    images: int
    accuracy: dict[str, float]
    differences: tuple[Difference, ...]
    parts: dict[str, dict[str, float]] = Field(default_factory=dict)


class DataRecord(Record):
    """The images, and how many of them have a description."""

    source: str
    images: dict[str, int]
    rejected: list[tuple[str, str]]
    rejected_total: int
    duplicates: int
    leaked: int
    descriptions_source: str
    with_text: dict[str, int]
    without_text: dict[str, int]
    orphan_texts: int
    repeated_texts: int
    rejected_boxes: int = 0  # boxes or regions


class TextOriginRecord(Record):
    """Texts of one model and prompt, and what they cost in US dollars; None without a known price."""

    model: str
    prompt: str
    texts: int
    cost: float | None


class ModelRecord(Record):
    """The model that is deployed: its size, and its speed on the device of the comparison, in float32.

    `multiply_adds` counts those of one image; `images_per_second` is measured on batches of `batch` images.
    """

    parameters: int
    multiply_adds: int
    batch: int
    images_per_second: float


class UsedModelRecord(Record):
    """A model that a run used.

    Attributes:
        role: what it was used for.
        name: its name.
        licence: its licence, or why it is not known.
        source: where the licence is stated, if known.
        hub_name: its name on the Hub, if known; not stored.
    """

    role: str
    name: str
    licence: str
    source: str | None = None
    hub_name: str | None = Field(default=None, exclude=True)


class CommandRecord(Record):
    """The command line of a comparison, see `core.invocation.Invocation`, with its images and its work directory."""

    program: str
    arguments: list[str]
    work: str
    images: tuple[str, ...] = ()


class EncoderRecord(Record):
    """A text encoder, and how many texts it truncated."""

    name: str
    revision: str
    width: int
    max_tokens: int
    pooling: str
    distinct_texts: int
    truncated_texts: int


class Answer(Record):
    """One arm's prediction for an image, with the first seed: the class and its probability."""

    answer: str
    probability: float
    right: bool


Group = Literal["mended", "broken", "both right", "both wrong"]


class GalleryItem(Record):
    """A test image with its description and every arm's prediction. `thumbnail` is a JPEG as a `data:` URL."""

    path: str
    thumbnail: str
    label: str
    description: str | None
    answers: dict[str, Answer]
    group: Group


class Gallery(Record):
    """Test images to look at."""

    items: list[GalleryItem]


class Comparison(Record):
    """All results of a comparison of training with and without text.

    Until all runs are finished, it covers those of the `planned_seeds` that are, and `split` is `validation`: fields of
    the test split then hold results on validation images, because test images are predicted once, at the end.
    `variants` holds more than the arms if settings were swept. The fields with a default are missing in records of
    version 0.1; `command` is None for a Python call.
    """

    version: str
    created: str
    classes: list[str]
    data: DataRecord
    encoders: list[EncoderRecord]
    recipe: dict[str, str | int | float | bool | list[str | float] | None]
    arms: list[ArmRecord]
    difference: Difference
    others: tuple[Difference, ...] = ()  # of arms other than the headline's
    controls: tuple[Difference, ...] = ()  # of arms from their controls (the references)
    rivals: tuple[Difference, ...] = ()  # of the headline's arm from arms that use only images (the references)
    margin: float = 0.01  # largest negligible difference of accuracy
    task: str = "classification"
    score: str = "accuracy"  # the metric behind every field named accuracy in these records
    class_score: str = "accuracy"  # the same for single classes
    per_class: list[ClassRecord]
    seconds: float
    device: str
    notes: list[str]
    planned_seeds: int | None = None
    command: CommandRecord | None = None
    text_origins: tuple[TextOriginRecord, ...] = ()
    model: ModelRecord | None = None
    groups: tuple[GroupRecord, ...] = ()
    measures: tuple[MeasureRecord, ...] = ()
    models: tuple[UsedModelRecord, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    experiment: str | None = None
    split: Literal["test", "validation"] = "test"
    variants: tuple[VariantRecord, ...] = ()
    warnings: tuple[str, ...] = ()

    def run_folder(self, arm: str, seed: int) -> str:
        """Return the name of a run's folder; the name that version 0.1 gave it where none is recorded."""
        runs = (run.folder for each in self.arms if each.name == arm for run in each.runs if run.seed == seed)
        return next(runs, None) or f"{arm}-{seed}"


class CaseRecord(Record):
    """A case of a series: the name of its experiment, and a description of its labels."""

    experiment: str
    title: str
    about: str


class CasesRecord(Record):
    """Comparisons of the same images with labels of different quality, in the order in which they are shown.

    Attributes:
        cases: the comparisons.
        made_from: hash of what determines them, and of the state of their files and of the page; empty if unknown.
    """

    cases: tuple[CaseRecord, ...]
    made_from: str = ""
