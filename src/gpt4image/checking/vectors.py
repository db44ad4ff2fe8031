"""The texts' vectors, and what is found with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt4image.checking.settings import CheckSettings
from gpt4image.describe.descriptions import join_texts
from gpt4image.describe.quality.checks import Flag, flag_long
from gpt4image.describe.quality.folds import link
from gpt4image.describe.quality.repeats import text_key
from gpt4image.describe.quality.texts import CheckedText
from gpt4image.describe.quality.vectors import find_contradictions, find_outliers
from gpt4image.describe.quality.words import words
from gpt4image.embed import TextEncoder, embed_descriptions
from gpt4image.embed.runner import count_all_tokens
from gpt4image.files import digest
from gpt4image.images.table import ImageTable

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
