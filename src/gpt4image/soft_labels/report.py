"""Reports on soft labels: their quality, likely label errors, and a comparison of text encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write
from gpt4image.core.format import counted, printable
from gpt4image.core.record import ShareEstimate
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.probing.calibration import LabelQuality, blocks
from gpt4image.probing.label_issues import find_label_issues
from gpt4image.soft_labels.labeller import label_by_vectors
from gpt4image.soft_labels.store import LabelEstimate, SoftLabels

SHOWN = 5  # classes that the report lists
NOT_ESTIMATED = "how many are wrong cannot be estimated from so few labels, or from texts that tell so little of them"
COLUMNS = ("id", "path", "label", "probability", "likelier", "its_probability")
HEADING = f"{'encoder':40} {'width':>6} {'cut':>6} {'right':>6} {'balanced':>8} {'NLL':>6}"


@dataclass(frozen=True)
class LabelIssue:
    """A likely label error.

    Attributes:
        image_id: the image, 32 hex digits.
        path: its path in the source; untrusted.
        label: its given class.
        probability: soft label of the given class.
        likelier: the likeliest class.
        its_probability: soft label of that class.
    """

    image_id: str
    path: str
    label: str
    probability: float
    likelier: str
    its_probability: float

    def line(self) -> str:
        """Format a tab-separated line with control characters escaped."""
        cells = (self.image_id, self.path, self.label, f"{self.probability:.6f}", self.likelier)
        return "\t".join(map(printable, (*cells, f"{self.its_probability:.6f}")))


@dataclass(frozen=True)
class LabelReport:
    """How well soft labels agree with the given ones.

    Attributes:
        labels: the soft labels.
        per_class: images and accuracy of each class that has images, by name; lowest accuracy first.
        issues: likely label errors, the least likely given label first.
    """

    labels: SoftLabels
    per_class: dict[str, tuple[int, float]]
    issues: list[LabelIssue]

    def lines(self) -> list[str]:
        """Format the report for the terminal."""
        known, quality = self.labels.manifest, self.labels.manifest.quality
        measured = []
        if quality is not None:
            measured = [
                f"out of fold: they agree with {quality.accuracy:.1%} of {counted(quality.images, 'given label')}, "
                f"{quality.balanced_accuracy:.1%} in the mean of the classes",
                f"calibration: temperature {known.temperature:.2f}, error {quality.calibration_error:.3f}, "
                f"negative log-likelihood {quality.negative_log_likelihood:.3f}",
            ]
        worst = [(name, *counts) for name, counts in self.per_class.items() if counts[1] < 1][:SHOWN]
        named = ", ".join(f"{name} {share:.0%} of {images:,}" for name, images, share in worst)
        given = sum(images for images, _ in self.per_class.values())
        return [
            f"soft labels of {counted(len(self.labels), 'distinct training image')}: {self.labels.layout.folder}",
            *measured,
            *([f"least agreement: {named}"] if worst else []),
            f"likely label errors, by the texts alone: {len(self.issues):,} of {counted(given, 'given label')}: "
            f"{self.labels.layout.doubtful}",
        ]


def report_labels(labels: SoftLabels, images: ImageTable) -> LabelReport:
    """Compare soft labels with the given labels of the training images.

    Args:
        labels: the soft labels.
        images: the images that the labels were made for.

    Raises:
        StoreError: the soft labels have other classes.
    """
    labels.check(images.classes)
    rows = images.split("train")
    positions = labels.find(images.ids[rows])
    chosen = (positions >= 0) & (images.labels[rows] >= 0)
    pairs = np.stack([positions, images.labels[rows]])
    first = np.unique(pairs, axis=1, return_index=True)[1]  # copies in one class count once, as in the labeller
    chosen &= np.isin(np.arange(len(rows)), first)
    rows, positions = rows[chosen], positions[chosen]
    given, ids = images.labels[rows], images.ids[rows]
    predicted = np.empty(len(rows), dtype=np.int64)
    issues = []
    for places in blocks(np.arange(len(rows))):
        probabilities = labels.take(positions[places])  # [b, C]
        predicted[places] = probabilities.argmax(axis=1)
        likelier = find_label_issues(probabilities, given[places])
        for at in np.flatnonzero(likelier >= 0).tolist():
            row, label, other = places[at], given[places[at]], likelier[at]
            issue = LabelIssue(
                image_id=ids[row].decode(),
                path=images.path(int(rows[row])),
                label=images.classes[label],
                probability=float(probabilities[at, label]),
                likelier=images.classes[other],
                its_probability=float(probabilities[at, other]),
            )
            issues.append(issue)
    shares = {
        images.classes[value]: (int((given == value).sum()), float((predicted[given == value] == value).mean()))
        for value in np.unique(given).tolist()
    }
    per_class = dict(sorted(shares.items(), key=lambda item: item[1][1]))
    return LabelReport(labels, per_class, sorted(issues, key=lambda issue: issue.probability))


def describe_text_labels(labels: SoftLabels) -> list[str]:
    """Summarise the estimated quality of text labels in a few lines.

    Raises:
        StoreError: the labels are soft labels, which have no such estimate.
    """
    known = labels.manifest.estimate
    if known is None:
        raise StoreError(f"{labels.layout.folder} holds soft labels, not text labels.")
    lines = [
        f"text labels of {counted(len(labels), 'distinct training and validation image')}: {labels.layout.folder}",
        f"labeller: {known.method}",
    ]
    lines += expected_to_be_right(known)
    if known.picked:
        right = f", {_percent(known.picks)} right where a label is given" if known.picks else ""
        lines.append(f"the LLM itself picked a class for {counted(known.picked, 'image')}{right}")
    shares = zip(labels.classes, known.per_class, strict=True)
    measured = [(share.mean, name) for name, share in shares if share and share.mean < 1]
    if measured:
        worst = ", ".join(f"{name} {share:.0%}" for share, name in sorted(measured)[:SHOWN])
        lines.append(f"least likely right, out of fold: {worst}")
    unknown = [name for name, share in zip(labels.classes, known.per_class, strict=True) if share is None]
    if unknown and known.accuracy is not None and known.unlabelled:
        more = ", ..." if len(unknown) > SHOWN else ""
        lines.append(f"not measured, because no label is given: {', '.join(unknown[:SHOWN])}{more}")
    if known.wrong is not None:
        fate = f"{known.changed:,} replaced" if known.replaced else "all kept"
        lines.append(
            f"expected to be wrong: {_percent(known.wrong)} of {counted(known.labelled, 'given label')}, validation "
            f"included; {fate}"
        )
        lines.append(f"estimated confusion of the given labels: {labels.layout.transition}")
    elif known.labelled:
        lines.append(f"{counted(known.labelled, 'given label')}, all kept: {NOT_ESTIMATED}")
    if known.several:
        keep = "keeps its labels" if known.several == 1 else "keep their labels"
        lines.append(f"no text label: {counted(known.several, 'image')} in more than one class, which {keep}")
    if known.abstained:
        why = "no class is likely enough, or the texts are not shown to predict the classes"
        lines.append(f"no label: {counted(known.abstained, 'image')}, because {why}")
    return lines


def expected_to_be_right(known: LabelEstimate) -> list[str]:
    """State in a line how many text labels should be right; in none if every label is a given one."""
    if known.accuracy is None:
        return ["without given labels it is unknown how many of the new ones are right: label 10 images per class"]
    if not known.unlabelled and not known.replaced:
        return []
    of = "of the labels, given ones included" if known.replaced else f"of {counted(known.unlabelled, 'new label')}"
    if not known.replaced and known.unlabelled <= known.abstained:
        return [f"would be right: {_percent(known.accuracy)} {of}, none of which is given"]
    return [f"expected to be right: {_percent(known.accuracy)} {of}"]


def summarise_text_labels(known: LabelEstimate) -> str:
    """Summarise text labels in a sentence, for the plan of a comparison."""
    if not known.replaced and known.unlabelled <= known.abstained:
        return "as in the baseline, but without label smoothing: given ones are kept, and no image gets a new one"
    without = f"{counted(known.abstained, 'image')} without a label"
    return "; ".join([*expected_to_be_right(known), *([without] if known.abstained else [])])


def write_transition(labels: SoftLabels) -> None:
    """Write the transition matrix of the given labels as a tab-separated table, with a row per true class."""
    known = labels.manifest.estimate
    if known is None or known.transition is None:
        return
    names = [printable(name) for name in labels.classes]
    with atomic_write(labels.layout.transition) as file:
        file.write(("\t".join(["true class", *names]) + "\n").encode())
        for name, row in zip(names, known.transition, strict=True):
            file.write(("\t".join([name, *(f"{share:.4f}" for share in row)]) + "\n").encode())


def _percent(share: ShareEstimate) -> str:
    return f"{share.mean:.1%} ({share.low:.1%} to {share.high:.1%})"


def write_label_issues(path: Path, issues: Iterable[LabelIssue]) -> None:
    """Write likely label errors as a tab-separated table with a heading."""
    with atomic_write(path) as file:
        for line in ("\t".join(COLUMNS), *(issue.line() for issue in issues)):
            file.write(f"{line}\n".encode())


@dataclass(frozen=True)
class ComparedEncoder:
    """How well the vectors of one text encoder, or of several together, predict the classes.

    Attributes:
        name: its name; the names of several are joined by +.
        width: length of its vectors, or of the concatenated ones.
        cut: number of truncated texts, and number of all texts.
        quality: quality of a cross-fitted classifier on its vectors.
    """

    name: str
    width: int
    cut: tuple[int, int]
    quality: LabelQuality

    def line(self) -> str:
        """Format a line of the table below `HEADING`."""
        found, (cut, texts) = self.quality, self.cut
        return (
            f"{self.name:40.40} {self.width:6,} {cut / max(texts, 1):6.1%} {found.accuracy:6.1%} "
            f"{found.balanced_accuracy:8.1%} {found.negative_log_likelihood:6.3f}"
        )


def compare_encoders(
    images: ImageTable, stores: Sequence[EmbeddingStore], folder_of: Callable[[str], Path]
) -> list[ComparedEncoder]:
    """Cross-fit a classifier on the vectors of each encoder, and on those of all together.

    Args:
        images: the images.
        stores: vectors of each encoder.
        folder_of: returns the folder for the soft labels of an encoder, given its name.

    Returns:
        The encoders, the lowest negative log-likelihood first.
    """
    found = []
    for chosen in [*((store,) for store in stores), *([tuple(stores)] if len(stores) > 1 else [])]:
        name = "+".join(store.manifest.encoder for store in chosen)
        quality = label_by_vectors(images, chosen, folder_of(f"compared-{name}")).manifest.quality
        if quality is None:  # never None for cross-fitted labels
            continue
        cut, texts = (sum(getattr(s.manifest, key) for s in chosen) for key in ("truncated", "distinct_texts"))
        found.append(ComparedEncoder(name, sum(store.width for store in chosen), (cut, texts), quality))
    return sorted(found, key=lambda each: each.quality.negative_log_likelihood)
