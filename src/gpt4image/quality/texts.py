"""The texts under check, collected from the description store or from a column or file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gpt4image.core.errors import DescriptionError
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.prompt import CLASS_PLACEHOLDERS
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.images.table import SPLITS, ImageTable
from gpt4image.llm.chat import is_other_model
from gpt4image.llm.errors import commonest


@dataclass(frozen=True, slots=True)
class CheckedText:
    """One description, with what is known about its image and its origin.

    Attributes:
        image_id: the image, 32 hex digits.
        text: the description; empty for an image without one.
        path: path of the image within its source.
        label: class of the image, -1 for none or several.
        key: key in the description store, None for texts from elsewhere.
        prompt: name of the prompt, None if unknown.
        model: the model that wrote the text, None if unknown.
        finish_reason: the server's reason for the end of the answer, None if unknown.
        class_in_prompt: whether the prompt named the class, None if unknown.
    """

    image_id: str
    text: str
    path: str = ""
    label: int = -1
    key: str | None = None
    prompt: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    class_in_prompt: bool | None = None


@dataclass(frozen=True)
class ImageFacts:
    """The distinct images of a table: copies of an image share one id."""

    images: ImageTable

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Row of each image id in the table; the first one for copies."""
        ids, first = np.unique(self.images.ids, return_index=True)
        return dict(zip((image_id.decode() for image_id in ids.tolist()), first.tolist(), strict=True))

    @cached_property
    def labels(self) -> np.ndarray:
        """Label of each row, int32 [N]; -1 also for images whose copies have different labels."""
        ids, labels = self.images.ids, self.images.labels
        _, image_of = np.unique(ids, return_inverse=True)
        highest, lowest = np.full(image_of.max() + 1, -1), np.full(image_of.max() + 1, np.iinfo(np.int32).max)
        np.maximum.at(highest, image_of, labels)
        np.minimum.at(lowest, image_of, labels)
        return np.where(highest == lowest, highest, -1)[image_of].astype(np.int32)

    @cached_property
    def conflicting(self) -> int:
        """Number of distinct images whose copies have different labels."""
        return len(np.unique(self.images.ids[(self.labels < 0) & (self.images.labels >= 0)]))

    @cached_property
    def _paths(self) -> list[str]:
        paths: list[str] = self.images.rows["path"].to_pylist()
        return paths

    def text(self, image_id: str, text: str = "", **origin: str | bool | None) -> CheckedText:
        """Make a text of an image; `origin` holds the attributes of `CheckedText` from `key` on."""
        row = self.rows[image_id]
        return CheckedText(image_id, text, self._paths[row], int(self.labels[row]), **origin)  # type: ignore[arg-type]

    def in_splits(self, splits: Iterable[str]) -> set[str]:
        """Return the ids of all images in the splits."""
        rows = [self.images.split(split) for split in splits]
        return {image_id.decode() for image_id in self.images.ids[np.concatenate(rows)].tolist()} if rows else set()

    def wanted(self, splits: Sequence[str] | None, described: set[str]) -> set[str]:
        """Return the images that should have a text: by default all in splits where any image is described."""
        if splits is None:
            rows = np.asarray([self.rows[image_id] for image_id in described], dtype=np.int64)
            used = set(self.images.rows["split"].take(rows).to_pylist())
            splits = [split for split in SPLITS if split in used]
        return self.in_splits(splits)


@dataclass(frozen=True)
class CollectedTexts:
    """All texts to check.

    Attributes:
        source: where they come from.
        texts: the texts.
        wanted: ids of the images that should have a text.
        missing: those without one, each with the reason.
        failed: failed requests by reason, and for each reason by message.
        served: texts by model, as the servers named it.
        other_models: those of a model other than the requested one.
        trials: trial texts, which training leaves out.
    """

    source: str
    texts: list[CheckedText]
    wanted: set[str]
    missing: list[tuple[CheckedText, str]]
    failed: Mapping[str, Counter[str]] = field(default_factory=dict)
    served: Counter[str] = field(default_factory=Counter)
    other_models: Counter[str] = field(default_factory=Counter)
    trials: int = 0


