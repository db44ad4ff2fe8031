"""Descriptions to vectors: encode each distinct text once, in batches of similar length, resumably.

A store is built in `<folder>.building` and renamed when complete. The vectors fill up chunk by chunk (`fill_array`), in
an order that depends only on the input, so a resumed run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core import console
from gpt4image.core.errors import DescriptionError, StoreError
from gpt4image.core.files import digest, exclusive, fill_array, replace_folder, save_array
from gpt4image.core.format import counted
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.descriptions.store.latest import to_keys
from gpt4image.embed.encoders import TextEncoder
from gpt4image.embed.store import EmbeddingLayout, EmbeddingManifest, EmbeddingStore

LongText = Literal["truncate", "pool"]
CountTokens = Callable[[Sequence[str]], list[int]]

BATCHES_PER_CHUNK = 8
"""Batches between two durable writes."""
SHOWN_LONGEST = 5
"""Images named when texts are truncated."""


def embed_descriptions(
    descriptions: DescriptionSet,
    encoder: TextEncoder,
    folder: str | Path,
    *,
    long_text: LongText = "truncate",
    batch_size: int = 64,
    known: EmbeddingStore | None = None,
) -> EmbeddingStore:
    """Encode a description set into an embedding store, or open the store that already holds it.

    Texts that an earlier store in the folder contains are copied, not encoded again.

    Args:
        descriptions: the texts.
        encoder: turns texts into vectors.
        folder: the store's folder.
        long_text: `truncate` encodes the beginning of a long text; `pool` encodes it in chunks and averages their
            vectors, weighted by tokens.
        batch_size: texts per batch.
        known: vectors by the same encoder to copy, if the folder holds no store yet.

    Raises:
        DescriptionError: there is no text at all.
    """
    folder = Path(folder)
    if not len(descriptions):
        raise DescriptionError(f"{descriptions.source}: no image has a text, so there is nothing to embed.")
    with exclusive(folder.parent / f"{folder.name}.lock", f"the embeddings in {folder}", wait=True):
        building = EmbeddingLayout(folder.with_name(folder.name + ".building"))
        if building.manifest.exists():  # complete; the process was killed before the rename
            replace_folder(building.folder, folder)
        earlier = _open_if_same_encoder(folder, encoder, long_text)
        if earlier and earlier.manifest.text_hash == descriptions.text_hash:
            return earlier
        earlier = earlier or (known and _open_if_same_encoder(known.layout.folder, encoder, long_text))
        plan = plan_encoding(descriptions, encoder, earlier)
        _encode_texts(plan, encoder, building, earlier, long_text, batch_size)
        _write_index(plan, descriptions, encoder, building, long_text)
        replace_folder(building.folder, folder)
    store = EmbeddingStore(folder)
    _report_truncation(store.manifest)
    return store


def _open_if_same_encoder(folder: Path, encoder: TextEncoder, long_text: LongText) -> EmbeddingStore | None:
    try:
        store = EmbeddingStore(folder)
    except StoreError:
        return None
    same = (store.manifest.encoder, store.manifest.revision, store.manifest.long_text)
    return store if same == (encoder.name, encoder.revision, long_text) else None


class EncodingPlan(NamedTuple):
    """The distinct texts in encoding order: known ones first, then by decreasing length.

    Attributes:
        texts: distinct texts [M].
        hashes: their hashes, S32 [M].
        tokens: their token counts, int64 [M].
        known: row of each text in the earlier store, int64 [M]; -1 for texts to be encoded.
    """

    texts: list[str]
    hashes: np.ndarray
    tokens: np.ndarray
    known: np.ndarray


def plan_encoding(descriptions: DescriptionSet, encoder: TextEncoder, earlier: EmbeddingStore | None) -> EncodingPlan:
    """Decide in which order to encode the distinct texts; the same input gives the same plan."""
    texts: list[str] = descriptions.rows["text"].unique().to_pylist()
    hashes = np.asarray([digest(text) for text in texts], dtype="S32")
    stored = {value: row for row, value in enumerate(np.load(earlier.layout.texts).tolist())} if earlier else {}
    known = np.asarray([stored.get(value, -1) for value in hashes.tolist()], dtype=np.int64)
    tokens = count_all_tokens(texts, encoder)
    # Long texts first: batches of similar length need little padding, and running out of memory shows immediately.
    order = np.lexsort((hashes, -tokens, known < 0))
    return EncodingPlan([texts[i] for i in order], hashes[order], tokens[order], known[order])


def count_all_tokens(texts: Sequence[str], encoder: TextEncoder, step: int = 4096) -> np.ndarray:
    """Return the token count of each text, int64 [M]."""
    counts = [
        count for start in range(0, len(texts), step) for count in encoder.count_tokens(texts[start : start + step])
    ]
    return np.asarray(counts, dtype=np.int64)


def _encode_texts(
    plan: EncodingPlan,
    encoder: TextEncoder,
    layout: EmbeddingLayout,
    earlier: EmbeddingStore | None,
    long_text: LongText,
    batch_size: int,
) -> None:
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
    hashes = (value.decode() for value in plan.hashes.tolist())
    identity = digest(encoder.name, encoder.revision, long_text, str(batch_size), *hashes)
    steps = fill_array(layout.vectors, shape, "float16", batch_size * BATCHES_PER_CHUNK, identity, compute)
    console.follow(f"Embed {counted(len(plan.texts), 'text')}", len(plan.texts), steps)


def encode_batch(texts: Sequence[str], encoder: TextEncoder, long_text: LongText) -> np.ndarray:
    """Encode a batch of texts to unit vectors [B, D]; with `pool`, long texts in chunks that are averaged."""
    if long_text == "truncate":
        return encoder.encode(texts)
    chunks = [
        split_text(text, encoder.max_tokens, encoder.count_tokens) if count > encoder.max_tokens else [text]
        for text, count in zip(texts, encoder.count_tokens(texts), strict=True)
    ]
    flat = [chunk for parts in chunks for chunk in parts]
    weights = np.asarray(encoder.count_tokens(flat), dtype=np.float32)[:, None]  # [chunks, 1]
    starts = np.cumsum([0, *(len(parts) for parts in chunks[:-1])])  # first chunk of each text
    vectors = np.concatenate([encoder.encode(flat[at : at + len(texts)]) for at in range(0, len(flat), len(texts))])
    pooled = np.add.reduceat(vectors * weights, starts, axis=0)  # [chunks, D] -> [B, D]
    lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
    return np.asarray(pooled / np.maximum(lengths, 1e-12), dtype=np.float32)


def split_text(text: str, max_tokens: int, count_tokens: CountTokens) -> list[str]:
    """Split a text into chunks of at most `max_tokens` tokens each, special tokens included.

    Chunks consist of whole words, except for single words that are too long, as in scripts without spaces.

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
    # Joined words can have more tokens than the sum over single words, so every chunk is measured again.
    return [piece for chunk in joined for piece in halve(chunk, max_tokens, count_tokens)]


