"""Advice on training: which arm to train, and its expected gain, given labels, texts and image features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from gpt4image.core.format import counted, percent
from gpt4image.core.record import Record, ShareEstimate
from gpt4image.probing.intervals import CONFIDENCE
from gpt4image.quality.check_record import PairedGap
from gpt4image.quality.rehearsal import FEW, MORE_LABELS, Rehearsal
from gpt4image.soft_labels.labelling import CLEAN
from gpt4image.soft_labels.store import LabelEstimate

Case = Literal["no labels", "few labels", "wrong labels", "skewed classes", "clean labels", "uninformative texts"]
SKEWED = 10.0  # ratio of the largest class's labels to the smallest's, from which classes count as skewed
MATTERS = 0.01  # a smaller gain is negligible
VALIDATION = 100  # with fewer labelled validation images, the last epoch is kept rather than the best


@dataclass(frozen=True)
class GainRule:
    """Predicts the gain of a trained model from a rehearsed gain.

    A trained model's gain is taken to be normally distributed around `slope` r for a rehearsed gain r of standard error
    s, with the variance (slope s)^2 + spread^2 + (share slope r)^2: the error of the rehearsal, the spread between
    image sets, and the part of that spread that is proportional to the gain.

    Attributes:
        slope: gain of a trained model per unit of rehearsed gain.
        spread: standard deviation of gains where the rehearsal finds none.
        share: relative standard deviation of gains where it finds some.
        kinds: number of kinds of cases that the rule was fitted to, which gives the degrees of freedom.
    """

    slope: float
    spread: float
    share: float
    kinds: int

    def expect(self, mean: float, low: float, high: float) -> PairedGap:
        """Return the expected gain with its 95% prediction interval, given a rehearsed gain with its interval."""
        error = (high - low) / (2 * float(stats.norm.ppf((1 + CONFIDENCE) / 2)))
        deviation = float(np.sqrt(self.variance(mean, error)))
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.kinds - 1)) * deviation
        return PairedGap(mean=self.slope * mean, low=self.slope * mean - reach, high=self.slope * mean + reach)

    def variance(self, mean: float, error: float) -> float:
        """Return the variance of trained models' gains, given a rehearsed gain and its standard error."""
        return (self.slope * error) ** 2 + self.spread**2 + (self.share * self.slope * mean) ** 2


RULE = GainRule(slope=0.596, spread=0.0150, share=0.150, kinds=4)
"""Fitted to gains on clipart12 by `studies/label_advice.py`, which sets a minimum for both spreads because a single
image set cannot show how sets differ."""


@dataclass(frozen=True)
class LabelFacts:
    """Counts of an image set's labels.

    Attributes:
        classes: number of classes.
        training: training images with a text.
        undescribed: training images without one.
        counts: training images with a text and a label, by class [C].
        validation: validation images with a label.
    """

    classes: int
    training: int
    undescribed: int
    counts: tuple[int, ...]
    validation: int

    @property
    def labelled(self) -> int:
        """Training images with a text and a label."""
        return sum(self.counts)

    @property
    def skew(self) -> float:
        """Ratio of the largest class's labels to those of the smallest class that has any; 1 without labels."""
        found = [count for count in self.counts if count]
        return max(found) / min(found) if found else 1.0


class Advice(Record):
    """The case of an image set, what to train, and the evidence for it.

    Attributes:
        case: the case.
        title: the advice in a sentence or two.
        arm: arm to train.
        settings: recipe settings and options to change, by their names on the command line.
        compared: whether to compare the arm with labels only, rather than train just the arm.
        gain: expected gain over labels only with its prediction interval, 0 to 1; None where nothing measures it.
        basis: the evidence for the advice, one item per line.
        helps: what would help more, one item per line.
        command: command to run.
        training: training images with a text.
        labelled: those with a text and a label.
        classes: number of classes.
        wrong: estimated share of wrong labels; None if it cannot be estimated.
        skew: ratio of the largest class's labels to the smallest's.
        rehearsal: what was measured with held-out labels; None if that was not possible.
        expected: expected gain of each arm that was rehearsed.
    """

    case: Case
    title: str
    arm: str
    settings: dict[str, str]
    compared: bool
    gain: PairedGap | None
    basis: tuple[str, ...]
    helps: tuple[str, ...]
    command: str = ""
    training: int
    labelled: int
    classes: int
    wrong: ShareEstimate | None
    skew: float
    rehearsal: Rehearsal | None
    expected: dict[str, PairedGap]

    def lines(self) -> tuple[list[str], list[str]]:
        """Format the advice for the terminal; return the lines before the command and those after it."""
        return [self.title, *self._gain()], [*self.basis, *self.helps]

    def _gain(self) -> Iterator[str]:
        if self.gain is not None:
            yield f"expected gain over labels alone: {self.gain.in_words()}, a prediction interval"
        elif self.rehearsal is None:
            yield "expected gain: too few labels to measure it"
        elif self.case in ("few labels", "wrong labels"):
            yield "expected gain: not estimated without image features"


