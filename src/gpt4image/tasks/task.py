"""The interface of a task: targets and loss in training, and the evaluation of predictions; and the registry of tasks.

Everything else (training loop, durability, arms, statistics, report, export) is the same for every task. Importing this
module imports neither torch nor numpy.

Sizes: N images, B images of a batch, C classes, T columns of targets, S seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gpt4image.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from gpt4image.images.table import ImageTable
    from gpt4image.probing.calibration import ReliabilityBin
    from gpt4image.tasks.settings import LabelSettings


@dataclass(frozen=True)
class Predictions(ABC):
    """Predictions of one run for N labelled images.

    Attributes:
        rows: table positions of the images, int64 [N].
        labels: what is true of them, as `Task.labels` gives it: [N, ...].
        logits: float32 [N, C].
    """

    rows: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    @property
    @abstractmethod
    def scores(self) -> np.ndarray:
        """Score of each prediction from 0 to 1, float64 [N], by which arms are compared image by image."""

    @property
    @abstractmethod
    def correct(self) -> np.ndarray:
        """Which predictions are entirely correct, bool [N]."""

    @property
    @abstractmethod
    def plausibility(self) -> np.ndarray:
        """Probability given to the true labels, from 0 to 1, float64 [N], by which the examples are chosen."""

    @abstractmethod
    def answers(self, classes: Sequence[str]) -> list[tuple[str, float]]:
        """Return the answer for each image in words, and its probability."""

    @abstractmethod
    def truths(self, classes: Sequence[str]) -> list[str]:
        """Return the true label of each image in words."""

    @abstractmethod
    def measure(self) -> dict[str, Any]:
        """Return the metrics, of which `accuracy` is the mean of the scores; the others are fields of `RunRecord`."""

    def drawn_on(self, picture: Image.Image, at: int) -> Image.Image:
        """Return the picture of an image with what is true and predicted of it, where that can be drawn.

        Args:
            picture: the picture, 8-bit RGB.
            at: position of the image among the N.
        """
        return picture

    @property
    def confusion(self) -> np.ndarray:
        """Number of images of class i predicted as class j, int64 [C, C]; [0, 0] where a prediction is no class."""
        import numpy as np

        return np.zeros((0, 0), dtype=np.int64)


@dataclass(frozen=True)
class ClassComparison:
    """The results of each arm for a class or group of classes.

    Attributes:
        test_images: test images of the class.
        accuracy: score of each arm on them, mean over the seeds; None without any.
        intervals: their 95% intervals.
        difference: score of the candidate minus that of the reference.
        low: lower end of its 95% interval.
        high: upper end of it.
        p_value: of an exact test of no difference, if there is one.
    """

    test_images: int
    accuracy: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None = None


class Task(ABC):
    """A task: what is learned about an image.

    Attributes:
        name: name in the registry, in settings and records.
        score: what the mean of `Predictions.scores` is called, such as `accuracy`.
        class_score: what `compare_classes` compares the arms by.
        one_class: whether an image has one class, as text labels, soft labels and anchors of classes need.
        family: name of the family of models that learn it, in `gpt4image.train.family`.
        loss_in_model: whether the model computes its loss itself, given the targets; `loss` then gets what it returns.
    """

    name: ClassVar[str]
    score: ClassVar[str]
    class_score: ClassVar[str]
    one_class: ClassVar[bool] = False
    family: ClassVar[str] = "classifier"
    loss_in_model: ClassVar[bool] = False

    def check(self, settings: LabelSettings, smoothing: float) -> None:  # noqa: B027 - a task may accept any setting
        """Raise ConfigError for recipe settings that do not apply to this task; the message says what to set.

        Args:
            settings: the recipe.
            smoothing: its label smoothing.
        """

    # training

    @abstractmethod
    def labels(self, images: ImageTable, rows: np.ndarray) -> np.ndarray:
        """Return the labels of some images (positions int64 [n]) as batches hold them, [n, ...]."""

    @abstractmethod
    def truth(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return labels [N, ...] as the probability of each class, float64 [N, C]; NaN where it is unknown.

        A task whose labels are no classes returns what `validation_score` wants to know of them.
        """

    @abstractmethod
    def targets(self, labels: Tensor, soft: Tensor, classes: int, smoothing: float, soft_share: float) -> Tensor:
        """Return what the loss compares with [B, T].

        Targets are linear in the labels, and zero where these are unknown: so mixed images have mixed targets, and
        what is unknown takes no part in the loss.

        Args:
            labels: labels of a batch [B, ...].
            soft: soft labels [B, C], zero where an image has none; [B, 0] without any.
            classes: number of classes C.
            smoothing: label smoothing.
            soft_share: share of the soft labels.
        """

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, settings: LabelSettings, prior: Tensor | None) -> Tensor:
        """Return the sum of the loss over images, a scalar.

        Args:
            logits: [B, C].
            targets: [B, T].
            settings: the recipe.
            prior: share of each class in the labels [C], if a setting needs it.
        """

    def adjusted(self, logits: Tensor, prior: Tensor | None, settings: LabelSettings) -> Tensor:
        """Return logits [N, C] as the saved weights give them, if a setting changes them after training."""
        return logits

    @abstractmethod
    def validation_score(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """Return the score on the validation images, by which epochs are chosen.

        Args:
            logits: [N, C].
            targets: what `truth` returns of them.
        """

    def fit_thresholds(self, logits: np.ndarray, targets: np.ndarray) -> list[float]:
        """Return the thresholds that turn logits into answers, chosen on the validation images; none if not needed.

        Args:
            logits: [N, C].
            targets: as for `validation_score`.
        """
        return []

    # evaluation

    @abstractmethod
    def predictions(
        self, rows: np.ndarray, labels: np.ndarray, logits: np.ndarray, thresholds: Sequence[float] = ()
    ) -> Predictions:
        """Return predictions to be judged; see `Predictions` for the arguments, and `fit_thresholds`."""

    @abstractmethod
    def compare_classes(
        self,
        predictions: Mapping[str, Sequence[Predictions]],
        candidate: str,
        reference: str,
        groups: Sequence[np.ndarray],
    ) -> list[ClassComparison]:
        """Compare the arms on each group of classes.

        Args:
            predictions: those of each arm, seed by seed, for the same images.
            candidate: an arm.
            reference: the arm it is compared with.
            groups: class numbers, int64 [c] each.
        """

    def reliability(self, predictions: Sequence[Predictions]) -> list[ReliabilityBin]:
        """Return the bins of a reliability diagram over several predictions; none if it does not apply."""
        return []


TASKS: Registry[Task] = Registry(
    "task",
    {
        "classification": "gpt4image.tasks.classification:CLASSIFICATION",
        "clip-classification": "gpt4image.tasks.classification:CLIP_CLASSIFICATION",
        "multi-label": "gpt4image.tasks.multi_label:MULTI_LABEL",
        "detection": "gpt4image.tasks.detection:DETECTION",
        "segmentation": "gpt4image.tasks.segmentation:SEGMENTATION",
    },
    group="gpt4image.tasks",
)
"""The tasks. One that a package adds is chosen by the `task` of the image table."""


def find_task(images: ImageTable) -> Task:
    """Return the task of an image table."""
    return TASKS.load(images.task)
