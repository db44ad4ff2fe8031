"""Join texts, their vectors and image features by image, and measure what the texts add to the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpt4image.core.errors import DescriptionError
from gpt4image.core.files import digest
from gpt4image.core.format import counted
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.description_set import join_texts
from gpt4image.descriptions.exchange.import_ import IMPORTED
from gpt4image.embed import TextEncoder, embed_descriptions
from gpt4image.images.table import ImageTable
from gpt4image.probing.folds import link, look_alikes, to_unit
from gpt4image.quality.checks.context import text_groups
from gpt4image.quality.checks.leakage import ClassNames
from gpt4image.quality.knowledge import choose_images, measure_knowledge, rare_classes
from gpt4image.quality.texts import CheckedText, ImageFacts

if TYPE_CHECKING:
    from gpt4image.quality.check_record import Knowledge
    from gpt4image.train.frozen_features import FrozenBackbone

MIN_LEAKED = 0.01  # share of texts with a class name, from which texts are also measured without the names


@dataclass(frozen=True)
class TextReader:
    """Encodes texts and keeps the vectors on disk, so that no text is encoded twice.

    Attributes:
        images: the images of the texts.
        encoder: the text encoder.
        workdir: the work directory with the vectors.
        long_text: what to do with texts longer than the encoder reads.
        batch_size: batch size of the encoder.
    """

    images: ImageTable
    encoder: TextEncoder
    workdir: WorkDir
    long_text: Literal["truncate", "pool"] = "truncate"
    batch_size: int = 64

    def vectors(self, texts: Sequence[CheckedText], variant: str = "") -> np.ndarray:
        """Return unit vectors of the texts, float32 [N, D]; zero for blank ones.

        Args:
            texts: the texts.
            variant: suffix of the folder's name, for texts that were changed.
        """
        vectors = np.zeros((len(texts), self.encoder.width), dtype=np.float32)
        rows = [at for at, text in enumerate(texts) if text.text.strip()]
        if rows:
            pairs = ((texts[at].image_id, texts[at].text) for at in rows)
            folder: Path = self.workdir.embeddings(self.encoder.name + variant)
            store = embed_descriptions(
                join_texts(self.images, pairs, 0, "texts to check"),
                self.encoder,
                folder,
                long_text=self.long_text,
                batch_size=self.batch_size,
            )
            row_of = {value.decode(): row for row, value in enumerate(np.load(store.layout.texts).tolist())}
            vectors[rows] = store.vectors[[row_of[digest(texts[at].text)] for at in rows]]
        return vectors


@dataclass(frozen=True)
class DescribedImages:
    """Distinct images with their texts.

    Attributes:
        ids: image ids, sorted [N].
        texts: texts of each image.
        vectors: mean of each image's unit vectors, float32 [N, D].
        labels: int64 [N], -1 for none.
        groups: group numbers, int64 [N]; images that share a text are in one group.
    """

    ids: list[str]
    texts: list[list[CheckedText]]
    vectors: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


@dataclass
class FeatureComparison:
    """Compares texts with the features of a frozen backbone.

    Attributes:
        facts: the images.
        reader: encodes the texts; None if they are not encoded.
        backbone: the backbone; None if none was named.
        series: for each row of the image table, a value that images of one series share, so that they share a fold.
        seed: seed of folds, samples and bootstrap.
        notes: collects notes that a reader needs to interpret the numbers.
    """

    facts: ImageFacts
    reader: TextReader | None
    backbone: FrozenBackbone | None
    series: np.ndarray | None
    seed: int
    notes: list[str]

    def measure(self, texts: Sequence[CheckedText], vectors: np.ndarray | None) -> Knowledge:
        """Measure what the texts add to the image features.

        Args:
            texts: all texts.
            vectors: their vectors [N, D], zero for blank ones; None if they are not encoded.

        Raises:
            DescriptionError: it cannot be measured; the message says why and what to do.
        """
        from gpt4image.train.frozen_features import frozen_features

        reader, images = self.reader, self.facts.images
        if reader is None or vectors is None:
            raise DescriptionError("The texts were not encoded: pass an encoder, such as minilm (--encoder).")
        if self.backbone is None:
            raise DescriptionError(
                "No backbone to compare the texts with. Name the one you will train (--backbone), and its weights "
                "file (--checkpoint) if they are your own or you have no network."
            )
        rows = self._unbiased(texts, vectors)
        described = join_by_image([texts[at] for at in rows], vectors[rows])
        chosen = choose_images(described.labels, described.groups, len(images.classes), self.seed)
        self._note_sample(described.labels, chosen)
        table_rows = np.asarray([self.facts.rows[described.ids[at]] for at in chosen], dtype=np.int64)
        features = np.asarray(frozen_features(images, table_rows, self.backbone, reader.workdir.features), np.float32)
        groups = [described.groups[chosen], look_alikes(features)]
        if self.series is not None:
            groups.append(self.series[table_rows])
        knowledge = measure_knowledge(
            described.vectors[chosen],
            features,
            described.labels[chosen],
            link(*groups),
            images.classes,
            self.seed,
            masked_vectors=masked_vectors([described.texts[at] for at in chosen], reader),
            backbone=self.backbone.title,
            encoder=reader.encoder.name,
        )
        rare = rare_classes(described.labels, described.groups, images.classes)
        return knowledge.model_copy(update={"left_out": rare | knowledge.left_out})

    def _unbiased(self, texts: Sequence[CheckedText], vectors: np.ndarray) -> np.ndarray:
        """Return rows of texts whose author did not know the class; only of training images if there are any."""
        encoded = np.flatnonzero(vectors.any(axis=1)).tolist()
        unbiased = [at for at in encoded if is_unbiased(texts[at])]
        self._note_left_out([texts[at] for at in encoded if not is_unbiased(texts[at])], unbiased)
        training = self.facts.in_splits(["train"])
        return np.asarray([at for at in unbiased if texts[at].image_id in training] or unbiased, dtype=np.int64)

    def _note_left_out(self, left_out: Sequence[CheckedText], unbiased: Sequence[int]) -> None:
        with_class = sum(text.class_in_prompt is True for text in left_out)
        unknown = sorted({text.prompt or "" for text in left_out if text.class_in_prompt is None})
        reasons, remedies = [], []
        if with_class:
            reasons.append(f"{counted(with_class, 'text')} whose prompt named the class, which proves nothing")
        if unknown:
            reasons.append(f"texts of unknown prompts, which may have named the class: {', '.join(unknown)}")
            remedies.append("set class_in_prompt to false (--class-in-prompt False) if these prompts did not name it")
        if set(unknown) - {IMPORTED}:
            remedies.append("set prompt_file (--prompt-file FILE) to the file of these prompts")
        if reasons and not unbiased:
            if with_class:
                remedies.append("describe some images with a prompt without {class}, such as plain")
            raise DescriptionError(
                "All texts were written with knowledge of the class, so none shows what can be seen in the image. "
                f"There are only {' and '.join(reasons)}. Options: {'; or '.join(remedies)}."
            )
        if reasons:
            helps = f" What helps: {'; or '.join(remedies)}." if remedies else ""
            self.notes.append(f"Left out of the comparison with the image features: {' and '.join(reasons)}.{helps}")

    def _note_sample(self, labels: np.ndarray, chosen: np.ndarray) -> None:
        labelled = int((labels >= 0).sum())
        if len(chosen) < labelled:
            classes = len(np.unique(labels[chosen]))
            self.notes.append(
                f"Texts and image features were compared on {len(chosen):,} of {labelled:,} images with label and "
                f"text, in {classes:,} classes."
            )


def masked_vectors(texts: Sequence[Sequence[CheckedText]], reader: TextReader) -> np.ndarray | None:
    """Return mean vectors of each image's texts without class names, [n, D]; None if hardly any text has one."""
    names = ClassNames(reader.images.classes)
    flat = [text for of_image in texts for text in of_image]
    masked = [replace(text, text=names.mask(text.text)) for text in flat]
    changed = sum(before.text != after.text for before, after in zip(flat, masked, strict=True))
    if changed < MIN_LEAKED * len(flat):
        return None
    image_of = np.repeat(np.arange(len(texts)), [len(of_image) for of_image in texts])
    return mean_by(image_of, reader.vectors(masked, "-without-class-names"))


