"""The audit of images with several labels: given labels, present or absent, that a person should review."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import version

import numpy as np

from gpt4image.descriptions.class_texts import ClassTexts, Encodes
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.descriptions.store.shards import now
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.corrections import label_in_words
from gpt4image.images.duplicates import find_duplicates
from gpt4image.images.table import ImageTable
from gpt4image.images.thumbnails import image_thumbnails
from gpt4image.probing.intervals import to_estimate
from gpt4image.quality.audit import count_undescribed
from gpt4image.quality.audit_record import AuditItem, AuditRecord
from gpt4image.soft_labels.methods import Examples
from gpt4image.soft_labels.set_labelling import label_rows_with_sets
from gpt4image.soft_labels.set_labels import doubtful_labels, find_set_vectors


def audit_label_sets(
    images: ImageTable,
    descriptions: DescriptionSet,
    stores: Sequence[EmbeddingStore],
    *,
    encoders: Sequence[Encodes] = (),
    limit: int,
    decided: Collection[tuple[str, str]] = (),
) -> AuditRecord:
    """Find labels of training and validation images that a person should review.

    Each item is one class of one image that is labelled present or absent although, by the description, the opposite is
    likelier even when the label is taken into account (`doubtful_labels`).

    Args:
        images: the images, with several labels each. Test images are not examined.
        descriptions: their texts.
        stores: vectors of the texts.
        encoders: the encoders of `stores`, which embed the class names as further evidence.
        limit: largest number of labels to list.
        decided: pairs of image id and label, in words, that a person has reviewed; they are not listed again.

    Raises:
        DescriptionError: no training image has a text.
        DataError: no class has both present and absent labels.
    """
    known, marks = find_set_vectors(images, stores)
    examples = Examples(*ClassTexts.of_names(images.classes).embed(encoders)) if encoders else None
    found = label_rows_with_sets(known.take(np.arange(len(known.ids))), marks, known.groups(), examples)
    row_of = {image_id: row for row, image_id in reversed(list(enumerate(images.rows["id"].to_pylist())))}
    thumbnails, items, count = image_thumbnails(images), list[AuditItem](), 0
    copies = find_duplicates(images).copies
    for doubt in doubtful_labels(marks, found):
        image_id, name = known.ids[doubt.position].decode(), images.classes[doubt.label]
        given, other = (label_in_words(name, present) for present in (doubt.given, not doubt.given))
        if (image_id, given) in decided or (image_id, other) in decided:
            continue
        count += 1
        if len(items) == limit:
            continue
        row = row_of[image_id]
        items.append(
            AuditItem(
                image_id=image_id,
                places={given: list(copies[image_id])} if image_id in copies else {},
                path=images.path(row),
                split=str(images.rows["split"][row].as_py()),
                kind="label",
                given=given,
                labels=[given],
                suggested=other,
                confidence=1 - doubt.probability,
                given_probability=doubt.probability,
                description=descriptions.texts_of([image_id])[0],
                thumbnail=thumbnails(image_id),
            )
        )
    wrong = found.estimate.wrong if found.estimate else None
    return AuditRecord(
        version=version("gpt4image"),
        created=now(),
        source=images.source,
        classes=[],
        examined=int((marks >= 0).sum()),
        undescribed=count_undescribed(images, known.ids),
        wrong=to_estimate(wrong),
        found={"label": count},
        items=items,
    )
