"""Descriptions to vectors: each distinct text once, in batches of like length, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import DescriptionError, StoreError
from gpt4image.core.files import digest, exclusive, fill_array, replace_folder, save_array, write_json
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.embed.encoders import TextEncoder
from gpt4image.embed.store import EmbeddingLayout, EmbeddingStore, Manifest

CountTokens = Callable[[Sequence[str]], list[int]]


def split_text(text: str, max_tokens: int, count_tokens: CountTokens) -> list[str]:
    """Cut a text into chunks of at most `max_tokens` tokens each, special tokens included.

    Chunks are whole words, but for words that are too long by themselves, as in scripts without spaces.

    >>> split_text("one two three four five", 4, lambda texts: [len(t.split()) + 2 for t in texts])
    ['one two', 'three four', 'five']
    """
    words = text.split()
    special = count_tokens([""])[0]
    lengths = [length - special for length in count_tokens(words)]
    chunks: list[list[str]] = [[]]
    room = max_tokens - special
    for word, length in zip(words, lengths, strict=True):
        if chunks[-1] and length > room:
            chunks.append([])
            room = max_tokens - special
        chunks[-1].append(word)
        room -= length
    joined = (" ".join(chunk) for chunk in chunks if chunk)
    return [piece for chunk in joined for piece in halve(chunk, max_tokens, count_tokens)]


def halve(text: str, max_tokens: int, count_tokens: CountTokens) -> list[str]:
    """Cut a text in the middle until every piece fits or is a single character.

    >>> halve("abcdefg", 4, lambda texts: [len(t) + 2 for t in texts])
    ['a', 'bc', 'de', 'fg']
    """
    if len(text) <= 1 or count_tokens([text])[0] <= max_tokens:
        return [text]
    middle = len(text) // 2
    return [*halve(text[:middle], max_tokens, count_tokens), *halve(text[middle:], max_tokens, count_tokens)]


LongText = Literal["truncate", "pool"]


BATCHES_PER_CHUNK = 8


"""Batches between two durable writes."""


SHOWN_LONGEST = 5


@dataclass(frozen=True)
class EncodingPlan:
    """The distinct texts in the order in which they are encoded: known ones first, then from long to short.

    Attributes:
        texts: distinct texts [M].
        hashes: their hashes [M].
        tokens: their token counts [M].
        known: row of each text in the store that is being replaced, int64 [M]; -1 where it has to be encoded.
    """

    texts: list[str]
    hashes: list[str]
    tokens: np.ndarray
    known: np.ndarray


def embed_descriptions(
    descriptions: DescriptionSet,
    encoder: TextEncoder,
    folder: Path,
    *,
    long_text: LongText = "truncate",
    batch_size: int = 64,
) -> EmbeddingStore:
    """Encode a description set into an embedding store, or open the store that already holds it.

    Texts that an earlier store in the folder holds are taken from there. A run that was killed goes on where it was
    and ends in the same bytes.

    Args:
        descriptions: the texts.
        encoder: turns them into vectors.
        folder: where the store lies.
        long_text: `truncate` reads the beginning of long texts; `pool` encodes them in chunks and takes the mean of
            the chunks' vectors, weighted by their tokens.
        batch_size: texts encoded at a time.

    Raises:
        DescriptionError: there is no text at all.
    """
    if not len(descriptions):
        raise DescriptionError(f"{descriptions.source}: no image has a text, so there is nothing to embed.")
    with exclusive(folder.parent / f"{folder.name}.lock", f"the embeddings in {folder}", wait=True):
        building = folder.with_name(folder.name + ".building")
        if (building / "manifest.json").exists():
            replace_folder(building, folder)
        earlier = open_if_finished(folder, encoder, long_text)
        if earlier and earlier.manifest.text_hash == descriptions.text_hash:
            return earlier
        plan = plan_encoding(descriptions, encoder, earlier)
        encode_texts(plan, encoder, EmbeddingLayout(building), earlier, long_text, batch_size)
        finish_store(plan, descriptions, encoder, EmbeddingLayout(building), long_text)
        replace_folder(building, folder)
    store = EmbeddingStore(folder)
    report_truncation(store)
    return store


def open_if_finished(folder: Path, encoder: TextEncoder, long_text: LongText) -> EmbeddingStore | None:
    """The store in the folder if there is one of this encoder and these settings."""
    try:
        store = EmbeddingStore(folder)
    except StoreError:
        return None
    same = (store.manifest.encoder, store.manifest.revision, store.manifest.long_text)
    return store if same == (encoder.name, encoder.revision, long_text) else None


def plan_encoding(descriptions: DescriptionSet, encoder: TextEncoder, earlier: EmbeddingStore | None) -> EncodingPlan:
    """Decide which texts are encoded in which order; the same input gives the same plan."""
    texts = list({text: None for _, text in descriptions.pairs()})
    hashes = np.asarray([digest(text) for text in texts], dtype="S32")
    known = np.full(len(texts), -1, dtype=np.int64)
    if earlier:
        stored = {value: row for row, value in enumerate(np.load(earlier.layout.texts).tolist())}
        known = np.asarray([stored.get(value, -1) for value in hashes.tolist()], dtype=np.int64)
    tokens = count_all_tokens(texts, encoder)
    order = np.lexsort((hashes, -tokens, known < 0))
    return EncodingPlan([texts[i] for i in order], [hashes[i].decode() for i in order], tokens[order], known[order])


def count_all_tokens(texts: Sequence[str], encoder: TextEncoder, step: int = 4096) -> np.ndarray:
    """Token counts of all texts, int64 [M]."""
    counts = [
        count for start in range(0, len(texts), step) for count in encoder.count_tokens(texts[start : start + step])
    ]
    return np.asarray(counts, dtype=np.int64)


def encode_texts(
    plan: EncodingPlan,
    encoder: TextEncoder,
    layout: EmbeddingLayout,
    earlier: EmbeddingStore | None,
    long_text: LongText,
    batch_size: int,
) -> None:
    """Fill `vectors.npy` chunk by chunk."""

    def compute(rows: slice) -> np.ndarray:
        vectors = np.empty((rows.stop - rows.start, encoder.width), dtype=np.float32)
        known = plan.known[rows]
        if earlier and (known >= 0).any():
            vectors[known >= 0] = earlier.vectors[known[known >= 0]]
        new = np.flatnonzero(known < 0)
        for start in range(0, len(new), batch_size):
            batch = new[start : start + batch_size]
            vectors[batch] = encode_batch([plan.texts[rows.start + i] for i in batch], encoder, long_text)
        return vectors

    shape = (len(plan.texts), encoder.width)
    identity = digest(encoder.name, encoder.revision, long_text, str(batch_size), *plan.hashes)
    steps = fill_array(layout.vectors, shape, "float16", batch_size * BATCHES_PER_CHUNK, identity, compute)
    console.follow(f"Embed {len(plan.texts):,} texts", len(plan.texts), steps)


def encode_batch(texts: Sequence[str], encoder: TextEncoder, long_text: LongText) -> np.ndarray:
    """Unit vectors [B, D] of a batch; long texts are cut into chunks and pooled if so wished."""
    if long_text == "truncate":
        return encoder.encode(texts)
    chunks = [
        split_text(text, encoder.max_tokens, encoder.count_tokens) if count > encoder.max_tokens else [text]
        for text, count in zip(texts, encoder.count_tokens(texts), strict=True)
    ]
    flat = [chunk for parts in chunks for chunk in parts]
    weights = np.asarray(encoder.count_tokens(flat), dtype=np.float32)[:, None]
    starts = np.cumsum([0, *(len(parts) for parts in chunks[:-1])])
    vectors = np.concatenate([encoder.encode(flat[at : at + len(texts)]) for at in range(0, len(flat), len(texts))])
    pooled = np.add.reduceat(vectors * weights, starts, axis=0)
    lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
    return np.asarray(pooled / np.maximum(lengths, 1e-12), dtype=np.float32)


def finish_store(
    plan: EncodingPlan, descriptions: DescriptionSet, encoder: TextEncoder, layout: EmbeddingLayout, long_text: LongText
) -> None:
    """Write the index and, last, the manifest."""
    index = index_texts(plan.texts, descriptions)
    save_array(layout.texts, np.asarray(plan.hashes, dtype="S32"))
    save_array(layout.ids, index.ids)
    save_array(layout.offsets, index.offsets)
    save_array(layout.rows, index.rows)
    too_long = plan.tokens > encoder.max_tokens
    manifest = Manifest(
        encoder=encoder.name,
        revision=encoder.revision,
        width=encoder.width,
        max_tokens=encoder.max_tokens,
        long_text=long_text,
        text_hash=descriptions.text_hash,
        images=len(index.ids),
        distinct_texts=len(plan.texts),
        texts=len(index.rows),
        truncated=int(too_long.sum()) if long_text == "truncate" else 0,
        longest=longest_texts(index, plan.tokens, encoder.max_tokens),
    )
    write_json(layout.manifest, manifest.to_dict())


class TextIndex(NamedTuple):
    """Which vectors are whose: `ids`, `offsets` and `rows` of `EmbeddingLayout`."""

    ids: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray


def index_texts(texts: Sequence[str], descriptions: DescriptionSet) -> TextIndex:
    """Find each image's texts among the distinct texts [M]."""
    row_of = {text: row for row, text in enumerate(texts)}
    pairs = list(descriptions.pairs())
    rows = np.asarray([row_of[text] for _, text in pairs], dtype=np.int64)
    ids, starts = np.unique(np.asarray([image_id for image_id, _ in pairs], dtype="S32"), return_index=True)
    return TextIndex(ids, np.append(starts, len(pairs)).astype(np.int64), rows)


def longest_texts(index: TextIndex, tokens: np.ndarray, max_tokens: int) -> dict[str, int]:
    """The images whose longest text, of `tokens` [M] tokens by row, goes furthest beyond what is read."""
    most = np.maximum.reduceat(tokens[index.rows], index.offsets[:-1])
    longest = sorted(zip(most.tolist(), index.ids.tolist(), strict=True), reverse=True)[:SHOWN_LONGEST]
    return {image_id.decode(): count for count, image_id in longest if count > max_tokens}


def report_truncation(store: EmbeddingStore) -> None:
    """Tell the person how many texts were cut, and the worst of them."""
    manifest = store.manifest
    if not manifest.truncated:
        return
    worst = ", ".join(f"{image_id[:12]} ({tokens:,})" for image_id, tokens in manifest.longest.items())
    console.say(
        f"{manifest.truncated:,} of {manifest.distinct_texts:,} texts are longer than the "
        f"{manifest.max_tokens} tokens that "
        f"{manifest.encoder} reads and were cut; the longest (image, tokens): {worst}. To read them whole: "
        "--long-text pool.",
        style="yellow",
    )
