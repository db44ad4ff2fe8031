"""A rehearsal on frozen image features: the gain from text labels, measured on held-out labels before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from gpt4image.core import console
from gpt4image.core.errors import DescriptionError, StoreError
from gpt4image.core.record import Record, ShareEstimate
from gpt4image.probing.calibration import adjust_for_skew
from gpt4image.probing.cross_fit import cross_fit, deal_out
from gpt4image.probing.fitter import Fitter
from gpt4image.probing.folds import FOLDS, groups_per_class, link, look_alikes, number
from gpt4image.probing.intervals import GroupBootstrap
from gpt4image.probing.label_noise import NoiseModel
from gpt4image.probing.logistic_regression import standardise, turn_to_axes
from gpt4image.quality.check_record import PairedGap
from gpt4image.soft_labels.labelling import Labelling, label_rows
from gpt4image.soft_labels.methods import Examples

MOST_LABELLED, MOST_FREE = 3000, 6000  # most rows with and without a label; a random sample if there are more
PROBE_STRENGTH = 30.0  # hardly regularised, to memorise wrong labels as networks do; the gain rule was fitted with it
TOLERANCE = 1e-4
FEW = 0.05  # share of images without a label from which labels count as few
HALF = "half"
MORE_LABELS = 20  # additional labels per class whose gain is estimated


class Rehearsal(Record):
    """How texts and image features do on the available labels, out of fold and corrected for wrong labels.

    Attributes:
        images: labelled images, each held out once.
        chance: share of the most frequent class among their labels.
        text: accuracy of the labels that the texts give.
        image: accuracy of a classifier on frozen image features, fitted to the given labels, which stands for training
            on labels only; None without image features.
        text_over_image: `text` minus `image`.
        gains: by arm, what its labels add to the accuracy of that classifier.
        judged: images on which the gains were measured.
        more_labels: what 20 more labels per class would add, estimated from the last doubling of their number.
        skew: what logit adjustment adds to the mean accuracy of the classes.
        corrected: whether enough labels are wrong for the correction to be applied.
    """

    images: int
    chance: float
    text: ShareEstimate
    corrected: bool
    image: ShareEstimate | None = None
    text_over_image: PairedGap | None = None
    gains: dict[str, PairedGap] = Field(default_factory=dict)
    judged: int = 0
    more_labels: PairedGap | None = None
    skew: PairedGap | None = None


class KeptRehearsal(Record):
    """A rehearsal in the work directory (None if there were too few labels) and a hash of all that it depends on."""

    identity: str
    found: Rehearsal | None

    @classmethod
    def find(cls, path: Path, identity: str) -> KeptRehearsal | None:
        """Return the rehearsal in a file; None without one, or if its images, labels, texts or settings differ."""
        try:
            kept = cls.load(path)
        except (OSError, StoreError):  # the file does not exist, or another version wrote it
            return None
        return kept if kept.identity == identity else None


def rehearse(
    texts: np.ndarray,
    features: np.ndarray | None,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
    examples: Examples | None = None,
    *,
    strength: float | None = None,
    adjustment: float = 0.0,
    folds: int = FOLDS,
    seed: int = 0,
    picks: np.ndarray | None = None,
) -> Rehearsal:
    """Train classifiers of image features on given labels and on those of a labeller, and compare them on other images.

    The classifier, a softmax regression on frozen features, stands for the model to be trained. Text and image features
    are compared on the given labels, out of fold. The gain from adding text labels to the given ones is measured on
    images that the classifier has not seen, by cross-fitting:

    - Where many images have no label, on those. The text label stands in for the true one: it is right with the
      accuracy a that held-out labels show. If its errors are spread evenly over the other classes and are independent
      of the classifier's, a difference of accuracies is the difference of agreements divided by
      a - (1 - a) / (C - 1).
    - Else on the given labels. Where some are wrong, their replacements come from models that have not seen the label
      they replace, and predictions are scored by the backward correction (Patrini et al., arXiv 1609.03683, theorem 1):
      for the given label y and the prediction k, the entry [y, k] of the inverse of T has expected value 1 if k is the
      true class, and 0 if not.

    Intervals are percentile bootstraps over leakage groups.

    Args:
        texts: text vectors, float [N, D].
        features: frozen image features, float [N, F].
        labels: given classes, int [N], -1 for none.
        groups: leakage groups, int [N]; groups with images that look alike are merged.
        classes: number C of classes.
        examples: texts of the classes.
        strength: inverse strength of the labeller's regularisation; chosen from the labels by default.
        adjustment: strength of the logit adjustment of its new labels.
        folds: number of folds.
        seed: seed of folds, samples and bootstrap.
        picks: share of an LLM's answers that goes to each class, float32 [N, C], as for `label_rows`.

    Raises:
        DescriptionError: fewer than two classes have labels in several groups.
    """
    rows = _sample(labels, seed)
    texts, labels, groups = texts[rows], labels[rows], groups[rows]
    if features is not None:
        features = turn_to_axes(standardise(np.asarray(features[rows], np.float32)))
        groups = link(groups, look_alikes(features))
    if (groups_per_class(labels, groups, classes) > 1).sum() < 2:
        raise DescriptionError(
            "There are too few labels to hold some out: two classes with several labelled images each are needed."
        )
    settings: dict[str, Any] = {"folds": folds, "seed": seed, "adjustment": adjustment}
    picks = None if picks is None else picks[rows]
    by_text = label_rows(texts, labels, groups, classes, examples, strength=strength, picks=picks, **settings)
    known = np.flatnonzero(labels >= 0)
    corrected = by_text.noise is not None and by_text.replaced
    credit = credit_of(by_text.noise) if corrected and by_text.noise is not None else np.eye(classes)
    right = credit[labels[known], by_text.out_of_fold.argmax(axis=1)[known]]
    shares = np.bincount(labels[known], minlength=classes) / len(known)
    bootstrap = GroupBootstrap(number(groups[known]), seed)
    found = Rehearsal(images=len(known), chance=float(shares.max()), text=_share(bootstrap, right), corrected=corrected)
    if features is None:
        return found
    labellers = {"text-labels": by_text}
    by_texts = bool((labels < 0).mean() >= FEW) and by_text.is_informed
    with console.doing("Train on labels from the texts"):
        logits = cross_fit(
            features, labels, groups, classes, folds=folds, strength=PROBE_STRENGTH, seed=seed, tolerance=TOLERANCE
        ).logits
        trial = _Trial(features, labels, groups, classes, labellers, by_texts, credit, folds, seed)
        gains, judged = trial.gains(logits)
    alone = credit[labels[known], logits.argmax(axis=1)[known]]
    plain, adjusted = (
        adjust_for_skew(logits[known], labels[known], power).argmax(axis=1) == labels[known] for power in (0.0, 1.0)
    )
    weights = 1 / (shares[labels[known]] * (shares > 0).sum())  # every class has the same weight
    more = {
        "image": _share(bootstrap, alone),
        "text_over_image": _gap(bootstrap, right - alone),
        "gains": {arm: gain for arm, gain in gains.items() if arm != HALF},
        "judged": judged,
        "more_labels": scale(gains[HALF], float(-np.log2(1 + MORE_LABELS * classes / len(known)))),
        "skew": _gap(bootstrap, (adjusted.astype(float) - plain) * weights),
    }
    return found.model_copy(update=more)


@dataclass(frozen=True)
class _Trial:
    """Classifiers of image features, cross-fitted to given labels and to a labeller's; see `rehearse`."""

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    classes: int
    labellers: Mapping[str, Labelling]
    by_texts: bool
    credit: np.ndarray
    folds: int
    seed: int

    def gains(self, logits: np.ndarray) -> tuple[dict[str, PairedGap], int]:
        """Return the gain from each arm's labels and from half of the given ones, and the number of images judged.

        Args:
            logits: out-of-fold log-probabilities of the classifier fitted to given labels, float32 [N, C].
        """
        truth, credit, text = self.labels, self.credit, self.labellers["text-labels"]
        if self.by_texts:
            truth = np.where(self.labels < 0, text.out_of_fold.argmax(axis=1), -1)
            credit = np.eye(self.classes)
        fold_of = deal_out(truth, self.groups, self.folds, self.seed)
        judged = np.flatnonzero(truth >= 0)

        def right(labels: np.ndarray) -> np.ndarray:
            if (labels == self.labels).all() and not self.by_texts:
                answers = logits.argmax(axis=1)
            else:
                answers = self._answers(labels, fold_of)
            return np.asarray(credit[truth[judged], answers[judged]])

        alone, bootstrap = right(self.labels), GroupBootstrap(number(self.groups[judged]), self.seed)
        stand_ins = {arm: self._stand_ins(labeller) for arm, labeller in self.labellers.items()}
        found = {
            arm: _gap(bootstrap, right(labels) - alone) for arm, labels in {**stand_ins, HALF: self._halve()}.items()
        }
        if self.by_texts and text.accuracy is not None:
            share, rest = text.accuracy, self.classes - 1
            factors = [1 / max(a - (1 - a) / rest, 0.1) for a in (share.mean, share.high, share.low)]
            found = {arm: _widen(gain, factors) for arm, gain in found.items()}
        return found, len(judged)

    def _stand_ins(self, found: Labelling) -> np.ndarray:
        """Return the labels to train on, int [N]: new ones only where texts can judge them."""
        answers = found.of_labels(self.labels).argmax(axis=1)
        return answers if self.by_texts else np.where(self.labels >= 0, answers, -1)

    def _halve(self) -> np.ndarray:
        """Return the labels [N] with a random half of each class removed."""
        known = np.random.default_rng(self.seed).permutation(np.flatnonzero(self.labels >= 0))
        known = known[np.argsort(self.labels[known], kind="stable")]
        ranks = np.arange(len(known)) - np.searchsorted(self.labels[known], self.labels[known])
        halved = self.labels.copy()
        halved[known[ranks % 2 == 1]] = -1
        return halved

    def _answers(self, labels: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
        """Predict each fold by a classifier fitted to the labels outside it, int [N]; -1 for rows in no fold."""
        answers = np.full(len(labels), -1)
        fitter = Fitter(self.features, labels, self.classes, TOLERANCE)
        for fold in np.unique(fold_of[fold_of >= 0]).tolist():
            model = fitter.fit(np.flatnonzero((fold_of != fold) & (labels >= 0)), PROBE_STRENGTH)
            rows = np.flatnonzero(fold_of == fold)
            answers[rows] = fitter.predict(model, rows).argmax(axis=1)
        return answers


def scale(gap: PairedGap, factor: float) -> PairedGap:
    """Multiply a difference and its interval."""
    low, high = sorted((gap.low * factor, gap.high * factor))
    return PairedGap(mean=gap.mean * factor, low=low, high=high)


def _widen(gap: PairedGap, factors: Sequence[float]) -> PairedGap:
    """Multiply a difference by an uncertain factor, given as best estimate, lowest and highest value."""
    best, least, most = factors
    return PairedGap(
        mean=gap.mean * best,
        low=gap.low * (least if gap.low > 0 else most),
        high=gap.high * (most if gap.high > 0 else least),
    )


def _gap(bootstrap: GroupBootstrap, values: np.ndarray) -> PairedGap:
    found = bootstrap.mean(values)
    return PairedGap(mean=found.mean, low=found.low, high=found.high)


def _share(bootstrap: GroupBootstrap, right: np.ndarray) -> ShareEstimate:
    found = bootstrap.mean(right)
    mean, low, high = (float(np.clip(value, 0, 1)) for value in (found.mean, found.low, found.high))
    return ShareEstimate(mean=mean, low=low, high=high)


def credit_of(noise: NoiseModel) -> np.ndarray:
    """Return the score of each prediction for each given label, float64 [C, C]: the inverse of T, see `rehearse`.

    Singular values below a tenth of the largest are left out, which bounds the noise of the correction.
    """
    return np.asarray(np.linalg.pinv(np.exp(noise.log_transition), rcond=0.1))


def _sample(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return rows to use, sorted: all, or a random sample of those with and without a label."""
    generator = np.random.default_rng(seed)
    known, free = (generator.permutation(np.flatnonzero(rows)) for rows in (labels >= 0, labels < 0))
    return np.sort(np.concatenate([known[:MOST_LABELLED], free[:MOST_FREE]]))