def give_advice(
    facts: LabelFacts,
    estimate: LabelEstimate,
    rehearsal: Rehearsal | None,
    *,
    texts: str,
    images: str | None,
    no_images: str = "",
) -> Advice:
    """Determine the case, and choose the arm with the largest rehearsed gain that is significant.

    Args:
        facts: counts of the labels.
        estimate: estimated quality of text labels.
        rehearsal: the rehearsal; None if there are too few labels to hold any out.
        texts: name of the text encoder.
        images: name of the backbone of the image features; None if there are none.
        no_images: why there are none, for the reader.
    """
    judged = _Judged(facts, estimate, rehearsal)
    verdict = judged.verdict()
    return Advice(
        case=verdict.case,
        title=verdict.title,
        arm=verdict.arm,
        settings=judged.settings(verdict),
        compared=verdict.compared,
        gain=judged.expected.get(verdict.gain_of),
        basis=tuple(judged.basis(texts, images, no_images)),
        helps=tuple(judged.helps(verdict)),
        training=facts.training,
        labelled=facts.labelled,
        classes=facts.classes,
        wrong=estimate.wrong,
        skew=facts.skew,
        rehearsal=rehearsal,
        expected=judged.expected,
    )


@dataclass(frozen=True)
class _Verdict:
    """The case, the advice in words, the arm, the arm whose gain is shown, and whether a comparison is worthwhile."""

    case: Case
    title: str
    arm: str
    gain_of: str = "text-labels"
    compared: bool = False


