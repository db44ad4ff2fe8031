"""Descriptions joined to images by image id, and how well they cover them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpt4image.core.errors import ConfigError, DescriptionError
from gpt4image.core.files import atomic_write, digest_of
from gpt4image.core.format import counted
from gpt4image.core.registry import unknown_name
from gpt4image.descriptions.picks import PickedClasses
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.description_store import contains
from gpt4image.descriptions.store.latest import find_sorted, to_keys
from gpt4image.descriptions.store.shards import BATCH_ROWS
from gpt4image.images.table import SPLITS, ImageTable
from gpt4image.llm.chat import is_other_model

Origin = tuple[str, str]
"""Prompt and model of a text."""


@dataclass(frozen=True)
class Coverage:
    """How well descriptions cover the images.

    Attributes:
        with_text: number of images with a text, by split.
        without_text: number of images without one, by split; they train on cross-entropy alone.
        orphans: number of texts that match no image.
        repeated: number of texts shared by several distinct images.
        texts: number of texts with an image.
        most_texts: the largest number of texts of one image.
    """

    with_text: Mapping[str, int]
    without_text: Mapping[str, int]
    orphans: int
    repeated: int
    texts: int
    most_texts: int

    def line(self) -> str:
        """Summarise the coverage in one line."""
        have, lack = sum(self.with_text.values()), sum(self.without_text.values())
        splits = ", ".join(
            f"{name} {self.with_text[name]:,}/{self.with_text[name] + self.without_text[name]:,}"
            for name in SPLITS
            if self.with_text[name] + self.without_text[name]
        )
        several = f"{self.texts:,} texts, up to {self.most_texts:,} per image; " if self.most_texts > 1 else ""
        return (
            f"descriptions: {have:,} of {counted(have + lack, 'image')} with a text ({splits}), {lack:,} without; "
            f"{several}{counted(self.orphans, 'text')} without an image, {counted(self.repeated, 'text')} on several "
            "images"
        )


@dataclass(frozen=True)
class DescriptionSet:
    """The texts of images, one or several each. Its length is the number of images with a text.

    Attributes:
        rows: columns `id` (image id, 32 hex digits, sorted; one row per text) and `text`. The texts of an image are
            distinct and keep the order of their source.
        source: origin of the texts, as the user named it.
        coverage: how well they cover the images.
        origins: number of texts by prompt and model; empty for texts that `describe` did not write.
        trials: the same for excluded trials.
        costs: US dollars paid for the texts by prompt and model, where the price was known.
        picks: classes that models picked for the images, if any.
    """

    rows: pa.Table
    source: str
    coverage: Coverage
    origins: Mapping[Origin, int] = field(default_factory=dict)
    trials: Mapping[Origin, int] = field(default_factory=dict)
    costs: Mapping[Origin, float] = field(default_factory=dict)
    picks: PickedClasses | None = None

    def __len__(self) -> int:
        return len(self._first_texts)

    @property
    def texts(self) -> int:
        """Number of texts."""
        return int(self.rows.num_rows)

    def lines(self) -> list[str]:
        """Summarise the origin and the coverage of the texts, a line each."""
        lines = [self.coverage.line()]
        if self.origins:
            lines.append(f"texts: {describe_origins(self.origins)}")
        elif self.texts:
            lines.append(f"texts: {self.source}")
        if self.trials:
            lines.append(f"left out: {describe_origins(self.trials)}: trials that were never run in full")
        return lines if self.picks is None else [*lines, self.picks.line()]

    @cached_property
    def text_hash(self) -> str:
        """Hash of all ids and texts; equal sets have equal hashes."""
        return digest_of(part for row in self.pairs() for part in row)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield all pairs (image id, text), sorted by image id."""
        for batch in self.rows.select(["id", "text"]).to_batches(max_chunksize=BATCH_ROWS):
            yield from zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True)

    def texts_of(self, ids: Iterable[str]) -> list[str | None]:
        """Return the first text of each image, or None."""
        return [self._first_texts.get(image_id) for image_id in ids]

    @cached_property
    def _first_texts(self) -> dict[str, str]:
        return dict(reversed(list(self.pairs())))

    def save(self, path: Path) -> None:
        """Write the texts as Parquet, atomically."""
        with atomic_write(path) as file:
            pq.write_table(self.rows, file)