def is_unbiased(text: CheckedText) -> bool:
    """Return whether the author did not know the class; assumed of texts from elsewhere if nothing is known."""
    return text.class_in_prompt is False or (text.class_in_prompt is None and text.key is None)


def join_by_image(texts: Sequence[CheckedText], vectors: np.ndarray) -> DescribedImages:
    """Join texts [N] and their vectors [N, D] by image. DescriptionError if there are none."""
    if not texts:
        raise DescriptionError("No text to compare with the image features. Describe images: gpt4image describe.")
    ids, image_of = np.unique([text.image_id for text in texts], return_inverse=True)
    by_image: list[list[CheckedText]] = [[] for _ in ids]
    for text, at in zip(texts, image_of.tolist(), strict=True):
        by_image[at].append(text)
    groups = np.empty(len(ids), dtype=np.int64)
    groups[image_of] = text_groups(texts)  # texts of one image share a group, so it does not matter which one is last
    labels = np.asarray([of_image[0].label for of_image in by_image], dtype=np.int64)
    return DescribedImages([str(i) for i in ids], by_image, mean_by(image_of, vectors), labels, groups)


def mean_by(numbers: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Average the vectors [N, D] that share a number (`numbers` [N], 0 to M - 1); return unit means, float32 [M, D]."""
    sums = np.zeros((int(numbers.max()) + 1, vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, numbers, vectors)
    return to_unit(sums)