def collect_texts(
    source: DescriptionStore | DescriptionSet,
    facts: ImageFacts,
    splits: Sequence[str] | None,
    prompts: Sequence[Prompt],
    class_in_prompt: bool | None,
) -> CollectedTexts:
    """Collect the texts of a description store or set; texts of images outside the table are left out.

    Args:
        source: the store or set.
        facts: the images.
        splits: splits that should be described; by default all splits in which any image is described.
        prompts: the known prompts, which show whether the class was in the prompt.
        class_in_prompt: whether it was for texts with an unknown prompt; None if unknown.

    Raises:
        DescriptionError: there is no text.
    """
    if isinstance(source, DescriptionSet):
        collected = _collect_set(source, facts, splits, class_in_prompt)
    else:
        collected = _collect_store(source, facts, splits, prompts, class_in_prompt)
    if not collected.texts:
        failed = [f"{said.total():,} {reason}{commonest(reason, said)}" for reason, said in collected.failed.items()]
        tried = f"; failed: {'; '.join(failed)}" if failed else ""
        raise DescriptionError(
            f"No text to check in {collected.source}{tried}. Describe images first (gpt4image describe), or pass texts "
            "(--text)."
        )
    return collected


def _collect_set(
    descriptions: DescriptionSet, facts: ImageFacts, splits: Sequence[str] | None, class_in_prompt: bool | None
) -> CollectedTexts:
    pairs = list(descriptions.pairs())
    wanted = facts.wanted(splits, {image_id for image_id, _ in pairs})
    texts = [facts.text(i, text, class_in_prompt=class_in_prompt) for i, text in pairs if i in wanted]
    missing = [(facts.text(i), "no text") for i in sorted(wanted - {text.image_id for text in texts})]
    return CollectedTexts(descriptions.source, texts, wanted, missing)


def _collect_store(
    store: DescriptionStore,
    facts: ImageFacts,
    splits: Sequence[str] | None,
    prompts: Sequence[Prompt],
    class_in_prompt: bool | None,
) -> CollectedTexts:
    with_class = {prompt.hash: bool(prompt.placeholders & CLASS_PLACEHOLDERS) for prompt in prompts}
    picking = {prompt.hash for prompt in prompts if prompt.picks}  # their answers are labels, not texts
    of_picks: list[DescriptionRecord] = []
    records: list[DescriptionRecord] = []
    for record in store.current(dropped=True):
        if record.image_id in facts.rows:
            (of_picks if record.pick or record.prompt_hash in picking else records).append(record)
    wanted = facts.wanted(splits, {record.image_id for record in records})
    records = [record for record in records if record.image_id in wanted]
    kept = {record.key for record in store.current(trials=True)}  # neither dropped nor marked to be written again
    trial_keys = set(store.trial_keys().tolist())
    answers = [record for record in records if record.answered and record.key in kept]
    texts = [
        facts.text(
            record.image_id,
            record.text,
            key=record.key,
            prompt=record.prompt,
            model=record.model,
            finish_reason=record.finish_reason,
            class_in_prompt=with_class.get(record.prompt_hash, class_in_prompt),
        )
        for record in answers
    ]
    failed: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in (*records, *of_picks):
        if record.error is not None:
            failed[record.error][record.detail] += 1
    served = Counter(record.served_model for record in answers if record.served_model)
    pairs = ((record.model, record.served_model) for record in answers)
    other_models = Counter(served for asked, served in pairs if is_other_model(asked, served))
    trials = sum(record.key.encode() in trial_keys for record in answers)
    undescribed = wanted - {record.image_id for record in answers}
    missing = list(_explain_missing(undescribed, records, facts))
    return CollectedTexts("description store", texts, wanted, missing, failed, served, other_models, trials)


def _explain_missing(
    undescribed: set[str], records: Iterable[DescriptionRecord], facts: ImageFacts
) -> Iterable[tuple[CheckedText, str]]:
    """Yield the reason for each missing text: a failure, a mark, or no request at all."""
    asked = set()
    for record in records:
        if record.image_id in undescribed:
            asked.add(record.image_id)
            text = facts.text(record.image_id, key=record.key, prompt=record.prompt, model=record.model)
            yield text, record.error or "its text was dropped or is marked for another try"
    for image_id in sorted(undescribed - asked):
        yield facts.text(image_id), "never requested"
