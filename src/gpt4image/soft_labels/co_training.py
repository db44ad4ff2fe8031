"""Co-training: a classifier of the texts and one of the images label rows for each other.

Blum and Mitchell, "Combining labeled and unlabeled data with co-training" (COLT 1998). There each of the two in turn
labels a few rows for both; here both together label all rows of which they are confident, as long as that helps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from scipy.special import log_softmax

from gpt4image.core import console
from gpt4image.probing.calibration import blocks, fit_temperature
from gpt4image.probing.cross_fit import STRENGTH, Refits, deal_out
from gpt4image.probing.fitter import Fitter, PartialModel
from gpt4image.probing.logistic_regression import standardise, turn_to_axes
from gpt4image.soft_labels.methods import TOLERANCE, FitSettings, Method, Rows

SHARE = 0.5  # weight of the texts
MOST_ROUNDS = 5
MIN_JOINT_CONFIDENCE = 0.7  # probability above which both together label a row


def pool_views(text: np.ndarray, image: np.ndarray, shares: np.ndarray, weight: float = SHARE) -> np.ndarray:
    """Return log r, where r_i(k) is proportional to q_i(k)^a p_i(k)^(1 - a) / prior_k, float64 [N, C].

    Args:
        text: log q of the texts, float [N, C].
        image: log p of the images, float [N, C].
        shares: prior of the classes [C], above 0.
        weight: the exponent a of the texts, from 0 to 1.
    """
    return np.asarray(log_softmax(weight * text + (1 - weight) * image - np.log(shares), axis=1))


@dataclass(frozen=True)
class CoTraining:
    """Joint predictions of a text classifier and an image classifier for all rows.

    Attributes:
        logits: log r, float64 [N, C]: out of fold for labelled rows, by models fitted to all labels for the others.
        temperature: temperature that fits the labelled rows best.
        accuracies: out-of-fold accuracy of each round, up to the first that was worse.
    """

    logits: np.ndarray
    temperature: float
    accuracies: tuple[float, ...]


def co_train(rows: Rows, features: np.ndarray, method: Method, settings: FitSettings) -> CoTraining:
    """Train a classifier of texts and one of images on rows that they label together.

    The text classifier labels first. In each further round both are fitted to the given labels and to the confident
    ones of the round before, until the out-of-fold accuracy falls; then the labels of the round before are kept. A
    labelled row is judged by models that its label did not influence, not even through the labels of other rows: each
    fold has rounds of its own, and so have the unlabelled rows, with all labels.

    Args:
        rows: vectors of the texts, given labels, and texts of the classes.
        features: features of the images, float [N, F].
        method: how the text classifier is fitted in the first round.
        settings: settings of the fits.
    """
    views = _Views.of(rows, features, method, settings)
    known, best, accuracies = rows.given >= 0, None, list[float]()
    folds = np.unique(views.fold_of).tolist()
    with console.progress("Co-train texts and images", (MOST_ROUNDS + 1) * len(folds)) as meter:
        chains = [views.start(fold, meter.advance) for fold in folds]
        for _ in range(MOST_ROUNDS + 1):
            if best is not None:
                for chain in chains:
                    chain.learn(views, best)
                    meter.advance()
            found = views.judge(chains)
            accuracies.append(float((found.logits.argmax(axis=1) == rows.given)[known].mean()))
            if best is not None and accuracies[-1] < accuracies[-2]:
                break
            best = found
    assert best is not None
    return CoTraining(best.logits, best.temperature, tuple(accuracies))


@dataclass(frozen=True)
class _Judgement:
    """Log r of all rows [N, C] in a round, its temperature, and those of each classifier that took part."""

    logits: np.ndarray
    temperature: float
    of_views: tuple[float, ...]


@dataclass(frozen=True)
class _Views:
    """Both views of the rows and their classifiers.

    Attributes:
        rows: the rows.
        image: fits the classifiers of images.
        method: how the classifier of texts is fitted in the first round.
        settings: settings of the fits.
        fold_of: fold of each row [N], -1 for those without a label.
    """

    rows: Rows
    image: Fitter
    method: Method
    settings: FitSettings
    fold_of: np.ndarray

    @classmethod
    def of(cls, rows: Rows, features: np.ndarray, method: Method, settings: FitSettings) -> _Views:
        given = np.where(rows.is_example, -1, rows.labels)
        turned = turn_to_axes(standardise(features))
        blank = np.zeros((len(given) - rows.count, turned.shape[1]), dtype=np.float32)  # the mean image
        both = np.concatenate([turned, blank])
        image = Fitter(both, given, rows.classes, TOLERANCE, settings.device)
        fold_of = np.where(given >= 0, deal_out(given, rows.groups, settings.folds, settings.seed), -1)
        return cls(rows, image, method, settings, fold_of[: rows.count])

    @cached_property
    def shares(self) -> np.ndarray:
        """Share of each class among the given labels [C]; a class without any counts as half a row."""
        counts = np.bincount(self.rows.given[self.rows.given >= 0], minlength=self.rows.classes)
        return np.asarray(np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum())

    def start(self, fold: int, fitted: Callable[[], None]) -> _Chain:
        """Fit a text classifier for the rows of a fold, or for unlabelled rows (-1), and start a chain with it."""
        refits, strength = self.method.refits or Refits(), self.method.chosen_strength(self.settings)
        own = np.flatnonzero(self.fold_of == fold)
        train = np.setdiff1d(self.method.learned(self.rows), own)
        text = self.method.fitter(self.rows, self.settings, train)
        trusted = refits.trusted(text, train, self.rows.groups, strength, self.settings.seed)
        model = text.fit(trusted, strength)
        if refits.rounds:
            model = refits.self_train(text, partial(text.predict, model), trusted, strength, model)
        labels = np.full(len(text.labels), -1)
        labels[trusted] = text.labels[trusted]
        fitted()
        return _Chain(own, np.setdiff1d(np.arange(self.rows.count), trusted), labels, text, (model,))

    def pool(self, parts: Sequence[np.ndarray], temperatures: Sequence[float]) -> np.ndarray:
        """Return log r from the log-probabilities by texts and, once they take part, by images, [B, C] each."""
        scaled = [part / temperature for part, temperature in zip(parts, temperatures, strict=True)]
        return (
            pool_views(scaled[0], scaled[1], self.shares)
            if len(scaled) > 1
            else np.asarray(log_softmax(scaled[0], axis=1))
        )

    def judge(self, chains: Sequence[_Chain]) -> _Judgement:
        """Label each chain's rows, at the temperatures that fit the given labels best."""
        parts = np.empty((len(chains[0].models), self.rows.count, self.rows.classes), dtype=np.float32)
        for chain in chains:
            for some in blocks(chain.own):
                parts[:, some] = chain.predict(self, some)
        temperatures = tuple(fit_temperature(part, self.rows.given) for part in parts)
        logits = self.pool(list(parts), temperatures)
        return _Judgement(logits, fit_temperature(logits, self.rows.given), temperatures)


