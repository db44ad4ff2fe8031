"""Compare classifiers on texts and on image features before training: do the texts know more than the model?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt4image.core.errors import DescriptionError
from gpt4image.core.format import points
from gpt4image.probing.cross_fit import STRENGTHS, cross_fit
from gpt4image.probing.folds import FOLDS, groups_per_class, number
from gpt4image.probing.intervals import GroupBootstrap
from gpt4image.probing.logistic_regression import standardise, turn_to_axes
from gpt4image.quality.check_record import ClassKnowledge, Knowledge, PairedGap, Probe, ProbeVerdict

MAX_IMAGES = 4000  # gives an interval of about ±1.5 points
MAX_CLASSES = 50
MIN_IMAGES = 50
INTERVAL = "95% interval "  # before the interval of a difference


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
    """Compare a classifier on the texts with one on frozen image features, both out-of-fold.

    Each is a logistic regression on standardised vectors whose regularisation is chosen within the training folds
    (`cross_fit`); `both` concatenates the two vectors. Intervals are percentile bootstraps over groups: they cover the
    sampling of images, not the choice of folds.

    Args:
        text_vectors: one vector per image, the mean of its texts, float [N, D].
        image_features: pooled features of a frozen backbone, float [N, F].
        labels: int [N], -1 for none; classes in fewer than five groups are left out.
        groups: leakage groups, int [N]: copies of an image and images of the same text share a fold.
        classes: class names.
        seed: seed of folds and bootstrap.
        masked_vectors: vectors of the texts without class names, float [N, D].
        backbone: name of the image features' model, for the record.
        encoder: name of the text encoder, for the record.

    Raises:
        DescriptionError: too few images or classes.
    """
    rows = choose_images(labels, groups, len(classes), seed)
    label, group = labels[rows], number(groups[rows])
    text, image = standardise(text_vectors[rows]), standardise(image_features[rows])
    sides = {"texts": text, "image features": image, "both": np.concatenate([text, image], axis=1)}
    if masked_vectors is not None:
        sides["texts without class names"] = standardise(masked_vectors[rows])
    by_text, by_image, by_both, *by_masked = (
        _correct_answers(side, label, group, seed, f"Classify by {name}") for name, side in sides.items()
    )
    bootstrap = GroupBootstrap(group, seed)
    text_over_image, both_over_image = _gap(by_text, by_image, bootstrap), _gap(by_both, by_image, bootstrap)
    fixed = _share(by_text, ~by_image)
    verdict, title, advice = weigh_up(text_over_image, both_over_image, fixed)
    return Knowledge(
        images=len(rows),
        folds=FOLDS,
        left_out=rare_classes(labels, groups, classes),
        chance=float(np.bincount(label).max() / len(label)),
        text=_accuracy(by_text, bootstrap),
        image=_accuracy(by_image, bootstrap),
        both=_accuracy(by_both, bootstrap),
        masked=_accuracy(by_masked[0], bootstrap) if by_masked else None,
        text_over_image=text_over_image,
        both_over_image=both_over_image,
        mended=fixed,
        broken=_share(~by_text, by_image),
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
        verdict=verdict,
        title=title,
        advice=advice,
        backbone=backbone,
        encoder=encoder,
    )


def choose_images(labels: np.ndarray, groups: np.ndarray, classes: int, seed: int = 0) -> np.ndarray:
    """Choose the images to classify: those of classes in at least five groups, or a sample of them.

    Args:
        labels: int [N], -1 for none.
        groups: leakage groups, int [N].
        classes: number of classes.
        seed: seed of the sample.

    Returns:
        Rows, sorted, int64 [n].

    Raises:
        DescriptionError: fewer than two classes or 50 images are left.
    """
    generator = np.random.default_rng(seed)
    enough = np.flatnonzero(groups_per_class(labels, groups, classes) >= FOLDS)
    chosen = generator.permutation(enough)[:MAX_CLASSES]
    rows = generator.permutation(np.flatnonzero(np.isin(labels, chosen)))[:MAX_IMAGES]
    if len(chosen) < 2 or len(rows) < MIN_IMAGES:
        raise DescriptionError(
            f"Too few images to compare texts and image features: {len(rows):,} with label and text, in "
            f"{len(chosen):,} classes of at least {FOLDS} distinct images. It takes {MIN_IMAGES} images in two "
            "classes. Describe more images."
        )
    return np.sort(rows)


def rare_classes(labels: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Return the number of images of each class that lies in too few groups to be classified."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    rare = (groups_per_class(labels, groups, len(classes)) < FOLDS) & (counts > 0)
    return {classes[label]: int(counts[label]) for label in np.flatnonzero(rare).tolist()}


def _correct_answers(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, title: str) -> np.ndarray:
    """Return which rows [N, D] a classifier predicts correctly out of fold, bool [N]."""
    labels = number(labels)
    classes = int(labels.max()) + 1
    # With two classes the strength has twice the effect (`fit_softmax_regression`).
    strengths = [strength / 2 for strength in STRENGTHS] if classes == 2 else STRENGTHS
    # The rough tolerance is enough to tell which class is the likeliest.
    turned = turn_to_axes(vectors)
    fitted = cross_fit(turned, labels, groups, classes, strength=strengths, seed=seed, tolerance=1e-4, title=title)
    return np.asarray(fitted.logits.argmax(axis=1) == labels)


def _share(true: np.ndarray, among: np.ndarray) -> float | None:
    """Return the share of `true` among the rows in `among`, bool [N] each; None if there are none."""
    return float(true[among].mean()) if among.any() else None


def _accuracy(correct: np.ndarray, bootstrap: GroupBootstrap) -> Probe:
    """Return the accuracy of predictions, given which are correct, bool [N], with its interval."""
    found = bootstrap.mean(correct.astype(np.float64))
    return Probe(accuracy=found.mean, low=found.low, high=found.high)


def _gap(one: np.ndarray, other: np.ndarray, bootstrap: GroupBootstrap) -> PairedGap:
    """Return the accuracy of one classifier minus another's, given which predictions are correct, bool [N] each."""
    found = bootstrap.mean(one.astype(np.float64) - other)
    return PairedGap(mean=found.mean, low=found.low, high=found.high)


