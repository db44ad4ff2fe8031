"""Recognise splits by name, and make those that a source lacks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpt4image.core.console import say
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.core.files import digest, digests
from gpt4image.core.format import counted
from gpt4image.images.kept_splits import KeptSplit, open_kept_split
from gpt4image.images.table import SPLITS

# The split of training images without labels, used only while a source is listed: `ListingBuilder` makes it train.
UNLABELLED = "unlabelled"

_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "unlabelled": UNLABELLED,
    "unlabeled": UNLABELLED,
}
_WIDE = f"U{max(map(len, SPLITS))}"  # NumPy type wide enough for every split name
_LABELLED = {"labelled": "train", "labeled": "train"}  # only beside `unlabelled`, and not in the names of files

# Words in the names of folders that are splits but do not say which one.
_SPLIT_WORDS = frozenset({*_NAMES, "trainset", "testset", "valset", "devset", "eval", "evaluation", "holdout"})


def split_named(name: str) -> str | None:
    """Return the split that a folder or a cell names, None if it names none."""
    return (_NAMES | _LABELLED).get(name.strip().lstrip("_").casefold())


def has_split_word(name: str) -> bool:
    """Whether a folder's name holds the word for a split.

    >>> has_split_word("Test_images2"), has_split_word("testPictures"), has_split_word("contest")
    (True, True, False)
    """
    return any(word.casefold() in _SPLIT_WORDS for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name))


def require_split(name: str, where: str) -> str:
    """Return the split that a name means. DataError says where an unknown one was found."""
    split = split_named(name)
    if split is None:
        raise DataError(f"{where}: {name!r} is not a split. Known names: {', '.join(_NAMES)}. Rename it or remove it.")
    return split


def split_of_file(path: str) -> str | None:
    """Return the split that a file's name holds as a word, else the one that its folder's name holds.

    >>> split_of_file("data/val-00000-of-00004.parquet"), split_of_file("latest.tar")
    ('validation', None)
    """
    for part in reversed(path.split("/")):
        found = {split for word in re.split(r"[^a-z]+", part.casefold()) if (split := _NAMES.get(word))}
        if UNLABELLED in found:
            found.discard("train")
        if len(found) > 1:
            raise DataError(f"{path}: the name holds more than one split ({', '.join(sorted(found))}). Rename it.")
        if found:
            return found.pop()
    return None


def splits_of_files(paths: list[str]) -> list[str]:
    """Return the splits of the files of a source, all train if no name holds one. DataError if only some do."""
    splits = [split_of_file(path) for path in paths]
    suspicious = len(paths) > 1 and any(has_split_word(path.rpartition("/")[2]) for path in paths)
    if not any(splits) and not suspicious:
        return ["train"] * len(paths)
    return [split or require_split(path, "file name") for split, path in zip(splits, paths, strict=True)]


def check_shares(validation_share: float, test_share: float) -> None:
    """Raise ConfigError if the shares leave nothing to train on."""
    for name, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 <= share < 1:
            raise ConfigError(f"{name} must be at least 0 and less than 1, not {share}.")
    if validation_share + test_share >= 1:
        raise ConfigError(
            f"validation_share (--validation-share) {validation_share} and test_share (--test-share) {test_share} "
            "leave nothing for training."
        )


def complete_splits(
    splits: np.ndarray,
    ids: np.ndarray,
    labels: np.ndarray,
    *,
    validation_share: float,
    test_share: float,
    seed: int,
    work: Path | None = None,
    source: str = "",
) -> np.ndarray:
    """Make the missing splits out of train.

    The first choice is stratified by label and depends on the seed and the images' ids alone, not on their order or
    names. A work directory keeps it: images added later are placed by the hash of seed and id, and move no other.
    Copies of an image stay together. Images without a label stay in train, and so does at least one image of every
    class. Other shares or another seed make another split, which is kept as well.

    Args:
        splits: names of the splits, shape [N].
        ids: ids, shape [N], dtype S32.
        labels: labels, shape [N]; -1 for none.
        validation_share: share of the training images that become validation if there is no such split.
        test_share: share of the training images that become test if there is no such split.
        seed: another seed gives another choice.
        work: the work directory that keeps the choice; None keeps nothing.
        source: name of the image set.

    Returns:
        Names of the splits, shape [N].

    Raises:
        DataError: there is no train split, or it is too small to be divided.
        StoreError: the kept split is damaged.
    """
    given = set(splits.tolist())
    if "train" not in given:
        raise DataError(f"There are no images to train on: the source has only {', '.join(sorted(given))}.")
    shares = {"test": test_share, "validation": validation_share}
    missing = {name: share for name, share in shares.items() if name not in given and share > 0}
    if not missing:
        return splits
    # Copies count as one image: `unique` [U] are the distinct ids of train, `inverse` [n] maps its rows to them.
    train = np.flatnonzero(splits == "train")
    unique, inverse = np.unique(ids[train], return_inverse=True)
    classes = _group_labels(labels[train], inverse.ravel(), len(unique))
    only = f"The source has only {', '.join(name for name in SPLITS if name in given)}"
    copies = np.bincount(inverse.ravel())
    if work is None:
        chosen = _choose(unique, classes, missing, seed)
        say(f"{only}: set aside {_sizes(chosen, missing, copies)} out of train.")
    else:
        with open_kept_split(work, missing, seed) as kept:
            chosen = _complete_kept(kept, unique, classes, copies, missing, seed, only, source)
    result = splits.astype(_WIDE)
    result[train] = chosen[inverse.ravel()]
    return result


def _complete_kept(
    kept: KeptSplit,
    ids: np.ndarray,
    labels: np.ndarray,
    copies: np.ndarray,
    shares: dict[str, float],
    seed: int,
    only: str,
    source: str,
) -> np.ndarray:
    """Return the split of every distinct image, shape [U]: the kept one, or a new one that is kept from now on.

    `copies` [U] says how often each is there, as what is said counts them. DataError if no image is left of a split.
    """
    labelled = labels >= 0
    known = np.where(labelled, kept.look_up(ids), "")
    new = labelled & (known == "")
    if not (known != "").any():  # a new set, or another one in the same work directory
        chosen = _choose(ids, labels, shares, seed)
        say(f"{only}: set aside {_sizes(chosen, shares, copies)} out of train, kept in {kept.file}.")
    else:
        chosen = np.where(labelled, known, "train").astype(_WIDE)
        chosen[new] = _place(ids[new], shares, seed)  # only new ones are hashed, since there may be millions of others
        _leave_one_in_train(chosen, labels, new)
        gone = kept.count_gone(ids, source)
        parts = [f"{only}: {_sizes(chosen[~new], shares, copies[~new])} out of train as before"]
        if new.any():
            names = [name for name in SPLITS if name == "train" or name in shares]
            parts.append(
                f"{counted(int(copies[new].sum()), 'new image')} added: {_sizes(chosen[new], names, copies[new])}"
            )
        if gone:
            parts.append(f"{counted(gone, 'earlier image')} missing")
        say(f"{'; '.join(parts)} ({kept.file}).")
        for name in shares:
            if not (chosen == name).any():
                raise DataError(
                    f"None of the {name} images in {kept.file} is left. Delete that file to split the images again."
                )
    kept.add(ids[new], chosen[new], source)
    return chosen


def _place(ids: np.ndarray, shares: dict[str, float], seed: int) -> np.ndarray:
    """Return splits by the hash of seed and id alone, shape [U]; in expectation they have the shares."""
    # The rank of `_choose` as a number from 0 to 1.
    heights = np.array([int(digest(str(seed), identity)[:12], 16) / 16**12 for identity in ids.tolist()])
    limits = np.cumsum(list(shares.values()))
    return np.array([*shares, "train"])[np.searchsorted(limits, heights, side="right")]


def _leave_one_in_train(chosen: np.ndarray, labels: np.ndarray, new: np.ndarray) -> None:
    """Put the first new image, by id, of each class without a training image into train."""
    in_train = np.unique(labels[chosen == "train"])
    at = np.flatnonzero(new & ~np.isin(labels, in_train))
    _, first = np.unique(labels[at], return_index=True)
    chosen[at[first]] = "train"


def _group_labels(labels: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the label by which each group of copies is stratified: the largest, whatever their order; shape [U]."""
    result = np.full(count, -1, labels.dtype)
    np.maximum.at(result, groups, labels)
    return result