def join_texts(images: ImageTable, found: Iterable[tuple[str, str]], orphans: int, source: str) -> DescriptionSet:
    """Build a description set from pairs (image id, text), dropping empty texts and repeats on the same image."""
    distinct = dict.fromkeys((image_id, text) for image_id, text in found if text.strip())
    pairs = sorted(distinct, key=itemgetter(0))
    ids, texts = ([pair[column] for pair in pairs] for column in (0, 1))
    rows = pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})
    return DescriptionSet(rows, source, measure_coverage(images, pairs, orphans))


def measure_coverage(images: ImageTable, pairs: Sequence[tuple[str, str]], orphans: int) -> Coverage:
    """Count the images with a text by split; `pairs` are distinct (image id, text)."""
    texts_of = Counter(image_id for image_id, _ in pairs)
    has_text = np.asarray([image_id in texts_of for image_id in images.rows["id"].to_pylist()], dtype=bool)
    counts = {name: has_text[images.split(name)] for name in SPLITS}
    return Coverage(
        with_text={name: int(has.sum()) for name, has in counts.items()},
        without_text={name: int((~has).sum()) for name, has in counts.items()},
        orphans=orphans,
        repeated=sum(images_with > 1 for images_with in Counter(text for _, text in pairs).values()),
        texts=len(pairs),
        most_texts=max(texts_of.values(), default=0),
    )


