"""Controls: replacements for descriptions in a comparison, to show whether their content matters.

Shuffled texts keep everything but their image, random words also lose the sentence, and random vectors lose the text
space as well; the class name contains only the information of the label. A model that gains as much from these as from
the descriptions owes its gain to the additional loss. Random words: Roth et al., "Waffling around for performance",
arXiv 2306.07282, section 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from gpt4image.core.errors import DescriptionError, StoreError
from gpt4image.core.files import digest, exclusive, replace_folder, save_array
from gpt4image.descriptions.description_set import DescriptionSet, join_texts
from gpt4image.embed.encoders import TextEncoder
from gpt4image.embed.runner import LongText, embed_descriptions
from gpt4image.embed.store import EmbeddingLayout, EmbeddingStore
from gpt4image.images.table import ImageTable

ControlTexts = Literal["class-name", "shuffled", "shuffled-within-class", "random-words", "random-vectors"]
BLOCK = 65_536  # vectors drawn at a time


def control_texts(
    kind: ControlTexts, descriptions: DescriptionSet, images: ImageTable, class_texts: Sequence[str], seed: int
) -> DescriptionSet:
    """Return replacements for the descriptions of the same images. Each split keeps its own texts.

    Args:
        kind: `class-name` gives every labelled image the text of its class, or of each of them; `shuffled` and
            `shuffled-within-class` deal all texts of an image to another one, with the same labels for the latter;
            `random-words` draws as many words as each text has from all words of the descriptions, as often as they
            occur there.
        descriptions: the descriptions.
        images: the images, with the labels that the run learns from.
        class_texts: a text for each class.
        seed: seed of the draws.
    """
    own: dict[str, list[str]] = {}
    for image_id, text in descriptions.pairs():
        own.setdefault(image_id, []).append(text)
    labels, ids_of_rows = images.rows["label"].to_pylist(), images.ids
    # copies get the labels and the split of the one that training sees first
    places: dict[str, tuple[str, tuple[int, ...]]] = {}
    for split in ("train", "validation", "test"):
        for row in images.split(split).tolist():
            places.setdefault(ids_of_rows[row].decode(), (split, _classes_of(labels[row])))
    ids = [image_id for image_id in own if image_id in places]
    generator = np.random.default_rng(seed)
    pairs: list[tuple[str, str]]
    match kind:
        case "class-name":
            pairs = [
                (image_id, ", ".join(class_texts[label] for label in own_classes))
                for image_id in ids
                if (own_classes := places[image_id][1])
            ]
        case "random-words":
            words = Counter(word for _, text in descriptions.pairs() for word in text.split())
            vocabulary, edges = list(words), np.cumsum(list(words.values()))
            pairs = [
                (image_id, " ".join(vocabulary[at] for at in _draw(edges, len(text.split()), generator)))
                for image_id in ids
                for text in own[image_id]
            ]
        case "shuffled" | "shuffled-within-class":
            decks: dict[object, list[str]] = {}
            for image_id in ids:
                split, label = places[image_id]
                decks.setdefault((split, label) if kind == "shuffled-within-class" else split, []).append(image_id)
            pairs = [
                (image_id, text)
                for deck in decks.values()
                for image_id, at in zip(deck, generator.permutation(len(deck)).tolist(), strict=True)
                for text in own[deck[at]]
            ]
        case _:
            raise ValueError(f"{kind} has no texts")
    return join_texts(images, pairs, 0, f"{kind.replace('-', ' ')}, instead of {descriptions.source}")


def _classes_of(label: int | list[int]) -> tuple[int, ...]:
    """Return the classes in a value of the column `label`."""
    if isinstance(label, int):
        return (label,) if label >= 0 else ()
    return tuple(number for number, mark in enumerate(label) if mark > 0)


def _draw(edges: np.ndarray, count: int, generator: np.random.Generator) -> list[int]:
    """Draw positions in proportion to their counts, given their running sum, int [V]."""
    drawn: list[int] = np.searchsorted(edges, generator.integers(edges[-1], size=count), side="right").tolist()
    return drawn


def embed_control(
    kind: ControlTexts,
    store: EmbeddingStore,
    descriptions: DescriptionSet,
    images: ImageTable,
    class_texts: Sequence[str],
    encoder: Callable[[], TextEncoder],
    folder: Path,
    *,
    seed: int,
    batch_size: int = 64,
) -> EmbeddingStore:
    """Embed a control as the descriptions were, or open the store that already holds it.

    Args:
        kind: the control, see `control_texts`; `random-vectors` gives every image a random unit vector of its own.
        store: vectors of the descriptions; those of the same texts are copied.
        descriptions: the descriptions.
        images: the images, with the labels that the run learns from.
        class_texts: a text for each class.
        encoder: loads the encoder of `store`, if something has to be encoded.
        folder: folder of the control's vectors.
        seed: seed of the draws.
        batch_size: texts per batch.

    Raises:
        DescriptionError: no labelled image has a text.
    """
    if kind == "random-vectors":
        return _random_vectors(store, folder, seed)
    texts = control_texts(kind, descriptions, images, class_texts, seed)
    if not len(texts):
        raise DescriptionError(f"The control {kind} has no text: no image with a description has a label.")
    if (there := _open(folder, store, texts.text_hash)) is not None:
        return there
    long_text: LongText = "pool" if store.manifest.long_text == "pool" else "truncate"
    return embed_descriptions(texts, encoder(), folder, long_text=long_text, batch_size=batch_size, known=store)


def _random_vectors(store: EmbeddingStore, folder: Path, seed: int) -> EmbeddingStore:
    """Write a store with one isotropic random unit vector for every image of another store."""
    text_hash = digest("random-vectors", str(seed), store.manifest.text_hash)
    with exclusive(folder.parent / f"{folder.name}.lock", f"the embeddings in {folder}", wait=True):
        if (there := _open(folder, store, text_hash)) is not None:
            return there
        ids, building = np.load(store.layout.ids), EmbeddingLayout(folder.with_name(folder.name + ".building"))
        building.folder.mkdir(parents=True, exist_ok=True)
        count, generator = len(ids), np.random.default_rng(seed)
        shape = (count, store.width)
        vectors = np.lib.format.open_memmap(building.vectors, mode="w+", dtype=np.float16, shape=shape)
        for start in range(0, count, BLOCK):
            drawn = generator.standard_normal((min(BLOCK, count - start), store.width))
            vectors[start : start + BLOCK] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        vectors.flush()
        save_array(building.texts, np.asarray([digest(text_hash, each.decode()) for each in ids.tolist()], dtype="S32"))
        save_array(building.ids, ids)
        save_array(building.offsets, np.arange(count + 1))
        save_array(building.rows, np.arange(count))
        sizes = {"distinct_texts": count, "texts": count, "truncated": 0, "longest": {}}
        store.manifest.model_copy(update={"text_hash": text_hash, **sizes}).save(building.manifest)
        replace_folder(building.folder, folder)
    return EmbeddingStore(folder)


def _open(folder: Path, store: EmbeddingStore, text_hash: str) -> EmbeddingStore | None:
    """Open a store that the encoder of `store` made from the texts with this hash; None if there is none."""
    try:
        found = EmbeddingStore(folder)
    except StoreError:
        return None
    keys = ("encoder", "revision", "long_text")
    same = all(getattr(found.manifest, key) == getattr(store.manifest, key) for key in keys)
    return found if same and found.manifest.text_hash == text_hash else None
