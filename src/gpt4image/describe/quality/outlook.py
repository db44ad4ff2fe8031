"""From two accuracies to a verdict in words: whether it is worth going on."""

from __future__ import annotations

from typing import Literal, NamedTuple

from gpt4image.describe.quality.records import PairedGap


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
    share = "" if mended is None else f"{100 * mended:.0f} %"
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
        f"{of_their_own(both)} In our measurement on 1,968 industrial photographs the texts alone were right on 70 %, "
        "the image heads on 77 %: aligning with the texts did nothing there (-0.1 points), and soft labels made of "
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
    '+29.3 points (95 % interval +25.0 to +33.5)'
    """
    mean, low, high = (f"{100 * value:+.1f}" for value in (gap.mean, gap.low, gap.high))
    return f"{mean} points (95 % interval {low} to {high})"