class ImageLookup:
    """Find images by id.

    Attributes:
        images: the images.
        rows: positions of the distinct images in the table, int64 [n]; of copies, the first.
    """

    def __init__(self, images: ImageTable) -> None:
        self.images = images
        self._ids, self.rows = np.unique(images.ids, return_index=True)

    def find(self, ids: pa.Array) -> np.ndarray:
        """Return the positions of image ids in the table, int64 [N]; -1 for unknown ids."""
        at = find_sorted(self._ids, to_keys(ids))
        at[at >= 0] = self.rows[at[at >= 0]]
        return at

    def facts(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """Return path, class name (or names) and split of the images at positions [N]."""
        taken = self.images.rows.select(["path", "split"]).take(pa.array(rows))
        if self.images.has_label_sets:
            labels = self.images.rows["label"].take(pa.array(rows)).to_pylist()
            names = pa.array([self.images.label_name(label) for label in labels], pa.string())
        else:
            numbers = self.images.labels[rows]
            names = pa.array(self.images.classes, pa.string()).take(pa.array(numbers, mask=numbers < 0))
        return {
            "path": taken["path"].combine_chunks(),
            "label": names,
            "split": taken["split"].combine_chunks(),
        }

    @cached_property
    def splits(self) -> np.ndarray:
        """Split of each image in the table, [N]."""
        return np.asarray(self.images.rows["split"].to_numpy(), dtype=str)


TEXT_ORDER = ("image_id", "prompt", "prompt_hash", "model", "sample", "key")


TEXT_SCHEMA = pa.schema(
    {
        **dict.fromkeys((*TEXT_ORDER, "served_model"), pa.string()),
        "sample": pa.int32(),
        "text": pa.large_string(),
        "cost": pa.float64(),
    }
)


PAIRS_AT_ONCE = 65_536


def described_set(
    store: DescriptionStore, images: ImageTable, *, prompts: Sequence[str] = (), models: Sequence[str] = ()
) -> DescriptionSet:
    """Collect the stored texts of an image set, sorted by prompt, model and sample.

    Texts that were marked to be dropped are excluded. So are trials, that is, texts of a prompt or model that was only
    sampled and never run in full, unless it is named.

    Args:
        store: the descriptions.
        images: the images. Texts of other images count as orphans.
        prompts: use only texts of these prompts; empty for all.
        models: use only texts of these models; empty for all.

    Raises:
        ConfigError: no text has that prompt or model; the message lists the known ones.
        DescriptionError: the store has no texts, or only trials.
    """
    texts = pa.Table.from_batches(answered_batches(store), TEXT_SCHEMA)
    if not len(texts):
        picks = any(len(batch.filter(batch["pick"].is_valid())) for batch in store.current_batches())
        more = ", only classes picked by a model (train on them without texts: --text none --arms llm-labels)"
        raise DescriptionError(f"{store.folder} holds no descriptions{more * picks}. Write some: gpt4image describe.")
    trial = contains(store.trial_keys(), to_keys(texts["key"]))
    chosen, named = np.ones(len(texts), dtype=bool), np.zeros(len(texts), dtype=bool)
    for column, wanted in (("prompt", prompts), ("model", models)):
        check_names(column, wanted, pc.unique(texts[column]).to_pylist())
        if wanted:
            is_wanted = pc.is_in(texts[column], pa.array(wanted, pa.string()))
            chosen &= is_wanted.to_numpy()
            run_in_full = pc.unique(texts[column].filter(pa.array(~trial)))
            named |= pc.and_(is_wanted, pc.invert(pc.is_in(texts[column], run_in_full))).to_numpy()
    used = chosen & (~trial | named)
    if chosen.any() and not used.any():
        raise only_trials(store, count_origins(texts, chosen))
    there = ImageLookup(images).find(texts["image_id"]) >= 0
    pairs = ordered_pairs(texts, used & there)
    joined = join_texts(images, pairs, int((used & ~there).sum()), f"descriptions of {store.folder.parent}")
    texts = name_substitutes(texts)
    trials = count_origins(texts, chosen & ~used)
    origins, costs = count_origins(texts, used & there), add_costs(texts.filter(pa.array(used & there)))
    return replace(joined, origins=origins, trials=trials, costs=costs)


def name_substitutes(texts: pa.Table) -> pa.Table:
    """Return the texts with the serving model added to the model name, if the server used another model."""
    pairs = list(zip(texts["model"].to_pylist(), texts["served_model"].fill_null("").to_pylist(), strict=True))
    names = {pair: f"{pair[0]}, answered by {pair[1]}" if is_other_model(*pair) else pair[0] for pair in set(pairs)}
    return texts.set_column(texts.schema.get_field_index("model"), "model", [[names[pair] for pair in pairs]])


def count_origins(texts: pa.Table, wanted: np.ndarray) -> dict[Origin, int]:
    """Count the wanted rows, bool [N], by prompt and model."""
    pairs = zip(*(texts[column].filter(pa.array(wanted)).to_pylist() for column in ("prompt", "model")), strict=True)
    return dict(sorted(Counter(pairs).items()))


def add_costs(texts: pa.Table) -> dict[Origin, float]:
    """Add up the known costs of texts by prompt and model."""
    priced = texts.filter(pc.is_valid(texts["cost"]))
    sums = priced.group_by(["prompt", "model"]).aggregate([("cost", "sum")])
    return {(row["prompt"], row["model"]): row["cost_sum"] for row in sums.to_pylist()}


def describe_origins(counts: Mapping[Origin, int]) -> str:
    """Return counts of texts by prompt and model in words."""
    return ", ".join(
        prompt + (f" by {model}" if model else "") + f" ({count:,})" for (prompt, model), count in counts.items()
    )


def only_trials(store: DescriptionStore, trials: Mapping[Origin, int]) -> DescriptionError:
    """Return the error for a selection that consists of trials only."""
    prompts = " ".join(dict.fromkeys(prompt for prompt, _ in trials))
    return DescriptionError(
        f"{store.folder} holds only trials: {describe_origins(trials)}. Describe all images (gpt4image describe), or "
        f"use the trials: set use_prompts (--use-prompts {prompts})."
    )


def ordered_pairs(texts: pa.Table, wanted: np.ndarray) -> Iterator[tuple[str, str]]:
    """Yield (image id, text) of the wanted rows, bool [N], sorted, converting a few texts at a time."""
    order = pc.sort_indices(texts.select(TEXT_ORDER), [(column, "ascending") for column in TEXT_ORDER]).to_numpy()
    order = order[wanted[order]]
    for start in range(0, len(order), PAIRS_AT_ONCE):
        part = texts.take(pa.array(order[start : start + PAIRS_AT_ONCE]))
        yield from zip(part["image_id"].to_pylist(), part["text"].to_pylist(), strict=True)


def answered_batches(store: DescriptionStore) -> Iterator[pa.RecordBatch]:
    """Yield the current texts, with trials but without picks, and the columns that select and sort them."""
    for batch in store.current_batches(trials=True):
        yield batch.filter(is_description(batch)).select(TEXT_SCHEMA.names).cast(TEXT_SCHEMA)


def has_texts(store: DescriptionStore) -> bool:
    """Return whether a store has a description that is not a trial."""
    return any(len(batch.filter(is_description(batch))) for batch in store.current_batches())


def is_description(batch: pa.RecordBatch) -> pa.Array:
    """Return which records are texts: neither failures nor picked classes."""
    return pc.and_(batch["error"].is_null(), batch["pick"].is_null())


def check_names(what: str, wanted: Iterable[str], known: list[str]) -> None:
    """Raise `ConfigError` for an unknown name."""
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{unknown_name(what, name, known)} These occur in the descriptions.")
