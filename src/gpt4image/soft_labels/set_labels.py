"""Text labels of images with several labels: kept in a folder, and used where given labels are missing or wrong."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpt4image.core.errors import ConfigError, DescriptionError, StoreError
from gpt4image.core.files import File, Layout, Sibling, atomic_write, digest, exclusive, replace_folder, save_array
from gpt4image.core.format import counted, printable
from gpt4image.core.record import Record, ShareEstimate
from gpt4image.descriptions.class_texts import ClassTexts, Encodes
from gpt4image.descriptions.store.latest import find_sorted
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.sources.listing import to_label_column
from gpt4image.images.table import ImageTable
from gpt4image.probing.folds import FOLDS
from gpt4image.probing.intervals import to_estimate
from gpt4image.soft_labels.labeller import TrainingVectors
from gpt4image.soft_labels.methods import Examples
from gpt4image.soft_labels.report import NOT_ESTIMATED
from gpt4image.soft_labels.set_labelling import SetLabelling, label_rows_with_sets
from gpt4image.soft_labels.store import LabelOrigin

SHOWN = 5  # classes that the report lists
DOUBTFUL_COLUMNS = ("id", "path", "class", "given", "probability")


class SetEstimate(Record):
    """Estimated quality of text labels for images with several labels, before any training on them.

    Attributes:
        method: how the labeller was fitted.
        given: number of known labels of training and validation images, present and absent.
        missing: number of unknown labels of training images with a text.
        filled: number of unknown labels that were filled in.
        changed: number of given labels that were replaced.
        precision: share of given labels among the labels found from texts, out of fold; None where there are none.
        recall: share of the given labels that are found from texts, out of fold; None where there are none.
        per_class: precision and recall of each class; None where the denominator is zero.
        wrong: share of wrong labels among the given ones; None if it cannot be estimated.
        missed: share of present labels among those given as absent, and the reverse; None if they cannot be estimated.
        replaced: whether given labels are replaced by likelier ones.
        untold: classes that texts cannot predict, because their known labels are all present or all absent.
    """

    method: str
    given: int
    missing: int
    filled: int
    changed: int
    precision: ShareEstimate | None
    recall: ShareEstimate | None
    per_class: tuple[tuple[float | None, float | None], ...]
    wrong: ShareEstimate | None
    missed: tuple[float, float] | None
    replaced: bool
    untold: int


class SetManifest(Record):
    """Provenance and estimated quality of such labels.

    Attributes:
        origin: everything that determines the labels: the same origin gives the same labels.
        classes: names of the C classes, in the order of the columns.
        images: number N of images.
        estimate: their estimated quality.
    """

    origin: LabelOrigin
    classes: tuple[str, ...]
    images: int
    estimate: SetEstimate


class SetLayout(Layout):
    """Files of a store of such labels, and the temporary ones beside its folder."""

    manifest = File("manifest.json")
    """Written last, so a store that has one is complete."""
    ids = File("ids.npy")
    """Image ids in ascending order, S32 [N]."""
    marks = File("marks.npy")
    """Labels to train on, int8 [N, C]: 1 present, 0 absent, -1 unknown."""
    probabilities = File("probabilities.npy")
    """Probability that each label is present, float16 [N, C]; NaN for classes that texts cannot predict."""
    doubtful = File("doubtful.tsv")
    """Table of given labels that are likely wrong, the least likely first."""
    lock = Sibling(".lock")
    """Lock file of the writer."""
    building = Sibling(".building")
    """The store while it is written; renamed when complete."""


class SetLabels:
    """Several labels per image, by image id.

    Args:
        folder: a complete store.

    Raises:
        StoreError: the folder holds no complete store, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self.layout = SetLayout(folder)
        again = "Delete the folder and create the labels again: gpt4image label DATA --work WORK."
        if not self.layout.manifest.exists():
            raise StoreError(f"{folder} holds no complete labels. {again}")
        try:
            self.manifest = SetManifest.load(self.layout.manifest)
            self.ids: np.ndarray = np.load(self.layout.ids)
            self.marks: np.ndarray = np.load(self.layout.marks)
            self.probabilities: np.ndarray = np.load(self.layout.probabilities)
        except (OSError, ValueError, EOFError, StoreError) as error:
            raise StoreError(f"{folder} is damaged ({str(error).rstrip('.')}). {again}") from None
        shape = (self.manifest.images, len(self.manifest.classes))
        if self.ids.shape != shape[:1] or self.marks.shape != shape or self.probabilities.shape != shape:
            raise StoreError(f"{folder} does not match its manifest. {again}")

    def __len__(self) -> int:
        return self.manifest.images

    def fill(self, images: ImageTable) -> ImageTable:
        """Return the images, with labels of training and validation images replaced by the store's where it has any."""
        marks = images.label_matrix
        learned = np.concatenate([images.split("train"), images.split("validation")])
        places = find_sorted(self.ids, images.ids[learned])
        marks[learned[places >= 0]] = self.marks[places[places >= 0]]
        at = images.rows.schema.get_field_index("label")
        return replace(images, rows=images.rows.set_column(at, images.rows.schema.field(at), to_label_column(marks)))

    def lines(self) -> list[str]:
        """Summarise the estimated quality of the labels in a few lines."""
        known = self.manifest.estimate
        lines = [
            f"text labels of {counted(len(self), 'training and validation image')}, several each: {self.layout.folder}",
            f"labeller: {known.method}",
        ]
        if known.precision is not None:
            lines.append(f"of the labels that the texts find, {_percent(known.precision)} are given")
        if known.recall is not None:
            lines.append(f"of the labels that are given, they find {_percent(known.recall)}, out of fold")
        weak = sorted(
            (2 * precision * recall / max(precision + recall, 1e-9), name)
            for name, (precision, recall) in zip(self.manifest.classes, known.per_class, strict=True)
            if precision is not None and recall is not None
        )
        if weak and weak[0][0] < 1:
            lines.append(f"weakest by F1: {', '.join(f'{printable(name)} {f1:.0%}' for f1, name in weak[:SHOWN])}")
        lines.append(
            f"{counted(known.missing, 'unknown label')} of described training images, {known.filled:,} filled in"
        )
        given = counted(known.given, "given label")
        if known.wrong is None:
            lines.append(f"{given}, all kept: {NOT_ESTIMATED}")
        else:
            fate = f"{known.changed:,} replaced" if known.replaced else "all kept"
            lines.append(f"expected to be wrong: {_percent(known.wrong)} of {given}; {fate}")
            lines.append(f"likely label errors: {self.layout.doubtful}")
        if known.untold:
            lines.append(
                f"{counted(known.untold, 'class')} left unchanged: no image is known to have it, or none to lack it"
            )
        return lines


