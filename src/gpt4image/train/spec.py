"""Specification and on-disk layout of a training run, and the arms of a comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpt4image.align.losses import find_loss
from gpt4image.core.errors import BusyError, ConfigError
from gpt4image.core.files import atomic_write, hash_file, read_json, write_json
from gpt4image.core.registry import Registry
from gpt4image.tasks import find_task
from gpt4image.train.identity import (
    RunLayout,
    changed_settings,
    describe_changes,
    identify_images,
    settings_digest,
    siblings,
    trained_rows,
)
from gpt4image.train.recipe import (
    AUGMENTATION,
    GUIDANCE_SETTINGS,
    AlignmentSettings,
    Recipe,
    SoftLabelSettings,
    TextSettings,
    field_names,
)

if TYPE_CHECKING:
    from gpt4image.embed.controls import ControlTexts
    from gpt4image.embed.store import EmbeddingStore
    from gpt4image.images.table import ImageTable
    from gpt4image.soft_labels import SoftLabels
    from gpt4image.train.guidance import ClassAnchors, Guidance
    from gpt4image.train.tracking import Tracking


@dataclass(frozen=True)
class Arm:
    """One way of training, compared with others.

    Attributes:
        name: short name, used in folder names.
        title: what it is, in words.
        uses_text: whether descriptions and other guidance take part.
        settings: recipe settings that only this arm changes.
        labels: source of labels that replace missing and wrong ones: the texts, frozen image features, or both, or
            classes picked by an LLM (all by `gpt4image.soft_labels.label_by_texts`), or the baseline model with the
            same seed; None for no replacement.
        optional: whether a comparison trains it on request only.
        guidance: whether vision teachers guide it, alone or with the texts; `given` for everything given, but without
            teachers if other arms measure their effect; `anchors` for only a vision-language teacher of every crop.
        controls: the arm of which this one is a control, with only the texts replaced.
        texts: replacement for the descriptions in a control.
    """

    name: str
    title: str
    uses_text: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    labels: Literal["text", "images", "text+images", "co-training", "llm", "baseline"] | None = None
    optional: bool = False
    guidance: Literal["given", "teachers", "both", "anchors"] = "given"
    controls: str | None = None
    texts: ControlTexts | None = None

    @property
    def learns_from_texts(self) -> bool:
        """Whether it learns from the descriptions themselves."""
        of_images = not self.uses_text or self.labels in ("images", "baseline")
        return not of_images and self.guidance not in ("teachers", "anchors") and self.controls is None

    @property
    def of_images_alone(self) -> bool:
        """Whether it extends the baseline by using only the images, without texts and without another model."""
        other = self.learns_from_texts or self.controls is not None or self.guidance != "given"
        return self.name != REFERENCE and not other


STAND_INS = {"soft_labels": 1.0, "soft_from": 0.0, "soft_until": 1.0, "unlabelled": "align"}
LABELS_ALONE = {**STAND_INS, "weight": 0.0, "balance": None, "shared_head": 0.0, "labels_from": 0.0}
LABELS_ALONE |= {"self_supervised": "none"}
FIXMATCH = {"consistency": 1.0, "unlabelled": "align"}
ANCHORED = {"loss": "anchored", "targets": "same", "queue": 0, "learn_temperature": False, "text_adapter": False}
ANCHORED |= {"text_space": "raw", "soft_labels": 0.0, "shared_head": 0.0}
PRETRAINING = {"labels_from": 0.5, "align_until": 0.5, "unlabelled": "align", "balance": None}
SELF_SUPERVISED = tuple(
    Arm(prefix + f"{name}-pretraining", f"with pretraining {also}by {title}", bool(prefix),
        PRETRAINING | {"self_supervised": name}, optional=True)
    for name, title in (("simsiam", "SimSiam"), ("dino", "DINO"))
    for prefix, also in (("", ""), ("text+", "on the descriptions and "))
)  # fmt: skip
GCE = {"label_loss": "gce", "label_smoothing": 0.0}
REFERENCE, CANDIDATE = "baseline", "described"  # the arms whose difference a comparison judges
TEXT_LABELS, BOTH = "text-labels", "described+text-labels"
TITLES: tuple[tuple[ControlTexts, str], ...] = (
    ("class-name", "with class names as texts"),
    ("shuffled", "with shuffled descriptions"),
    ("shuffled-within-class", "with descriptions shuffled within classes"),
    ("random-words", "with random words"),
    ("random-vectors", "with random vectors"),
)
CONTROLS = (
    *(Arm(texts, title, True, optional=True, controls=CANDIDATE, texts=texts) for texts, title in TITLES),
    Arm("shuffled-text-labels", "with labels from shuffled texts", True, LABELS_ALONE, "text", True,
        controls=TEXT_LABELS, texts="shuffled"),
    Arm("shuffled-described+text-labels", "with shuffled descriptions and text labels", True, STAND_INS, "text", True,
        controls=BOTH, texts="shuffled"),
)  # fmt: skip
ARMS: Registry[Arm] = Registry(
    "arm",
    {
        arm.name: arm
        for arm in (
            Arm(REFERENCE, "labels alone", uses_text=False),
            Arm(CANDIDATE, "with descriptions", uses_text=True),
            Arm("text-pretraining", "with pretraining on the descriptions", True, PRETRAINING, optional=True),
            *SELF_SUPERVISED,
            Arm(TEXT_LABELS, "with labels from the descriptions", True, LABELS_ALONE, labels="text", optional=True),
            Arm(BOTH, "with descriptions and text labels", True, STAND_INS, labels="text", optional=True),
            Arm("image-labels", "with labels from image features", True, LABELS_ALONE, labels="images", optional=True),
            Arm(
                "text+image-labels",
                "with labels from texts and image features",
                True,
                LABELS_ALONE,
                "text+images",
                True,
            ),
            Arm("llm-labels", "with classes picked by the LLM", True, LABELS_ALONE, labels="llm", optional=True),
            Arm(
                "co-training",
                "with labels from co-trained texts and image features",
                True,
                LABELS_ALONE,
                "co-training",
                True,
            ),
            Arm("self-training", "with self-training", True, LABELS_ALONE, labels="baseline", optional=True),
            Arm("fixmatch", "with consistency on unlabelled images", False, FIXMATCH, optional=True),
            Arm("gce", "with a noise-robust loss", False, GCE, optional=True),
            Arm("teacher", "with a vision teacher", True, optional=True, guidance="teachers"),
            Arm("teacher+described", "with a vision teacher and descriptions", True, optional=True, guidance="both"),
            Arm("class-anchored", "with a vision-language teacher", True, ANCHORED, optional=True, guidance="anchors"),
            *CONTROLS,
        )
    },
    group="gpt4image.arms",
)
"""The arms that a comparison can train."""


def choose_arms(names: Sequence[str] = ()) -> list[str]:
    """Return the names of the arms of a comparison, the baseline first. Default: those that are not optional."""
    chosen = names or [name for name in ARMS.names() if not ARMS.load(name).optional]
    return [REFERENCE, *(name for name in dict.fromkeys(chosen) if name != REFERENCE)]


def guided_by(arm: Arm, compared: Sequence[str]) -> tuple[bool, bool]:
    """Return whether texts, and whether vision teachers, guide an arm that uses what is given.

    All given guidance is used, unless a comparison has separate arms for teachers: then only those use teachers.

    Args:
        arm: the arm.
        compared: names of all arms that are compared.
    """
    if arm.guidance in ("teachers", "anchors"):
        return False, arm.guidance == "teachers"
    return True, arm.guidance == "both" or all(ARMS.load(name).guidance == "given" for name in compared)


def add_controls(names: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the arms of a comparison with the controls of each after them."""
    chosen = choose_arms(names)
    arms = map(ARMS.load, ARMS.names())
    return tuple(dict.fromkeys([*chosen, *(arm.name for arm in arms if arm.controls in chosen)]))