def _choose(ids: np.ndarray, labels: np.ndarray, shares: dict[str, float], seed: int) -> np.ndarray:
    """Return the split of every distinct image, shape [U].

    Within a class the images are ranked by a hash of seed and id; test takes the first ones, validation the next.
    """
    # `order` runs through the labelled images class by class, each class in the order of its ranks.
    ranks = np.fromiter((rank.encode() for rank in digests([str(seed)], ids)), "S32", len(ids))
    order = np.lexsort((ranks, labels))
    order = order[labels[order] >= 0]
    present, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    # Which class gets the last image of a quota depends on the seed, not on the order of the classes.
    ties = np.argsort([digest(str(seed), str(label)) for label in present.tolist()], kind="stable")
    chosen = np.full(len(ids), "train", dtype=_WIDE)
    taken = np.zeros(len(present), np.int64)  # number taken of each class by earlier splits
    for split, share in shares.items():
        # One image of each class stays in train.
        quota = _quotas(counts, share, counts - 1 - taken, ties)
        if not quota.sum():
            raise DataError(
                f"There are too few distinct images for a {split} split, because one of every class stays in train. "
                f"Add images, or add a {split} split to the source, or set {split}_share to 0 (--{split}-share 0)."
            )
        for start, before, size in zip(starts, taken, quota, strict=True):
            chosen[order[start + before : start + before + size]] = split
        taken += quota
    return chosen


def _quotas(counts: np.ndarray, share: float, room: npt.NDArray[np.int64], ties: np.ndarray) -> npt.NDArray[np.int64]:
    """Return how many images of each class to take, shape [C]: shares rounded by largest remainder, at most `room`."""
    exact = counts * share
    quotas = np.minimum(np.floor(exact).astype(np.int64), room)
    wanted = max(1, round(float(exact.sum()))) - int(quotas.sum())
    by_remainder = ties[np.argsort(-(exact - np.floor(exact))[ties], kind="stable")]
    for position in by_remainder:
        if wanted <= 0:
            break
        if quotas[position] < room[position]:
            quotas[position] += 1
            wanted -= 1
    return quotas


def _sizes(splits: np.ndarray, names: Iterable[str], copies: np.ndarray) -> str:
    return " and ".join(f"{int(copies[splits == name].sum()):,} for {name}" for name in names)
