"""What do the texts know that the model does not? Asked before anyone trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import DescriptionError
from gpt4image.probing.folds import FOLDS, grouped_folds, groups_per_class, number
from gpt4image.probing.logistic_regression import answer_out_of_fold, scale
from gpt4image.quality.check_record import ClassKnowledge, Knowledge, PairedGap, Probe


class Outlook(NamedTuple):
    """What is to be expected.

    Attributes:
        verdict: whether the texts know more or less than the image features, or neither was shown.
        title: that in a sentence.
        advice: what follows.
    """

    verdict: Literal["more", "same", "less"]
    title: str
    advice: str


def weigh_up(text: PairedGap, both: PairedGap, mended: float | None) -> Outlook:
    """The verdict on two differences from the image features' accuracy.

    Args:
        text: accuracy of the texts minus that of the image features.
        both: accuracy of both together minus that of the image features.
        mended: share of the image classifier's errors that the texts get right.
    """
    if text.low > 0:
        return Outlook("more", f"The texts know more than the image features: {points(text)}.", more(mended))
    if text.high < 0:
        return Outlook("less", f"The texts know less than the image features: {points(text)}.", less(both))
    return Outlook(
        "same",
        f"It is not shown that the texts know more or less than the image features: {points(text)}.",
        f"{of_their_own(both)} With more described images the interval narrows. Until then, do not count on a gain: "
        "describe more images or try another prompt, and compare with a baseline.",
    )


def more(mended: float | None) -> str:
    """What follows where the texts know more."""
    share = "" if mended is None else f"{100 * mended:.0f}%"
    errors = f"They are right on {share} of the images that the features get wrong. " if share else ""
    return (
        f"{errors}There is something to be learned from them, so going on is worth a try. It is no promise: on our "
        "example set clipart12 the texts know far more than the features, and aligning a small head with them still "
        "showed no gain (+0.1 points, -0.9 to +1.0), soft labels made of the texts hardly more (+0.8, -0.6 to +2.3). "
        "Train with a baseline beside it: gpt4image compare, with the same DATA, --work and --backbone."
    )


def less(both: PairedGap) -> str:
    """What follows where the texts know less."""
    return (
        f"{of_their_own(both)} In our measurement on 1,968 industrial photographs the texts alone were right on 70%, "
        "the image heads on 77%: aligning with the texts did nothing there (-0.1 points), and soft labels made of "
        "them hurt (-1.0). Better not train on these texts as they are: try a prompt that asks for what tells the "
        "classes apart, or a stronger model, on a few hundred images, and check again."
    )


def of_their_own(both: PairedGap) -> str:
    """Whether the texts add to the features."""
    if both.low > 0:
        return f"Still, they hold something of their own: together with the features, {points(both)}."
    return f"Nor is it shown that they add anything to the features: together, {points(both)}."


def points(gap: PairedGap) -> str:
    """A difference in percentage points with its interval.

    >>> points(PairedGap(mean=0.293, low=0.25, high=0.335))
    '+29.3 points (95% interval +25.0 to +33.5)'
    """
    mean, low, high = (f"{100 * value:+.1f}" for value in (gap.mean, gap.low, gap.high))
    return f"{mean} points (95% interval {low} to {high})"


MOST_IMAGES = 4000


"""Images that are classified, at most: an interval of about 1.5 points either way."""


MOST_CLASSES = 50


"""Classes that are told apart, at most; drawn by chance where there are more."""


FEWEST_IMAGES = 50


RESAMPLES = 2000


CONFIDENCE = 0.95


def choose_images(labels: np.ndarray, groups: np.ndarray, classes: int, seed: int = 0) -> np.ndarray:
    """Choose the images that are classified: of classes in five groups and more, by chance where there are too many.

    Args:
        labels: int [N], -1 where there is none.
        groups: numbers of groups, int [N].
        classes: number of classes.
        seed: seed of the chance.

    Returns:
        Positions, sorted, int64 [n].

    Raises:
        DescriptionError: fewer than two classes, or than 50 images, are left.
    """
    generator = np.random.default_rng(seed)
    enough = np.flatnonzero(groups_per_class(labels, groups, classes) >= FOLDS)
    chosen_classes = generator.permutation(enough)[:MOST_CLASSES]
    rows = generator.permutation(np.flatnonzero(np.isin(labels, chosen_classes)))[:MOST_IMAGES]
    if len(chosen_classes) < 2 or len(rows) < FEWEST_IMAGES:
        raise DescriptionError(
            f"What the texts know cannot be measured on {len(rows):,} images with label and text in "
            f"{len(chosen_classes):,} classes of at least {FOLDS} distinct images: it takes {FEWEST_IMAGES} images in "
            "two classes. Describe more images."
        )
    return np.sort(rows)


def measure_knowledge(
    text_vectors: np.ndarray,
    image_features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    seed: int = 0,
    *,
    masked_vectors: np.ndarray | None = None,
    backbone: str = "",
    encoder: str = "",
) -> Knowledge:
    """Set a classifier on the texts beside one on frozen image features, both judged on folds they have not seen.

    Each is a logistic regression on vectors of mean 0 and mean squared length 1, with its regularisation chosen within
    the folds that it learns from (`answer_out_of_fold`); both together is the same on the two side by side. Rows of
    one group lie in one fold. Intervals are percentile bootstraps over groups; they count the luck of the images, not
    that of the folds.

    Args:
        text_vectors: one vector an image, the mean where it has several texts, float [N, D].
        image_features: pooled features of a frozen backbone, float [N, F].
        labels: int [N]; classes in fewer than five groups are left out, and so is -1.
        groups: rows that must not vouch for each other, int [N]: copies of an image, images of the same text.
        classes: class names.
        seed: seed of folds and bootstrap.
        masked_vectors: vectors of the texts without class names, float [N, D].
        backbone: what made the image features, for the record.
        encoder: what made the text vectors, likewise.

    Raises:
        DescriptionError: there are too few images or classes to tell.
    """
    rows = choose_images(labels, groups, len(classes), seed)
    label = labels[rows]
    group = number(groups[rows])
    folds = grouped_folds(label, group, seed)
    text, image = (scale(vectors[rows])[0] for vectors in (text_vectors, image_features))
    luck = Luck(group, seed)

    sides = [text, image, np.concatenate([text, image], axis=1)]
    if masked_vectors is not None:
        sides.append(scale(masked_vectors[rows])[0])
    by_text, by_image, by_both, *by_masked = which_are_right(sides, label, folds)
    text_over_image, both_over_image = luck.gap(by_text, by_image), luck.gap(by_both, by_image)
    outlook = weigh_up(text_over_image, both_over_image, share(by_text, ~by_image))
    return Knowledge(
        images=len(rows),
        folds=FOLDS,
        left_out=too_rare(labels, groups, classes),
        chance=float(np.bincount(label).max() / len(label)),
        text=luck.probe(by_text),
        image=luck.probe(by_image),
        both=luck.probe(by_both),
        masked=luck.probe(by_masked[0]) if by_masked else None,
        text_over_image=text_over_image,
        both_over_image=both_over_image,
        mended=share(by_text, ~by_image),
        broken=share(~by_text, by_image),
        per_class=[
            ClassKnowledge(
                name=classes[value],
                images=int((label == value).sum()),
                text=float(by_text[label == value].mean()),
                image=float(by_image[label == value].mean()),
                both=float(by_both[label == value].mean()),
            )
            for value in np.unique(label).tolist()
        ],
        verdict=outlook.verdict,
        title=outlook.title,
        advice=outlook.advice,
        backbone=backbone,
        encoder=encoder,
    )


def which_are_right(sides: Sequence[np.ndarray], labels: np.ndarray, folds: np.ndarray) -> list[np.ndarray]:
    """Which rows a classifier on each of several sets of vectors [N, ...] answers right out of fold, bool [N] each."""
    right = []
    with console.progress("Ask what texts know", len(sides)) as meter:
        for vectors in sides:
            right.append(answer_out_of_fold(vectors, labels, folds) == labels)
            meter.advance()
    return right


@dataclass(frozen=True)
class Luck:
    """Intervals that count which images were drawn.

    Attributes:
        groups: numbers of groups, int [N]; groups are drawn as a whole.
        seed: seed of the bootstrap.
    """

    groups: np.ndarray
    seed: int

    def probe(self, right: np.ndarray) -> Probe:
        """Accuracy of answers that are right or wrong, bool [N]."""
        mean, low, high = self._mean(right.astype(np.float64))
        return Probe(accuracy=mean, low=low, high=high)

    def gap(self, one: np.ndarray, other: np.ndarray) -> PairedGap:
        """Accuracy of one minus that of the other, right or wrong on the same images, bool [N] each."""
        mean, low, high = self._mean(one.astype(np.float64) - other)
        return PairedGap(mean=mean, low=low, high=high)

    def _mean(self, values: np.ndarray) -> tuple[float, float, float]:
        """Mean of values [N] with both ends of its interval."""
        from scipy.stats import bootstrap

        sums, sizes = np.bincount(self.groups, weights=values), np.bincount(self.groups).astype(np.float64)
        found = bootstrap(
            (sums, sizes),
            lambda total, size, axis=-1: total.sum(axis=axis) / size.sum(axis=axis),
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=100,
            confidence_level=CONFIDENCE,
            method="percentile",
            random_state=np.random.default_rng(self.seed),
        ).confidence_interval
        return float(values.mean()), float(found.low), float(found.high)


def share(true: np.ndarray, among: np.ndarray) -> float | None:
    """Share of the rows `among` [N] that are `true` [N]; None where there are none."""
    return float(true[among].mean()) if among.any() else None


def too_rare(labels: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Images of the classes that lie in too few groups to be classified, by class."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    rare = (groups_per_class(labels, groups, len(classes)) < FOLDS) & (counts > 0)
    return {classes[label]: int(counts[label]) for label in np.flatnonzero(rare).tolist()}
