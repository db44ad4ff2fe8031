"""Classes that a model picked for images (`gpt4image describe --prompts classify`), as one array."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from gpt4image.core.errors import StoreError
from gpt4image.core.files import digest
from gpt4image.core.format import counted
from gpt4image.core.tables import compose
from gpt4image.descriptions.prompts.choices import Pick
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.latest import find_sorted

CLASSIFY = "gpt4image describe DATA --prompts classify"


@dataclass(frozen=True)
class PickedClasses:
    """The classes that models picked for images.

    Attributes:
        ids: image ids, S32 [N], sorted.
        shares: share of an image's answers for each class, float32 [N, C]; the rest of a row, up to 1, is for none of
            the classes. An answer with log-probabilities is spread by probability; one without counts fully for its
            pick.
        origins: number of answers by prompt and model.
    """

    ids: np.ndarray
    shares: np.ndarray
    origins: Mapping[tuple[str, str], int]

    @cached_property
    def named(self) -> np.ndarray:
        """Images for which a class is likelier than none, bool [N]."""
        return np.asarray(self.shares.max(axis=1, initial=0) > 1 - self.shares.sum(axis=1) + 1e-6)

    @cached_property
    def digest(self) -> str:
        """Hash of all ids and shares."""
        return digest(self.ids.tobytes(), self.shares.tobytes())

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the shares of images, ids S32 [B], float32 [B, C]; zeros for images without an answer."""
        found = np.zeros((len(ids), self.shares.shape[1]), np.float32)
        at = find_sorted(self.ids, ids)
        found[at >= 0] = self.shares[at[at >= 0]]
        return found

    def line(self) -> str:
        """Summarise in one line how many images have a pick, and by which models."""
        by = ", ".join(f"{prompt} by {model} ({count:,})" for (prompt, model), count in self.origins.items())
        none = f", none of them for {(~self.named).sum():,}" if not self.named.all() else ""
        return f"picked classes: {counted(len(self.ids), 'image')}{none}: {by}"


class _Answer(NamedTuple):
    image_id: bytes
    created: str
    pick: Pick


def read_picks(
    store: DescriptionStore, classes: Sequence[str], *, prompts: Sequence[str] = (), models: Sequence[str] = ()
) -> PickedClasses | None:
    """Read the picked classes from a store; None if there are none.

    For each prompt and model, only the latest list of classes counts. Several answers for an image are averaged. Trials
    are left out.

    Args:
        store: the descriptions.
        classes: the classes of the images. Other picks count as none of these.
        prompts: use only picks of these prompts; empty for all.
        models: use only picks of these models; empty for all.

    Raises:
        StoreError: a pick in the store is damaged.
    """
    answers: defaultdict[tuple[str, str], list[_Answer]] = defaultdict(list)
    for origin, answer in _answers(store):
        if (not prompts or origin[0] in prompts) and (not models or origin[1] in models):
            answers[origin].append(answer)
    chosen = {origin: _of_latest_list(found) for origin, found in sorted(answers.items())}
    if not chosen:
        return None
    every = [answer for found in chosen.values() for answer in found]
    ids, places = np.unique(np.asarray([answer.image_id for answer in every], "S32"), return_inverse=True)
    numbers = {compose(name): number for number, name in enumerate(classes)}
    shares = np.zeros((len(ids), len(classes)), np.float32)
    for place, answer in zip(places.tolist(), every, strict=True):
        shares[place] += _shares(answer.pick, numbers)
    shares /= np.bincount(places)[:, None]
    return PickedClasses(ids, shares, {origin: len(found) for origin, found in chosen.items()})


def _answers(store: DescriptionStore) -> Iterator[tuple[tuple[str, str], _Answer]]:
    for batch in store.current_batches():
        rows = batch.filter(pc.and_(batch["pick"].is_valid(), batch["error"].is_null()))
        for row in rows.select(["image_id", "prompt", "model", "created", "pick"]).to_pylist():
            try:
                pick = Pick.from_json(row["pick"])
            except (ValueError, TypeError, KeyError, AttributeError):
                raise StoreError(f"{store.folder} holds a damaged pick: {row['pick'][:60]!r}.") from None
            yield (row["prompt"], row["model"]), _Answer(row["image_id"].encode(), row["created"], pick)


def _of_latest_list(answers: Sequence[_Answer]) -> list[_Answer]:
    latest = max(answers, key=lambda answer: answer.created).pick.choices
    return [answer for answer in answers if answer.pick.choices == latest]


def _shares(pick: Pick, numbers: Mapping[str, int]) -> np.ndarray:
    """Return the share of each class in one answer [C]."""
    shares = np.zeros(len(numbers), np.float32)
    if not pick.probabilities:
        if pick.name is not None and (number := numbers.get(compose(pick.name))) is not None:
            shares[number] = 1.0
        return shares
    named = ((compose(name), share) for name, share in pick.probabilities.items() if name is not None)
    known = {numbers[name]: share for name, share in named if name in numbers}
    unseen = len(numbers) - len(known) + (None not in pick.probabilities)
    shares += max(0.0, 1 - sum(pick.probabilities.values())) / max(
        unseen, 1
    )  # the server listed neither these nor none
    shares[list(known)] = list(known.values())
    return shares
