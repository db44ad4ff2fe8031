"""What was described, as a description set: the texts of a store, of all prompts and models or of some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.describe.descriptions import DescriptionSet, join_texts
from gpt4image.describe.sharing.lookup import ImageLookup
from gpt4image.describe.store import DescriptionStore
from gpt4image.errors import ConfigError, DescriptionError
from gpt4image.images.table import ImageTable
from gpt4image.seams import unknown_name

ORDER = ("image_id", "prompt", "prompt_hash", "model", "sample", "key")
SCHEMA = pa.schema({**dict.fromkeys(ORDER, pa.string()), "sample": pa.int32(), "text": pa.large_string()})

PAIRS_AT_ONCE = 65_536


def described_set(
    store: DescriptionStore, images: ImageTable, *, prompts: Sequence[str] = (), models: Sequence[str] = ()
) -> DescriptionSet:
    """The texts of a store for some images, in the order of prompt, model and sample; dropped ones are left out.

    Args:
        store: the descriptions.
        images: the images. Texts of others are counted as orphans.
        prompts: names of the prompts whose texts are wanted; none for all.
        models: names of the models whose texts are wanted; none for all.

    Raises:
        ConfigError: no text has that prompt or model; the message lists those that there are.
        DescriptionError: the store holds no text.
    """
    texts = pa.Table.from_batches(answered_batches(store), SCHEMA)
    if not len(texts):
        raise DescriptionError(f"{store.folder} holds no descriptions. Write some: gpt4image describe.")
    chosen = np.ones(len(texts), dtype=bool)
    for column, wanted in (("prompt", prompts), ("model", models)):
        check_names(column, wanted, pc.unique(texts[column]).to_pylist())
        if wanted:
            chosen &= pc.is_in(texts[column], pa.array(wanted, pa.string())).to_numpy()
    there = ImageLookup(images).find(texts["image_id"]) >= 0
    pairs = ordered_pairs(texts, chosen & there)
    return join_texts(images, pairs, int((chosen & ~there).sum()), f"descriptions of {store.folder.parent}")


def ordered_pairs(texts: pa.Table, wanted: np.ndarray) -> Iterator[tuple[str, str]]:
    """(image id, text) of the wanted rows, bool [N], in order; a few texts at a time become objects."""
    order = pc.sort_indices(texts.select(ORDER), [(column, "ascending") for column in ORDER]).to_numpy()
    order = order[wanted[order]]
    for start in range(0, len(order), PAIRS_AT_ONCE):
        part = texts.take(pa.array(order[start : start + PAIRS_AT_ONCE]))
        yield from zip(part["image_id"].to_pylist(), part["text"].to_pylist(), strict=True)


def answered_batches(store: DescriptionStore) -> Iterator[pa.RecordBatch]:
    """The texts that count, with what chooses and orders them."""
    for batch in store.current_batches():
        yield batch.filter(batch["error"].is_null()).select(SCHEMA.names).cast(SCHEMA)


def check_names(what: str, wanted: Iterable[str], known: list[str]) -> None:
    """ConfigError for a name that no text has."""
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{unknown_name(what, name, known)} These are what the descriptions have.")