@dataclass(frozen=True)
class _Judged:
    facts: LabelFacts
    estimate: LabelEstimate
    rehearsal: Rehearsal | None

    @property
    def expected(self) -> dict[str, PairedGap]:
        """Expected gain of each arm that was rehearsed."""
        found = self.rehearsal.gains if self.rehearsal else {}
        return {arm: RULE.expect(gain.mean, gain.low, gain.high) for arm, gain in found.items()}

    @property
    def lacking(self) -> Case | None:
        """The labels' main problem; None without one."""
        free, wrong = self.facts.training - self.facts.labelled, self.estimate.wrong
        if free >= FEW * self.facts.training:
            return "few labels"
        return "wrong labels" if wrong is not None and wrong.low > CLEAN else None

    def verdict(self) -> _Verdict:
        found = self.rehearsal
        if found is None:
            return self._unmeasured()
        silent = 0 < self.estimate.unlabelled <= self.estimate.abstained  # the labeller would give no new label
        case, shown, informed = self.lacking, self._shown(found), found.text.low > found.chance and not silent
        if not informed and not shown:
            title = (
                "These texts are of no use: on held-out labels they are not shown to be better than always "
                "predicting the most frequent class. Train on labels alone."
            )
            return _Verdict("uninformative texts", title, "baseline")
        if case is None:
            return self._clean()
        free = self.facts.training - self.facts.labelled
        words = f"label the other {free:,}" if case == "few labels" else "replace the doubtful ones"
        if found.image is None:
            title = f"{_start(case)}: let the texts {words} (arm text-labels)."
            return _Verdict(case, title, "text-labels", compared=True)
        if not shown:
            title = (
                "No gain is to be expected: models trained on labels from these texts, or from image features, are "
                "not shown to be better on held-out labels than a model trained on the given labels. Train on labels "
                "alone."
            )
            return _Verdict("uninformative texts", title, "baseline")
        arm = max(shown, key=lambda name: self.expected[name].mean)
        source = "texts" if arm == "text-labels" else "image features, which predict the class better than the texts,"
        return _Verdict(case, f"{_start(case)}: let the {source} {words} (arm {arm}).", arm, arm, compared=True)

    def _shown(self, found: Rehearsal) -> list[str]:
        """Return the arms with a significant gain that matters; text labels must also beat the image features."""
        shown = [arm for arm, gain in found.gains.items() if gain.low > 0 and self.expected[arm].mean > MATTERS]
        better = found.text_over_image is not None and found.text_over_image.low > 0
        return [arm for arm in shown if better or arm != "text-labels"]

    def _unmeasured(self) -> _Verdict:
        if not self.facts.labelled:
            title = "No labels: let the texts label by the names of the classes (arm text-labels)."
            return _Verdict("no labels", title, "text-labels")
        title = "Too few labels to hold some out: let the texts label the rest (arm text-labels)."
        return _Verdict("few labels", title, "text-labels")

    def _clean(self) -> _Verdict:
        rest = "every image is labelled and hardly any label is wrong"
        if self.estimate.wrong is None:
            rest = "every image is labelled, and there are too few labels to tell whether some are wrong"
        if self.facts.skew >= SKEWED:
            title = (
                f"Skewed classes: the largest class has {self.facts.skew:.0f} times as many labels as the smallest. "
                f"Texts add next to nothing, because {rest}; adjust the logits instead (--logit-adjustment loss)."
            )
            return _Verdict("skewed classes", title, "baseline", compared=False)
        title = f"The texts add next to nothing: {rest}. Train on labels alone."
        return _Verdict("clean labels", title, "baseline")

    def settings(self, verdict: _Verdict) -> dict[str, str]:
        """Return the settings to change."""
        found = {}
        if self.facts.validation < VALIDATION and verdict.arm != "baseline":
            found["keep"] = "last"
        if verdict.case == "skewed classes":
            found["logit-adjustment"] = "loss"
        return found

    def basis(self, texts: str, images: str | None, no_images: str) -> Iterator[str]:
        """Yield the evidence for the advice."""
        facts, wrong, found = self.facts, self.estimate.wrong, self.rehearsal
        yield (
            f"labels: {facts.labelled:,} of {counted(facts.training, 'training image')} with a text, in "
            f"{counted(facts.classes, 'class')}; the largest class has {facts.skew:.1f} times as many as the smallest"
        )
        if wrong is not None:
            yield f"wrong among the labels: {_share(wrong)}"
        if found is None:
            if not facts.labelled and facts.classes:
                yield (
                    "on our example set clipart12 the names of the classes alone gave 42.8%, and all labels 49.5% "
                    "(studies/README.md); other sets may differ much"
                )
            return
        corrected = ", corrected for wrong labels" if found.corrected else ""
        yield f"on {counted(found.images, 'held-out label')}{corrected}:"
        yield f"  most frequent class {percent(found.chance)}; labels from the texts ({texts}): {_share(found.text)}"
        if found.image is None or found.text_over_image is None:
            yield no_images
            return
        yield f"  image features ({images}) trained on the given labels: {_share(found.image)}"
        yield f"  texts over image features: {found.text_over_image.in_words()}"
        for arm, gain in found.gains.items():
            source = "texts" if arm == "text-labels" else "image features"
            yield f"  image features trained on labels from the {source}: {gain.in_words()}"
        yield (
            f"from these to the gain: a rule fitted to {RULE.kinds} kinds of recorded cases of clipart12 "
            "(docs/method.md); its interval spans how they differ"
        )

    def helps(self, verdict: _Verdict) -> Iterator[str]:
        """Yield what would help more."""
        found = self.rehearsal
        if found is None:
            yield from self._describe_rest()
            yield "label 10 images of each class and run this again: then the gain can be estimated"
            return
        yield from self._describe_rest()
        if verdict.case == "uninformative texts":
            yield (
                "another prompt may help: one that asks what tells the classes apart (gpt4image describe --prompts, "
                "--prompt-file), tried on a few hundred images, and then gpt4image advise again"
            )
        if found.more_labels is not None and verdict.case in ("few labels", "uninformative texts"):
            more = RULE.expect(found.more_labels.mean, found.more_labels.low, found.more_labels.high)
            yield f"{MORE_LABELS} more labels a class, on labels alone: {more.in_words()}"
        if verdict.case == "wrong labels":
            yield (
                "labels from texts and image features together are worth comparing (arm text+image-labels): they "
                "trained as well on clipart12 with 40% wrong labels; image features cannot judge labels made from them"
            )
            yield "a person can correct the labels most likely wrong: gpt4image audit"
        if found.skew is not None and self.facts.skew >= SKEWED:
            yield f"logit adjustment, mean accuracy of the classes on image features: {found.skew.in_words()}"

    def _describe_rest(self) -> Iterator[str]:
        if self.facts.undescribed:
            yield f"not described yet: {counted(self.facts.undescribed, 'training image')} (gpt4image describe)"


def _start(case: Case) -> str:
    """Return the name of a case as the start of a sentence."""
    return case.capitalize()


def _share(share: ShareEstimate) -> str:
    return f"{percent(share.mean)} ({percent(share.low)} to {percent(share.high)})"