def label_sets_by_texts(
    images: ImageTable,
    stores: Sequence[EmbeddingStore],
    folder: Path,
    *,
    classes: ClassTexts | None = None,
    encoders: Sequence[Encodes] = (),
    abstain: float = 0.0,
    strength: float | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> SetLabels:
    """Find the labels of training and validation images from the vectors of their texts, or open those that exist.

    Given labels are kept unless enough of them turn out wrong (`label_rows_with_sets`); then each is replaced by the
    likelier of present and absent. Unknown labels of training images are filled in; those of validation images stay
    unknown. The classifiers do not learn from validation labels.

    Args:
        images: images with several labels each.
        stores: vectors of their texts, one store per encoder; the unit vectors of several are concatenated.
        folder: folder of the labels.
        classes: texts of the classes, by default their names; needs `encoders`.
        encoders: the encoders of `stores`, to embed the texts of the classes; without any, these are not used.
        abstain: labels whose likelier value is less probable than this stay unknown, from 0.5 to 1.
        strength: inverse strength of the regularisation; by default 10, or another value that fits the labels clearly
            better.
        folds: number of folds.
        seed: seed of folds and resampling.

    Raises:
        ConfigError: no store, or an invalid setting.
        DataError: no class has both present and absent labels.
        DescriptionError: no image has a text.
    """
    if not stores or folds < 2 or not 0 <= abstain < 1 or not (strength is None or strength > 0):
        raise ConfigError(
            "Labelling needs the vectors of an encoder, at least 2 folds, abstain from 0 to below 1, and a strength "
            f"above 0, not {len(stores)}, {folds}, {abstain} and {strength}."
        )
    known, marks = find_set_vectors(images, stores)
    texts = (classes or ClassTexts.of_names(images.classes)).in_order(images.classes, images.source)
    settings = digest(repr((texts.texts if encoders else (), abstain)), marks.tobytes())
    origin = known.origin("text").model_copy(
        update={"folds": folds, "strength": strength, "seed": seed, "settings": settings}
    )
    layout = SetLayout(folder)
    with exclusive(layout.lock, f"the text labels in {folder}", wait=True):
        if SetLayout(layout.building).manifest.exists():
            replace_folder(layout.building, layout.folder)  # the writer was killed just before this
        try:
            there = SetLabels(folder)
        except StoreError:
            there = None
        if there and (there.manifest.origin, there.manifest.classes) == (origin, tuple(images.classes)):
            return there
        found = label_rows_with_sets(
            known.take(np.arange(len(known.ids))),
            np.where(known.held_out[:, None], -1, marks),
            known.groups(),
            Examples(*texts.embed(encoders)) if encoders else None,
            strength=strength,
            folds=folds,
            seed=seed,
        )
        return _write(layout, images, known, marks, found, origin, abstain)


def find_set_vectors(images: ImageTable, stores: Sequence[EmbeddingStore]) -> tuple[TrainingVectors, np.ndarray]:
    """Return training and validation images that have a vector in every store, and their labels, int8 [n, C]."""
    rows = np.concatenate([images.split("train"), images.split("validation")])
    _, first = np.unique(images.ids[rows], return_index=True)  # in the order of ids; a repeated file counts once
    held_out, rows = first >= len(images.split("train")), rows[first]
    ids = images.ids[rows]
    positions = [store.find(ids) for store in stores]
    chosen = np.all([found >= 0 for found in positions], axis=0)
    if not stores or not (chosen & ~held_out).any():
        where = ", ".join(str(store.layout.folder) for store in stores) or "a store: there is none"
        raise DescriptionError(
            f"None of the training images of {images.source} has a vector in {where}. Describe and embed training "
            "images: gpt4image describe, gpt4image embed."
        )
    marks = images.label_matrix[rows[chosen]]
    labels = np.where((marks >= 0).any(axis=1), 0, -1)
    return TrainingVectors(ids[chosen], labels, stores, [found[chosen] for found in positions], held_out[chosen]), marks


def _write(
    layout: SetLayout,
    images: ImageTable,
    known: TrainingVectors,
    marks: np.ndarray,
    found: SetLabelling,
    origin: LabelOrigin,
    abstain: float,
) -> SetLabels:
    probabilities = found.probabilities(marks)
    sure = np.maximum(probabilities, 1 - probabilities) >= abstain  # not where it is NaN
    likelier = np.where(sure, probabilities > 0.5, -1).astype(np.int8)
    given, missing = marks >= 0, (marks < 0) & ~known.held_out[:, None]
    filled = np.where(given, np.where(likelier >= 0, likelier, marks) if found.replaced else marks, -1)
    filled = np.where(missing, likelier, filled).astype(np.int8)
    estimate = SetEstimate(
        method=found.method,
        given=int(given.sum()),
        missing=int(missing.sum()),
        filled=int((missing & (filled >= 0)).sum()),
        changed=int((given & (filled != marks)).sum()),
        precision=to_estimate(found.precision),
        recall=to_estimate(found.recall),
        per_class=found.per_class,
        wrong=to_estimate(found.estimate.wrong if found.estimate else None),
        missed=_rates(found),
        replaced=found.replaced,
        untold=int((~found.told).sum()),
    )
    building = SetLayout(layout.building)
    shutil.rmtree(building.folder, ignore_errors=True)
    building.folder.mkdir(parents=True)
    save_array(building.ids, known.ids)
    save_array(building.marks, filled)
    save_array(building.probabilities, probabilities.astype(np.float16))
    _write_doubtful(building.doubtful, images, known, marks, found)
    SetManifest(origin=origin, classes=tuple(images.classes), images=len(known.ids), estimate=estimate).save(
        building.manifest
    )
    replace_folder(building.folder, layout.folder)
    return SetLabels(layout.folder)


@dataclass(frozen=True)
class DoubtfulLabel:
    """A given label that is likely wrong: the image (its position among those judged), the class, the given value, and
    the probability of that value.
    """

    position: int
    label: int
    given: bool
    probability: float


def doubtful_labels(marks: np.ndarray, found: SetLabelling) -> list[DoubtfulLabel]:
    """Return given labels [n, C] that are likely wrong even when they are taken into account, the least likely first.

    The list is empty where there are too few labels to estimate how many are wrong.
    """
    if found.noise is None:
        return []
    rows, columns = np.nonzero((marks >= 0) & found.told)
    odds = found.log_odds[rows, columns]
    classifier = np.stack([-np.logaddexp(0, odds), -np.logaddexp(0, -odds)], axis=1)
    given = marks[rows, columns].astype(np.int64)
    posterior = np.exp(found.noise.posterior([classifier], given))[np.arange(len(given)), given]
    listed = np.flatnonzero(posterior < 0.5)
    return [
        DoubtfulLabel(int(rows[at]), int(columns[at]), bool(given[at]), float(posterior[at]))
        for at in listed[np.argsort(posterior[listed], kind="stable")].tolist()
    ]


def _write_doubtful(
    path: Path, images: ImageTable, known: TrainingVectors, marks: np.ndarray, found: SetLabelling
) -> None:
    row_of = {image_id: row for row, image_id in reversed(list(enumerate(images.rows["id"].to_pylist())))}
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(DOUBTFUL_COLUMNS)
    for each in doubtful_labels(marks, found):
        image_id = known.ids[each.position].decode()
        name, state = images.classes[each.label], "present" if each.given else "absent"
        cells = (image_id, images.path(row_of[image_id]), name, state, f"{each.probability:.6f}")
        writer.writerow([printable(cell) for cell in cells])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _rates(found: SetLabelling) -> tuple[float, float] | None:
    """Return P(given absent | present) and P(given present | absent)."""
    if found.noise is None:
        return None
    transition = np.exp(found.noise.log_transition)
    return float(transition[1, 0]), float(transition[0, 1])


def _percent(share: ShareEstimate) -> str:
    return f"{share.mean:.1%} ({share.low:.1%} to {share.high:.1%})"