def weigh_up(text: PairedGap, both: PairedGap, fixed: float | None) -> tuple[ProbeVerdict, str, str]:
    """Judge the differences from the accuracy of the image features; return verdict, a sentence on it, and advice.

    Training with the texts is worthwhile if they are better by themselves or add to the features.

    Args:
        text: accuracy of the texts minus that of the image features.
        both: accuracy of both together minus that of the image features.
        fixed: share of the image classifier's errors that the texts get right, None without errors.
    """
    if text.low > 0:
        title = f"The texts predict the class better than the image features do: {text.in_words(INTERVAL)}."
        return "more", title, _advise_training(fixed)
    if both.low > 0:
        title = f"The texts add to what the image features know: together {both.in_words(INTERVAL)}."
        return "adds", title, f"{_alone(text)} {_advise_training(fixed)}"
    together = f"It is not shown either that they add to the features: together {both.in_words(INTERVAL)}."
    if text.high < 0:
        title = f"The texts predict the class worse than the image features do: {text.in_words(INTERVAL)}."
        advice = (
            "Do not train on these texts as they are: try a prompt that asks for the differences between the classes, "
        )
        return "less", title, f"{together} {advice}or a stronger model, on a few hundred images, and check again."
    return (
        "same",
        f"It is not shown that the texts predict the class better or worse than the image features do: "
        f"{text.in_words(INTERVAL)}.",
        f"{together} More described images narrow the intervals. Until then, do not count on a gain: describe more "
        "images, or try another prompt or a stronger model.",
    )


def _alone(text: PairedGap) -> str:
    """State how texts that add to the features do by themselves."""
    if text.high < 0:
        return f"Alone they predict the class worse: {text.in_words(INTERVAL)}."
    return f"Alone they are not shown to be better or worse: {text.in_words(INTERVAL)}."


def _advise_training(fixed: float | None) -> str:
    errors = "" if fixed is None else f"They get {100 * fixed:.0f}% of the features' errors right. "
    low, mean, high = points((-0.016, -0.006, 0.005))  # studies/README.md
    return (
        f"{errors}So there is something to learn from them, and training with them is worth a try. This is no "
        "guarantee: on our example set clipart12 the texts know far more than the features, and still aligning a "
        f"small head with them showed no gain ({mean} points, {low} to {high}). Find out: gpt4image compare, on the "
        "same images, work directory and backbone."
    )