def halve(text: str, max_tokens: int, count_tokens: CountTokens) -> list[str]:
    """Halve a text until every piece fits or is a single character.

    >>> halve("abcdefg", 4, lambda texts: [len(t) + 2 for t in texts])
    ['a', 'bc', 'de', 'fg']
    """
    if len(text) <= 1 or count_tokens([text])[0] <= max_tokens:
        return [text]
    middle = len(text) // 2
    return [*halve(text[:middle], max_tokens, count_tokens), *halve(text[middle:], max_tokens, count_tokens)]


def _write_index(
    plan: EncodingPlan, descriptions: DescriptionSet, encoder: TextEncoder, layout: EmbeddingLayout, long_text: LongText
) -> None:
    """Write which vectors belong to which image and, last, the manifest."""
    found = pc.index_in(descriptions.rows["text"], value_set=pa.array(plan.texts, pa.string()))
    rows = found.to_numpy().astype(np.int64)
    all_ids = np.concatenate([to_keys(chunk) for chunk in descriptions.rows["id"].chunks])  # sorted
    ids, starts = np.unique(all_ids, return_index=True)
    save_array(layout.texts, plan.hashes)
    save_array(layout.ids, ids)
    save_array(layout.offsets, np.append(starts, len(rows)).astype(np.int64))
    save_array(layout.rows, rows)
    longest = np.maximum.reduceat(plan.tokens[rows], starts)  # tokens of each image's longest text [N]
    worst = sorted(zip(longest.tolist(), ids.tolist(), strict=True), reverse=True)[:SHOWN_LONGEST]
    EmbeddingManifest(
        encoder=encoder.name,
        revision=encoder.revision,
        width=encoder.width,
        max_tokens=encoder.max_tokens,
        long_text=long_text,
        text_hash=descriptions.text_hash,
        images=len(ids),
        distinct_texts=len(plan.texts),
        texts=len(rows),
        truncated=int((plan.tokens > encoder.max_tokens).sum()) if long_text == "truncate" else 0,
        longest={image_id.decode(): count for count, image_id in worst if count > encoder.max_tokens},
    ).save(layout.manifest)


def _report_truncation(manifest: EmbeddingManifest) -> None:
    if not manifest.truncated:
        return
    worst = ", ".join(f"{image_id[:12]} ({tokens:,})" for image_id, tokens in manifest.longest.items())
    console.say(
        f"{manifest.truncated:,} of {manifest.distinct_texts:,} texts are longer than the {manifest.max_tokens} "
        f"tokens that {manifest.encoder} reads and were truncated; the longest (image, tokens): {worst}. To encode "
        "them in full, set long_text to pool (--long-text pool).",
        style="yellow",
    )
