"""A rehearsal on frozen image features: what labels from texts would gain, measured on held-out labels beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from gpt4image.core import console
from gpt4image.core.errors import DescriptionError, StoreError
from gpt4image.core.record import Record, ShareEstimate
from gpt4image.probing.calibration import adjust_for_skew
from gpt4image.probing.cross_fit import Fitter, deal_out
from gpt4image.probing.folds import FOLDS, groups_per_class, link, look_alikes, number
from gpt4image.probing.intervals import GroupBootstrap
from gpt4image.probing.label_noise import NoiseModel
from gpt4image.probing.logistic_regression import standardise
from gpt4image.quality.check_record import PairedGap
from gpt4image.soft_labels.labelling import Labelling, label_rows
from gpt4image.soft_labels.methods import STRENGTH, Examples

MOST_LABELLED, MOST_FREE = 3000, 6000  # rows with and without a label; a random sample where there are more
PROBE_STRENGTH = 0.3  # of the classifier on image features, inverse regularisation; the gain rule belongs to it
TOLERANCE = 1e-4
MORE_LABELS = 20  # labels per class whose worth is estimated


class Rehearsal(Record):
    """Held-out answers of classifiers on the labels at hand, corrected for the share of them that is wrong.

    Attributes:
        images: labelled images, each held out once.
        chance: share of the most frequent class among their labels.
        text: accuracy of the labels that the texts give.
        image: accuracy of a classifier on frozen image features, fitted to the given labels: stands for training on
            labels alone; None without image features.
        text_over_image: accuracy of the first minus that of the second.
        gains: by arm, what its labels add to the accuracy of that classifier.
        more_labels: what 20 more labels per class would add, from the last doubling of their number.
        skew: what logit adjustment adds to the mean accuracy of the classes.
        corrected: whether enough labels are wrong for the correction to be made.
    """

    images: int
    chance: float
    text: ShareEstimate
    corrected: bool
    image: ShareEstimate | None = None
    text_over_image: PairedGap | None = None
    gains: dict[str, PairedGap] = Field(default_factory=dict)
    more_labels: PairedGap | None = None
    skew: PairedGap | None = None


class KeptRehearsal(Record):
    """A rehearsal in the work directory, None if there were too few labels, and a hash of all it depends on."""

    identity: str
    found: Rehearsal | None

    @classmethod
    def find(cls, path: Path, identity: str) -> KeptRehearsal | None:
        """Return the one in a file; None if there is none, or one of other images, labels, texts or settings."""
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
    strength: float = STRENGTH,
    adjustment: float = 0.0,
    folds: int = FOLDS,
    seed: int = 0,
    picks: np.ndarray | None = None,
) -> Rehearsal:
    """Hold out each fold of the labels, label everything else from the rest of them, and train on that.

    For each fold the labeller is fitted to the other labels, in the way that `label_rows` has chosen, and labels the
    other images by their texts, or by their image features. A softmax regression on frozen image features is then
    fitted to the given labels, and to those of each labeller, and answers the images held out. What the texts alone
    say of these, out of fold, is compared as well. Intervals are percentile bootstraps over leakage groups.

    Where labels are wrong, those that replace them come from models which have not seen the label that they replace. A
    held-out answer then counts as right by the backward correction (Patrini et al., arXiv 1609.03683, theorem 1): the
    entry [y, k] of the inverse of T, for the given label y and the answer k, has 1 for its expected value if k is the
    true class and 0 if not.

    Args:
        texts: text vectors, float [N, D].
        features: frozen image features, float [N, F].
        labels: given classes, int [N], -1 for none.
        groups: leakage groups, int [N]; images that look alike are joined to them.
        classes: number C of classes.
        examples: texts of the classes.
        strength: inverse strength of the labeller's regularisation.
        adjustment: strength of the logit adjustment of its new labels.
        folds: number of folds.
        seed: seed of folds, samples and bootstrap.
        picks: how much of an LLM's answers goes to each class, float32 [N, C], as for `label_rows`.

    Raises:
        DescriptionError: fewer than two classes have labels in several groups.
    """
    rows = _sample(labels, seed)
    texts, labels, groups = texts[rows], labels[rows], groups[rows]
    if features is not None:
        features = standardise(np.asarray(features[rows], np.float32))
        groups = link(groups, look_alikes(features))
    if (groups_per_class(labels, groups, classes) > 1).sum() < 2:
        raise DescriptionError(
            "There are too few labels to hold some out: it takes two classes with several labelled images each."
        )
    settings: dict[str, Any] = {"folds": folds, "seed": seed, "adjustment": adjustment}
    picks = None if picks is None else picks[rows]
    by_text = label_rows(texts, labels, groups, classes, examples, strength=strength, picks=picks, **settings)
    labellers = {"text-labels": by_text}
    if features is not None:
        labellers["image-labels"] = label_rows(features, labels, groups, classes, **settings)
    stage = _Stage(features, labels, groups, classes, labellers, seed)
    fold_of = deal_out(labels, groups, folds, seed)
    held_out = np.unique(fold_of[labels >= 0]).tolist()
    with console.progress("Rehearse with held-out labels", len(held_out)) as meter:
        for fold in held_out if features is not None else ():
            stage.hold_out(fold_of == fold)
            meter.advance()
    return stage.measure()


@dataclass
class _Stage:
    """Collects held-out answers by who gives them.

    Attributes:
        features: image features [N, F].
        labels: given labels [N], -1 for none.
        groups: leakage groups [N].
        classes: number C of classes.
        labellers: what texts and image features say, by the arm that trains on it.
        seed: seed of the halves and of the bootstrap.
        answers: by who gives them, answers for labelled rows, int [N].
        logits: of the classifier fitted to the given labels, for rows held out, float32 [N, C].
    """

    features: np.ndarray | None
    labels: np.ndarray
    groups: np.ndarray
    classes: int
    labellers: dict[str, Labelling]
    seed: int
    answers: dict[str, np.ndarray] = field(default_factory=dict)
    logits: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.logits = np.zeros((len(self.labels), self.classes), dtype=np.float32)

    def hold_out(self, outside: np.ndarray) -> None:
        """Learn from the rows that are not outside, bool [N], and answer the labelled ones that are."""
        held, inside = np.flatnonzero(outside & (self.labels >= 0)), np.flatnonzero(~outside)
        hidden = np.where(outside, -1, self.labels)
        self.logits[held] = self._fit(hidden, inside, held)
        self._note("labels alone", held, self.logits[held])
        self._note("half", held, self._fit(self._halve(hidden), inside, held))
        for arm, found in self.labellers.items():
            given = self._stand_ins(found, hidden)
            unchanged = (given[inside] == hidden[inside]).all()
            self._note(arm, held, self.logits[held] if unchanged else self._fit(given, inside, held))

    def _stand_ins(self, found: Labelling, hidden: np.ndarray) -> np.ndarray:
        """Return the labels to train on, int [N]: new ones too unless the labeller is not shown to know anything."""
        stand_ins = np.where(hidden >= 0, found.of_labels(self.labels).argmax(axis=1), -1)
        free = self.labels < 0
        if free.any() and found.is_informed and found.relabel is not None:
            stand_ins[free] = found.relabel(hidden)[free].argmax(axis=1)
        return stand_ins

    def _fit(self, labels: np.ndarray, inside: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Fit image features to the labels of some rows, and return log-probabilities of others, float32 [H, C]."""
        assert self.features is not None
        fitter = Fitter(self.features, labels, self.classes, TOLERANCE)
        return fitter.predict(fitter.fit(inside[labels[inside] >= 0], PROBE_STRENGTH), held)

    def _halve(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels [N] with every second one of each class taken away, at random."""
        known = np.random.default_rng(self.seed).permutation(np.flatnonzero(labels >= 0))
        known = known[np.argsort(labels[known], kind="stable")]
        ranks = np.arange(len(known)) - np.searchsorted(labels[known], labels[known])
        halved = labels.copy()
        halved[known[ranks % 2 == 1]] = -1
        return halved

    def _note(self, name: str, held: np.ndarray, logits: np.ndarray) -> None:
        self.answers.setdefault(name, np.full(len(self.labels), -1))[held] = logits.argmax(axis=1)

    def measure(self) -> Rehearsal:
        """Return what the answers show."""
        text = self.labellers["text-labels"]
        corrected = text.noise is not None and text.replaced
        credit = credit_of(text.noise) if corrected and text.noise is not None else np.eye(self.classes)
        known = np.flatnonzero(self.labels >= 0)
        labels = self.labels[known]
        by_text = credit[labels, text.out_of_fold.argmax(axis=1)[known]]
        right = {name: credit[labels, answers[known]] for name, answers in self.answers.items()}
        bootstrap = GroupBootstrap(number(self.groups[known]), self.seed)

        def gap(values: np.ndarray) -> PairedGap:
            found = bootstrap.mean(values)
            return PairedGap(mean=found.mean, low=found.low, high=found.high)

        def share(values: np.ndarray) -> ShareEstimate:
            found = bootstrap.mean(values)
            mean, low, high = (float(np.clip(value, 0, 1)) for value in (found.mean, found.low, found.high))
            return ShareEstimate(mean=mean, low=low, high=high)

        counts = np.bincount(labels, minlength=self.classes)
        chance = float(counts.max() / len(known))
        found = Rehearsal(images=len(known), chance=chance, text=share(by_text), corrected=corrected)
        if self.features is None:
            return found
        alone = right["labels alone"]
        doublings = float(np.log2(1 + MORE_LABELS * self.classes / len(known)))
        plain, adjusted = (
            adjust_for_skew(self.logits[known], labels, strength).argmax(axis=1) == labels for strength in (0.0, 1.0)
        )
        weights = len(known) / (np.maximum(counts, 1)[labels] * (counts > 0).sum())  # all classes weigh as much
        by_image = {
            "image": share(alone),
            "text_over_image": gap(by_text - alone),
            "gains": {arm: gap(right[arm] - alone) for arm in self.labellers},
            "more_labels": gap((alone - right["half"]) * doublings),
            "skew": gap((adjusted.astype(float) - plain) * weights),
        }
        return found.model_copy(update=by_image)


def credit_of(noise: NoiseModel) -> np.ndarray:
    """Return how much an answer counts for each given label, float64 [C, C]: the inverse of T, see `rehearse`.

    Singular values below a tenth of the largest are left out, which bounds the noise of the correction.
    """
    return np.asarray(np.linalg.pinv(np.exp(noise.log_transition), rcond=0.1))


def _sample(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return rows to use, sorted: all, or a random sample of those with and without a label."""
    generator = np.random.default_rng(seed)
    known, free = (generator.permutation(np.flatnonzero(rows)) for rows in (labels >= 0, labels < 0))
    return np.sort(np.concatenate([known[:MOST_LABELLED], free[:MOST_FREE]]))