def check_task(images: ImageTable, arm: Arm, recipe: Recipe) -> None:
    """Raise ConfigError if an arm with its settings, or the recipe, cannot serve the task of the images.

    Args:
        images: the images.
        arm: the arm.
        recipe: the recipe with the settings of the arm.
    """
    task = find_task(images)
    task.check(recipe, recipe.label_smoothing)
    if task.one_class:
        return
    kind = "masks" if images.has_masks else "boxes" if images.has_boxes else "several labels"
    several = f"needs one class per image, and these have {kind}"
    if arm.labels not in ((None,) if images.has_masks else (None, "text")) or arm.guidance == "anchors":
        others = "described" if images.has_masks else f"described, {TEXT_LABELS} or {BOTH}"
        raise ConfigError(f"The arm {arm.name} {several}: leave it out (--arms), and train {others}.")
    if arm.uses_text and recipe.soft_labels and not arm.labels:
        raise ConfigError(f"soft_labels {several}: set soft_labels to 0 (--soft-labels 0).")
    if arm.uses_text and recipe.targets == "label" and recipe.queue:
        raise ConfigError(
            "targets label and a queue exclude each other if images have several labels, because queues do not store "
            "them: set queue to 0 (--queue 0), or targets to same (--targets same)."
        )


@dataclass(frozen=True)
class RunInputs:
    """What a run learns from.

    Attributes:
        images: images with the labels of the run.
        stores: vectors of texts, and of vision teachers.
        soft_labels: soft labels, if the recipe of the run mixes any in.
        anchors: a vision-language teacher with its anchors of the classes, for arms that need one.
        regions: vectors of the descriptions of boxes.
        margin: margin of the crops that were described.
        filled: whether several labels per image were filled in by texts.
    """

    images: ImageTable
    stores: tuple[EmbeddingStore, ...] = ()
    soft_labels: tuple[SoftLabels, ...] = ()
    anchors: ClassAnchors | None = None
    regions: tuple[EmbeddingStore, ...] = ()
    margin: float = 0.0
    filled: bool = False


