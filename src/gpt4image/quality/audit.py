"""The label audit: images whose label a person should review, with the evidence of their descriptions.

A classifier on the vectors of the descriptions, out of fold, gives q_i(k). With the transition matrix T of the given
labels the posterior of the true class is s_i(k), proportional to q_i(k) T_k,y_i (`probing.label_noise`). A label is
listed if another class has a higher posterior, that is, even when the label itself is taken into account.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.descriptions.class_texts import ClassTexts
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.descriptions.picks import PickedClasses
from gpt4image.descriptions.store.shards import now
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.duplicates import find_duplicates
from gpt4image.images.table import ImageTable
from gpt4image.images.thumbnails import image_thumbnails
from gpt4image.probing.intervals import to_estimate
from gpt4image.probing.label_issues import find_label_issues
from gpt4image.quality.audit_record import AuditItem, AuditKind, AuditRecord
from gpt4image.soft_labels.labeller import TrainingVectors, find_training_vectors
from gpt4image.soft_labels.labelling import Labelling, label_rows
from gpt4image.soft_labels.methods import Examples

if TYPE_CHECKING:
    from gpt4image.embed.encoders import TextEncoder

FITS_NONE = 0.35  # a text whose likeliest class has a lower probability fits no class
MOST_LISTED = 300


def audit_labels(
    images: ImageTable,
    descriptions: DescriptionSet,
    stores: Sequence[EmbeddingStore],
    *,
    encoders: Sequence[TextEncoder] = (),
    limit: int = MOST_LISTED,
    decided: Collection[str] = (),
    picks: PickedClasses | None = None,
) -> tuple[AuditRecord, Judgement]:
    """Find labels of training and validation images that a person should review.

    Args:
        images: the images. Test images are not examined.
        descriptions: their texts.
        stores: vectors of the texts.
        encoders: the encoders of `stores`, which embed the class names as further evidence.
        limit: largest number of images of each kind to list.
        decided: ids of images that a person has reviewed, which are not listed again.
        picks: classes that an LLM picked, as further evidence; the only evidence for images without a text.

    Returns:
        The audit, and the probabilities behind it.

    Raises:
        DescriptionError: no labelled image has a text.
        DataError: there are fewer than two classes.
    """
    judgement = judge_labels(images, stores, encoders=encoders, picks=picks)
    open_questions = np.asarray([name.decode() not in decided for name in judgement.known.ids.tolist()])
    doubtful = judgement.doubtful()
    doubtful = doubtful[open_questions[doubtful]]
    unfit = np.flatnonzero(open_questions & (judgement.probabilities.max(axis=1) < FITS_NONE))
    unfit = unfit[np.argsort(judgement.probabilities[unfit].max(axis=1), kind="stable")]
    maker = _Items(images, descriptions, judgement)
    copies = [item for item in maker.duplicates() if item.image_id not in decided]
    listed = set(doubtful[:limit].tolist())
    items = [
        *(maker.item(row, "label") for row in doubtful[:limit].tolist()),
        *copies[:limit],
        *(maker.item(row, "no class") for row in unfit[:limit].tolist() if row not in listed),
    ]
    wrong = judgement.labelling.wrong
    audit = AuditRecord(
        version=version("gpt4image"),
        created=now(),
        source=images.source,
        classes=list(images.classes),
        examined=int((judgement.known.labels >= 0).sum()),
        undescribed=count_undescribed(images, judgement.known.ids),
        wrong=to_estimate(wrong),
        found={"label": len(doubtful), "duplicate": len(copies), "no class": len(unfit)},
        items=items,
    )
    return audit, judgement


def count_undescribed(images: ImageTable, known: np.ndarray) -> int:
    """Count labelled training and validation images whose ids are not in `known` [n], the ids of those with a text."""
    rows = np.flatnonzero(images.is_labelled & (images.rows["split"].to_numpy() != "test"))
    return len(np.setdiff1d(images.ids[rows], known))


class Judgement:
    """The evidence of the texts on the labels of training and validation images.

    Args:
        known: the images, n of them.
        labelling: the labeller's result for them.

    Attributes:
        probabilities: out-of-fold probabilities q of the classes, without the image's own label, float64 [n, C].
        posterior: probabilities s of the true class given the label as well, float64 [n, C].
    """

    def __init__(self, known: TrainingVectors, labelling: Labelling) -> None:
        self.known, self.labelling = known, labelling
        self.probabilities = np.exp(labelling.out_of_fold)
        self.posterior = np.exp(labelling.posterior(known.labels))

    def doubtful(self) -> np.ndarray:
        """Return the images whose label is likely wrong, the least credible label first, int64 [m].

        Where T was estimated, these are images for which another class has a higher posterior; else those of
        `find_label_issues`.
        """
        labels = self.known.labels
        likely = find_label_issues(self.probabilities, labels) >= 0
        if self.labelling.noise is not None:
            likely = (labels >= 0) & (self.posterior.argmax(axis=1) != labels)
        given = self.posterior[np.arange(len(labels)), np.maximum(labels, 0)]
        found = np.flatnonzero(likely)
        return found[np.argsort(given[found], kind="stable")]


def judge_labels(
    images: ImageTable,
    stores: Sequence[EmbeddingStore],
    *,
    encoders: Sequence[TextEncoder] = (),
    picks: PickedClasses | None = None,
) -> Judgement:
    """Check the labels of training and validation images against their texts and the classes that an LLM picked.

    Raises:
        DescriptionError: no labelled image has a text.
    """
    picked = picks.ids[picks.named] if picks is not None else None
    known = find_training_vectors(images, stores, validation=True, picked=picked)
    texts = ClassTexts.of_names(images.classes)
    examples = Examples(*texts.embed(encoders)) if encoders else None
    vectors = known.take(np.arange(len(known.ids)))
    labelling = label_rows(
        vectors, known.labels, known.groups(), len(images.classes), examples,
        picks=None if picks is None else picks.take(known.ids), described=known.described,
    )  # fmt: skip
    return Judgement(known, labelling)


class _Items:
    """Makes the items of an audit."""

    def __init__(self, images: ImageTable, descriptions: DescriptionSet, judgement: Judgement) -> None:
        self._images, self._descriptions, self._judgement = images, descriptions, judgement
        self._thumbnails = image_thumbnails(images)
        self._found = find_duplicates(images)
        self._row_of = {
            (image_id, label): row
            for row, (image_id, label) in enumerate(
                zip(images.rows["id"].to_pylist(), images.labels.tolist(), strict=True)
            )
        }
        self._position_of = {image_id.decode(): row for row, image_id in enumerate(judgement.known.ids.tolist())}

    def item(self, position: int, kind: AuditKind) -> AuditItem:
        """Return the item of an image of the judgement."""
        known = self._judgement.known
        image_id, label = known.ids[position].decode(), int(known.labels[position])
        return self._make(image_id, self._row_of[image_id, label], position, kind)

    def duplicates(self) -> Iterator[AuditItem]:
        """Yield every image that occurs with more than one label."""
        for image_id, places in self._found.conflicting.items():
            row = self._row_of[image_id, self._images.classes.index(next(iter(places)))]
            yield self._make(image_id, row, self._position_of.get(image_id), "duplicate", list(places))

    def _make(
        self, image_id: str, row: int, position: int | None, kind: AuditKind, several: list[str] | None = None
    ) -> AuditItem:
        label = int(self._images.labels[row])
        name = self._images.classes[label] if label >= 0 else None
        suggested = confidence = given = None
        if position is not None:
            # every label of a duplicate is in doubt, so only the text counts
            shares = (self._judgement.probabilities if several else self._judgement.posterior)[position]
            best = int(shares.argmax())
            suggested, confidence = self._images.classes[best], float(shares[best])
            given = float(shares[label]) if label >= 0 and not several else None
        copies = {name or "": self._found.copies[image_id]} if image_id in self._found.copies else {}
        places = self._found.conflicting.get(image_id, copies)
        return AuditItem(
            image_id=image_id,
            places={each: list(paths) for each, paths in places.items()},
            path=self._images.path(row),
            split=str(self._images.rows["split"][row].as_py()),
            kind=kind,
            given=None if several else name,
            labels=several or [name for name in (name,) if name is not None],
            suggested=suggested,
            confidence=confidence,
            given_probability=given,
            description=self._descriptions.texts_of([image_id])[0],
            thumbnail=self._thumbnails(image_id),
        )
