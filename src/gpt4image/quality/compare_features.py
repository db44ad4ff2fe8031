"""What the texts know beside what a frozen backbone sees: texts, vectors and features joined by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.core.errors import DescriptionError
from gpt4image.core.files import digest
from gpt4image.core.format import counted
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.description_set import join_texts
from gpt4image.embed import TextEncoder, embed_descriptions
from gpt4image.embed.runner import count_all_tokens
from gpt4image.images.table import ImageTable
from gpt4image.probing.folds import link, look_alikes, to_unit
from gpt4image.quality.checks.leakage import ClassNames
from gpt4image.quality.checks.run_checks import Flag, flag_long
from gpt4image.quality.checks.simple import text_key
from gpt4image.quality.checks.vectors import find_contradictions, find_outliers
from gpt4image.quality.knowledge import choose_images, measure_knowledge, too_rare
from gpt4image.quality.settings import CheckSettings
from gpt4image.quality.texts import CheckedText, ImageFacts
from gpt4image.quality.words import words

if TYPE_CHECKING:
    from gpt4image.quality.check_record import Knowledge


UNUSABLE = frozenset({"empty", "refusal", "loop", "language"})


"""Findings that say enough of a text: its vector is not looked at."""


def text_vectors(
    texts: Sequence[CheckedText], images: ImageTable, encoder: TextEncoder, folder: Path, settings: CheckSettings
) -> np.ndarray:
    """Unit vectors of texts, float32 [N, D]; zero for blank ones. A text that the folder holds is not encoded again.

    Args:
        texts: the texts.
        images: the images they belong to.
        encoder: turns them into vectors.
        folder: where vectors are kept.
        settings: how long texts are read, and how many at a time.
    """
    vectors = np.zeros((len(texts), encoder.width), dtype=np.float32)
    there = [at for at, text in enumerate(texts) if text.text.strip()]
    if there:
        found = join_texts(images, ((texts[at].image_id, texts[at].text) for at in there), 0, "texts to check")
        store = embed_descriptions(
            found, encoder, folder, long_text=settings.long_text, batch_size=settings.embed_batch
        )
        row_of = {value.decode(): row for row, value in enumerate(np.load(store.layout.texts).tolist())}
        vectors[there] = store.vectors[[row_of[digest(texts[at].text)] for at in there]]
    return vectors


def vector_flags(
    texts: Sequence[CheckedText], vectors: np.ndarray, flags: Sequence[Flag], classes: Sequence[str], seed: int
) -> list[Flag]:
    """Texts that contradict their label, and texts unlike all others.

    Args:
        texts: the texts.
        vectors: their vectors [N, D]; zero for blank ones.
        flags: what was found before; a refusal is not called an outlier as well.
        classes: class names.
        seed: seed of folds and choices.
    """
    unusable = {flag.at for flag in flags if flag.kind in UNUSABLE}
    rows = np.asarray([at for at in range(len(texts)) if at not in unusable and vectors[at].any()], dtype=np.int64)
    if not len(rows):
        return []
    used = [texts[at] for at in rows]
    groups = text_groups(used)
    labels = np.asarray([text.label for text in used], dtype=np.int64)
    found = find_contradictions(vectors[rows], labels, groups, classes, seed)
    found += find_outliers(vectors[rows], groups, seed)
    return [flag._replace(at=int(rows[flag.at])) for flag in found]


def text_groups(texts: Sequence[CheckedText]) -> np.ndarray:
    """Groups of texts of one image, and of texts of the same words, int64 [N]."""
    return link([text.image_id for text in texts], [text_key(words(text.text)) for text in texts])


def long_flags(texts: Sequence[CheckedText], encoder: TextEncoder) -> list[Flag]:
    """Texts that are longer than the encoder reads."""
    distinct = list({text.text: None for text in texts})
    counts = dict(zip(distinct, count_all_tokens(distinct, encoder).tolist(), strict=True))
    return flag_long([counts[text.text] for text in texts], encoder.max_tokens)


LEAKS = 0.01


"""Share of texts with a class name from on which they are read without it as well."""


@dataclass(frozen=True)
class DescribedImages:
    """Distinct images with the texts that are read of them.

    Attributes:
        ids: image ids, sorted [N].
        texts: texts of each image.
        vectors: mean of each image's unit vectors, float32 [N, D].
        labels: int64 [N], -1 where there is none.
        groups: images that share a text, int64 [N].
    """

    ids: list[str]
    texts: list[list[CheckedText]]
    vectors: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Comparison:
    """Sets texts beside image features.

    Attributes:
        images: the image table.
        facts: its distinct images.
        workdir: the work directory.
        settings: encoder, backbone, seed.
        notes: what a person should know of it.
    """

    images: ImageTable
    facts: ImageFacts
    workdir: WorkDir
    settings: CheckSettings
    notes: list[str] = field(default_factory=list)

    def measure(self, texts: Sequence[CheckedText], vectors: np.ndarray, encoder: TextEncoder) -> Knowledge:
        """Measure what the texts know beyond the image features.

        Args:
            texts: all texts.
            vectors: their vectors [N, D]; zero for blank ones.
            encoder: what made them.

        Raises:
            DescriptionError: it cannot be measured; the message says why, and what to do.
        """
        from gpt4image.train.frozen_features import frozen_features

        backbone = self.settings.backbone
        if backbone is None:
            raise DescriptionError(
                "No backbone was named to set the texts beside. Name the one that is to be trained: --backbone NAME, "
                "and --checkpoint FILE for weights of your own or without network."
            )
        rows = self._fair(texts, vectors)
        described = join_by_image([texts[at] for at in rows], vectors[rows], self.facts)
        chosen = choose_images(described.labels, described.groups, len(self.images.classes), self.settings.seed)
        self._note_choice(described, chosen)
        table_rows = np.asarray([self.facts.rows[described.ids[at]] for at in chosen], dtype=np.int64)
        features = np.asarray(
            frozen_features(self.images, table_rows, backbone, self.workdir.features), dtype=np.float32
        )
        links = [described.groups[chosen], look_alikes(features)]
        if self.settings.series is not None:
            links.append(self.settings.series[table_rows])
        knowledge = measure_knowledge(
            described.vectors[chosen],
            features,
            described.labels[chosen],
            link(*links),
            self.images.classes,
            self.settings.seed,
            masked_vectors=self._masked([described.texts[at] for at in chosen], encoder),
            backbone=backbone.title,
            encoder=encoder.name,
        )
        rare = too_rare(described.labels, described.groups, self.images.classes)
        return knowledge.model_copy(update={"left_out": rare | knowledge.left_out})

    def _fair(self, texts: Sequence[CheckedText], vectors: np.ndarray) -> np.ndarray:
        """Positions of the texts that may be read: their writer did not know the class; of training images if any."""
        there = [at for at in range(len(texts)) if vectors[at].any()]
        fair = [at for at in there if is_fair(texts[at])]
        left_out = [texts[at] for at in there if not is_fair(texts[at])]
        self._note_told(left_out, fair)
        training = self.facts.of_splits(["train"])
        trained = [at for at in fair if texts[at].image_id in training]
        return np.asarray(trained or fair, dtype=np.int64)

    def _note_told(self, left_out: Sequence[CheckedText], fair: Sequence[int]) -> None:
        told = sum(text.told is True for text in left_out)
        unknown = sorted({text.prompt or "" for text in left_out if text.told is None})
        reasons = []
        if told:
            reasons.append(f"{counted(told, 'text')} written knowing the class prove nothing of what was seen")
        if unknown:
            reasons.append(
                f"prompts that are not known may have said the class ({', '.join(unknown)}; name their file: "
                "--prompt-file FILE)"
            )
        if reasons and not fair:
            raise DescriptionError(
                f"There is no text to measure it on: {'; '.join(reasons)}. Describe some images with a prompt without "
                "{class}, such as plain."
            )
        if reasons:
            self.notes.append(f"Left out of what the texts know: {'; '.join(reasons)}.")

    def _note_choice(self, described: DescribedImages, chosen: np.ndarray) -> None:
        labelled = int((described.labels >= 0).sum())
        if len(chosen) < labelled:
            classes = len(np.unique(described.labels[chosen]))
            self.notes.append(
                f"What the texts know was measured on {len(chosen):,} of {labelled:,} images with label and text, in "
                f"{classes:,} classes."
            )

    def _masked(self, texts: Sequence[Sequence[CheckedText]], encoder: TextEncoder) -> np.ndarray | None:
        """Mean vectors of images' texts without class names; None where hardly any text has one."""
        names = ClassNames(self.images.classes)
        flat = [text for of_image in texts for text in of_image]
        masked = [text.with_text(names.mask(text.text)) for text in flat]
        changed = sum(before.text != after.text for before, after in zip(flat, masked, strict=True))
        if changed < LEAKS * len(flat):
            return None
        folder = self.workdir.embeddings(f"{encoder.name}-without-class-names")
        vectors = text_vectors(masked, self.images, encoder, folder, self.settings)
        return mean_by(np.repeat(np.arange(len(texts)), [len(of_image) for of_image in texts]), vectors)


def is_fair(text: CheckedText) -> bool:
    """Whether a text's writer did not know the class, or nothing speaks for it: a prompt that nobody knows does."""
    return text.told is False or (text.told is None and text.key is None)


def join_by_image(texts: Sequence[CheckedText], vectors: np.ndarray, facts: ImageFacts) -> DescribedImages:
    """Texts [N] and their vectors [N, D] by image."""
    if not texts:
        raise DescriptionError("There is no text to measure it on. Describe images: gpt4image describe.")
    ids, of = np.unique([text.image_id for text in texts], return_inverse=True)
    by_image: list[list[CheckedText]] = [[] for _ in ids]
    for text, at in zip(texts, of.tolist(), strict=True):
        by_image[at].append(text)
    groups = np.empty(len(ids), dtype=np.int64)
    groups[of] = text_groups(texts)
    labels = np.asarray([of_image[0].label for of_image in by_image], dtype=np.int64)
    return DescribedImages([str(i) for i in ids], by_image, mean_by(of, vectors), labels, groups)


def mean_by(of: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Unit mean of the vectors [N, D] of each number 0 to M - 1 in `of` [N], float32 [M, D]."""
    sums = np.zeros((int(of.max()) + 1, vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, of, vectors)
    return to_unit(sums)