@dataclass(frozen=True)
class RunSpec:
    """A run to train.

    Attributes:
        images: training and validation images.
        guidance: vectors to align with, and soft labels; empty in arms that train on labels alone.
        seed: seed of the initial classifier, the order, all augmentation, and the choice of texts.
        layout: files of the run.
        features: folder of cached features.
        workers: processes that prepare batches; affects speed only.
        checkpoint_seconds: time between two checkpoints.
        tracking: experiment trackers, if any.
        augmentation: version of the augmentation.
    """

    images: ImageTable
    guidance: Guidance
    recipe: Recipe
    arm: Arm
    seed: int
    layout: RunLayout
    features: Path
    workers: int
    checkpoint_seconds: float
    tracking: Tracking | None = None
    augmentation: int = AUGMENTATION

    def settings(self) -> dict[str, Any]:
        """Return everything that determines the result, as plain values.

        It is determined once: files that change later belong to another run.

        Raises:
            ConfigError: the weights file to start from does not exist.
        """
        return self._settings

    @cached_property
    def _settings(self) -> dict[str, Any]:
        from gpt4image.train.weights import require_file

        recipe = self.recipe.to_dict()
        start = self.recipe.checkpoint
        if start is not None:
            require_file(Path(start))
        idle: set[str] = set() if self.arm.uses_text else set(field_names(*GUIDANCE_SETTINGS))
        if not self.guidance.aligns:
            idle |= field_names(AlignmentSettings, TextSettings) - {"unlabelled", "weight"}
        if not self.guidance.soft_labels:
            idle |= field_names(SoftLabelSettings)
        idle |= set() if self.images.frames else {"frame_pooling"}
        images_per_epoch = {}
        if self.images.is_labelled.all():
            idle |= {"unlabelled", "labelled_share"}  # their defaults differ between versions
        elif recipe["unlabelled"] == "align":
            images_per_epoch = {"images_per_epoch": len(self.images.split("train"))}  # earlier: those of the arm
        return {
            "arm": self.arm.name,
            "seed": self.seed,
            **identify_images(self.images),
            **self.guidance.identity(),
            **self._loss_version(),
            **images_per_epoch,
            "start": start and hash_file(Path(start)),
            **({"augmentation": self.augmentation} if self.augmentation > 1 else {}),
            "recipe": {key: value for key, value in recipe.items() if key not in idle},
        }

    def _loss_version(self) -> dict[str, int]:
        """Return the version of the loss if it is not its first: runs of earlier ones did not record any."""
        version = find_loss(self.recipe.loss)[1].version if self.guidance.aligns else 1
        return {"loss_version": version} if version > 1 else {}

    def placed(self, reserved: Collection[Path] = ()) -> RunSpec:
        """Return the same run in the folder that `find_layout` has found."""
        found = replace(self, layout=self.find_layout(reserved))
        found.__dict__["_settings"] = self._settings  # hashing a million images takes seconds
        return found

    def find_layout(self, reserved: Collection[Path] = ()) -> RunLayout:
        """Return the folder of the run: the one with its settings, else the first that no other run has taken.

        A run created with different settings keeps its folder; the new one gets the same name with a hash at the end.

        Args:
            reserved: folders of runs that are planned but have not begun.
        """
        settings = self.settings()
        found = [RunLayout(folder) for folder in siblings(self.layout.folder)]
        for layout in found:
            if layout.begun and not changed_settings(read_json(layout.settings), settings, self.images):
                return layout
        if not self.layout.begun and self.layout.folder not in reserved:
            return self.layout
        identity, own = settings_digest(settings), self.layout
        for length in (8, len(identity)):
            own = RunLayout(self.layout.folder.with_name(f"{self.layout.folder.name}-{identity[:length]}"))
            if not own.begun:
                break
        return own

    def describe_changes(self, named: Path) -> list[str]:
        """Say in which settings the run differs from the most similar one of the same arm and seed, if there is one.

        Args:
            named: folder that the first of these runs has.
        """
        settings, nearest = self.settings(), None
        for folder in siblings(named):
            layout = RunLayout(folder)
            if not layout.begun:
                continue
            before = read_json(layout.settings)
            changed = changed_settings(before, settings, self.images)
            if "arm" not in changed and "seed" not in changed and (nearest is None or len(changed) < len(nearest[0])):
                nearest = (changed, before, layout)
        if nearest is None:
            return []
        changed, before, layout = nearest
        return describe_changes(changed, before, settings, layout.read_images(), self.images)

    def claim_folder(self) -> None:
        """Record the settings in the run's folder, which `find_layout` has chosen.

        Raises:
            BusyError: another process has meanwhile begun a run with different settings there.
        """
        import pyarrow.parquet as pq

        settings = self.settings()
        if not self.layout.begun:
            with atomic_write(self.layout.images) as file:
                pq.write_table(trained_rows(self.images), file, compression="zstd")
            write_json(self.layout.settings, settings)
        elif changed_settings(read_json(self.layout.settings), settings, self.images):
            raise BusyError(
                f"Another process has just started a run with different settings in {self.layout.folder}. Start "
                "again: this run will get its own folder."
            )


def find_aligned_run(work: Path) -> Path:
    """Return the first run of a work directory whose heads were kept. ConfigError if there is none."""
    runs = sorted(path for path in work.glob("runs/*") if RunLayout(path).heads.exists())
    if not runs:
        raise ConfigError(
            f"{work} contains no run that was aligned with texts by this version. Train one: gpt4image train DATA "
            "--arm described; or name a run of another work directory (--run)."
        )
    return next((run for run in runs if run.name.startswith(f"{CANDIDATE}-")), runs[0])
