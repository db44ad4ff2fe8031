"""Where the texts that are checked come from: the description store, or a column or file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.images.table import SPLITS, ImageTable


@dataclass(frozen=True, slots=True)
class CheckedText:
    """One description.

    Attributes:
        image_id: the image, 32 hex digits.
        text: the description.
        path: the image as the source names it.
        label: its class, -1 where it has none or several.
        key: key in the description store, None where it is not from there.
        prompt: the prompt strategy it answers, None where it is not known.
        model: the model that wrote it, None where it is not known.
        finish_reason: why the answer ended, as the server said, None where it is not known.
        told: whether the prompt said the class, None where that is not known.
    """

    image_id: str
    text: str
    path: str = ""
    label: int = -1
    key: str | None = None
    prompt: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    told: bool | None = None

    def with_text(self, text: str) -> CheckedText:
        """The same with another text."""
        return replace(self, text=text)


TELLING = frozenset({"class", "neighbours"})


"""Placeholders that say the class."""


@dataclass(frozen=True)
class ImageFacts:
    """The distinct images of a table.

    Attributes:
        images: the table.
    """

    images: ImageTable

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Position in the table of each image by id; the first of its copies."""
        ids, first = np.unique(self.images.ids, return_index=True)
        return dict(zip((image_id.decode() for image_id in ids.tolist()), first.tolist(), strict=True))

    @cached_property
    def labels(self) -> np.ndarray:
        """Label of each row of the table, int32 [N]; -1 also for images whose copies have different labels."""
        ids, labels = self.images.ids, self.images.labels
        _, of = np.unique(ids, return_inverse=True)
        highest, lowest = np.full(of.max() + 1, -1), np.full(of.max() + 1, np.iinfo(np.int32).max)
        np.maximum.at(highest, of, labels)
        np.minimum.at(lowest, of, labels)
        return np.where(highest == lowest, highest, -1)[of].astype(np.int32)

    @cached_property
    def conflicting(self) -> int:
        """Number of distinct images whose copies have different labels."""
        return len(np.unique(self.images.ids[(self.labels < 0) & (self.images.labels >= 0)]))

    @cached_property
    def _paths(self) -> list[str]:
        paths: list[str] = self.images.rows["path"].to_pylist()
        return paths

    def text(self, image_id: str, text: str = "", **known: str | bool | None) -> CheckedText:
        """A text of an image with what is known of the image."""
        row = self.rows[image_id]
        return CheckedText(image_id, text, self._paths[row], int(self.labels[row]), **known)  # type: ignore[arg-type]

    def of_splits(self, splits: Iterable[str]) -> set[str]:
        """Ids of the images of some splits."""
        rows = np.concatenate([self.images.split(split) for split in splits])
        return {image_id.decode() for image_id in self.images.ids[rows].tolist()}


@dataclass(frozen=True)
class Collected:
    """Texts to be checked.

    Attributes:
        source: where they come from.
        texts: the texts.
        wanted: ids of the images that were to be described.
        missing: images that have no text, each with the reason.
        failed: requests that failed and have no answer, by reason.
    """

    source: str
    texts: list[CheckedText]
    wanted: set[str]
    missing: list[tuple[CheckedText, str]]
    failed: Mapping[str, int]


def collect_given(
    descriptions: DescriptionSet, facts: ImageFacts, splits: Sequence[str] | None, told: bool | None
) -> Collected:
    """The texts of a description set.

    Args:
        descriptions: the texts.
        facts: the images.
        splits: splits that were to be described; those that have a text when not given.
        told: whether the class was known when they were written, None where that is not known.
    """
    wanted = choose_wanted(facts, splits, {image_id for image_id, _ in descriptions.pairs()})
    texts = [facts.text(i, text, told=told) for i, text in descriptions.pairs() if i in wanted]
    missing = [(facts.text(i), "no text") for i in sorted(wanted - {text.image_id for text in texts})]
    return Collected(descriptions.source, texts, wanted, missing, {})


def collect_stored(
    store: DescriptionStore,
    facts: ImageFacts,
    splits: Sequence[str] | None,
    strategies: Sequence[Prompt],
    told: bool | None,
) -> Collected:
    """The texts of a description store that count.

    Args:
        store: the texts.
        facts: the images; texts of others are left out.
        splits: splits that were to be described; those of which anything was asked when not given.
        strategies: prompts that are known.
        told: whether other prompts say the class, None where that is not known.
    """
    known = {strategy.hash: bool(strategy.placeholders & TELLING) for strategy in strategies}
    everything = [record for record in store.current(dropped=True) if record.image_id in facts.rows]
    wanted = choose_wanted(facts, splits, {record.image_id for record in everything})
    counting = {record.key for record in store.current()}
    records = [record for record in everything if record.image_id in wanted]
    answers = [record for record in records if record.answered and record.key in counting]
    texts = [
        facts.text(
            record.image_id,
            record.text,
            key=record.key,
            prompt=record.prompt,
            model=record.model,
            finish_reason=record.finish_reason,
            told=known.get(record.prompt_hash, told),
        )
        for record in answers
    ]
    failed = Counter(record.error for record in records if record.error is not None)
    lost = wanted - {record.image_id for record in answers}
    return Collected("description store", texts, wanted, list(explain(lost, records, facts)), failed)


def explain(
    lost: set[str], records: Iterable[DescriptionRecord], facts: ImageFacts
) -> Iterable[tuple[CheckedText, str]]:
    """Why images have no text: a failure, a mark, or that nothing was ever asked."""
    asked = set()
    for record in records:
        if record.image_id in lost:
            asked.add(record.image_id)
            text = facts.text(record.image_id, key=record.key, prompt=record.prompt, model=record.model)
            yield text, record.error or "its text was dropped or is to be written again"
    for image_id in sorted(lost - asked):
        yield facts.text(image_id), "never asked"


def choose_wanted(facts: ImageFacts, splits: Sequence[str] | None, touched: set[str]) -> set[str]:
    """Ids of the images that were to be described: those of the splits, or of all splits that have a touched image."""
    if splits is not None:
        return facts.of_splits(splits)
    rows = np.asarray([facts.rows[image_id] for image_id in touched], dtype=np.int64)
    there = set(facts.images.rows["split"].take(rows).to_pylist())
    return facts.of_splits([split for split in SPLITS if split in there]) if there else set()