@dataclass
class _Chain:
    """The models that label one fold or the unlabelled rows.

    Attributes:
        own: the rows that they label, int64 [m].
        free: rows on which they learn from the labels that both together give, int64 [n].
        labels: the labels that they learn from, int [N + K]; -1 for rows that they do not learn from.
        text: fits the classifiers of texts.
        models: the model of texts and, after the first round, of images.
    """

    own: np.ndarray
    free: np.ndarray
    labels: np.ndarray
    text: Fitter
    models: tuple[PartialModel, ...]

    def predict(self, views: _Views, some: np.ndarray) -> list[np.ndarray]:
        """Return each model's log-probabilities for rows [B], float32 [B, C] each."""
        fitters = (self.text, views.image)[: len(self.models)]
        return [fitter.predict(model, some) for fitter, model in zip(fitters, self.models, strict=True)]

    def learn(self, views: _Views, judged: _Judgement) -> None:
        """Label the free rows of which the models together are confident, and fit both models to these labels."""
        for some in blocks(self.free):
            together = views.pool(self.predict(views, some), judged.of_views) / judged.temperature
            found = log_softmax(together, axis=1)
            self.labels[some] = np.where(found.max(axis=1) > math.log(MIN_JOINT_CONFIDENCE), found.argmax(axis=1), -1)
        pictured = np.where(views.rows.is_example, -1, self.labels)  # texts of classes belong to no image
        parts = (
            (self.text, self.labels, views.method.chosen_strength(views.settings)),
            (views.image, pictured, STRENGTH),
        )
        begun = (*self.models, None)  # in the first round there is no model of images
        self.models = tuple(
            replace(fitter, labels=labels, fits=None).fit(np.flatnonzero(labels >= 0), strength, last)
            for (fitter, labels, strength), last in zip(parts, begun, strict=False)
        )
