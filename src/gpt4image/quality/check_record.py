"""What checking the descriptions found, as plain records: `descriptions/check.json`. The page reads nothing else."""

from __future__ import annotations

from typing import Literal

from gpt4image.core.record import Record

FindingKind = Literal[
    "missing",
    "empty",
    "refusal",
    "loop",
    "cut-off",
    "language",
    "prompt-echo",
    "repeated",
    "opening",
    "too-long",
    "leakage",
    "contradiction",
    "outlier",
]


"""Kinds of findings, in the order in which they are reported."""


Severity = Literal["mend", "look", "know"]


"""What a finding asks for: `mend` the texts, `look` at them before deciding, or `know` it and go on."""


class FindingItem(Record):
    """One text of a finding, to look at.

    Attributes:
        key: key in the description store, None for texts that were read from a file or column.
        image_id: the image, 32 hex digits.
        path: the image as the source names it; untrusted.
        label: its class, None where it has none.
        text: the description, in full; untrusted. Empty where there is none.
        prompt: the prompt strategy it answers, None where it is not known.
        model: the model that wrote it, None where it is not known.
        detail: what exactly was found in it, such as the words that matched; untrusted.
    """

    key: str | None
    image_id: str
    path: str
    label: str | None
    text: str
    prompt: str | None
    model: str | None
    detail: str


class Finding(Record):
    """One thing that is the matter with some of the texts.

    Attributes:
        kind: the kind.
        severity: what it asks for.
        title: what was found, in a few words.
        explanation: what that means, one sentence.
        advice: what to do about it.
        count: number of texts (images for `missing`) that it concerns.
        share: `count` as a share of all texts (of all images for `missing`), 0 to 1.
        items: some of them to look at, the clearest first.
        keys: keys in the description store of all of them; empty for texts that were read from a file or column.
        image_ids: images of all of them, sorted, each once.
    """

    kind: FindingKind
    severity: Severity
    title: str
    explanation: str
    advice: str
    count: int
    share: float
    items: list[FindingItem]
    keys: list[str]
    image_ids: list[str]


class ClassLeakage(Record):
    """How many of a class's texts carry its name.

    Attributes:
        name: the class.
        sayable: whether the name is made of words that a text can hold; `n01440764` is not.
        texts: texts of the class whose prompt did not say the class, or is not known.
        with_word: how many of those carry the name.
        share: `with_word` as a share of `texts`; None where there are none or the name is not sayable.
        told_texts: texts of the class whose prompt said the class: there the name is expected.
        told_with_word: how many of those carry the name.
    """

    name: str
    sayable: bool
    texts: int
    with_word: int
    share: float | None
    told_texts: int
    told_with_word: int


class Probe(Record):
    """Accuracy out of fold of a linear classifier on frozen vectors, a share of 1, with a 95% interval."""

    accuracy: float
    low: float
    high: float


class PairedGap(Record):
    """Difference of two accuracies on the same images, as shares of 1, with a 95% interval."""

    mean: float
    low: float
    high: float


class ClassKnowledge(Record):
    """One class: its images, and the share of them that each classifier gets right out of fold."""

    name: str
    images: int
    text: float
    image: float
    both: float


class Knowledge(Record):
    """What the texts know beside what frozen image features know. All numbers are out of fold.

    Attributes:
        images: images that were classified: those with a label, a text and enough others of their class.
        folds: folds of the cross-fitting.
        left_out: images left out because their class has too few members, by class.
        chance: accuracy of always answering the largest class.
        text: classifier on the texts' vectors.
        image: classifier on the frozen image features.
        both: classifier on the two together.
        masked: classifier on the texts' vectors after class names were taken out of the texts, where it was asked for.
        text_over_image: accuracy of the texts minus that of the image features.
        both_over_image: accuracy of both minus that of the image features.
        mended: share of the image classifier's errors that the texts get right; None where it makes none.
        broken: share of the image classifier's right answers that the texts get wrong; None where it has none.
        per_class: the classes, in the order of their labels.
        verdict: whether the texts know `more` or `less` than the image features, or neither was shown (`same`).
        title: the verdict in a sentence.
        advice: what follows for whether to go on.
        backbone: the backbone of the image features and where its weights are from.
        encoder: the text encoder.
    """

    images: int
    folds: int
    left_out: dict[str, int]
    chance: float
    text: Probe
    image: Probe
    both: Probe
    masked: Probe | None
    text_over_image: PairedGap
    both_over_image: PairedGap
    mended: float | None
    broken: float | None
    per_class: list[ClassKnowledge]
    verdict: Literal["more", "same", "less"]
    title: str
    advice: str
    backbone: str
    encoder: str


class QualityReport(Record):
    """All that checking the descriptions found.

    Attributes:
        version: version of gpt4image.
        created: when, ISO 8601 in UTC.
        source: the image set, as the user named it.
        text_source: where the texts come from, as the user named it or `description store`.
        images: distinct images that were to be described.
        described: how many of those have a text.
        texts: texts that were checked; more than one an image where several prompts or models answered.
        distinct_texts: how many of those differ.
        failed: requests that failed and have no answer, by reason.
        models: texts by the model that wrote them.
        prompts: texts by the prompt strategy that they answer.
        language: language that the texts are held against, ISO 639-1; None where there are too few long texts to tell.
        encoder: the text encoder, None where texts were not encoded.
        words: words of the shortest text, the median, and the longest.
        findings: what was found, in the order of `FindingKind`; kinds of which there is nothing are left out.
        leakage: class names in the texts, by class in the order of labels.
        knowledge: what the texts know that the model does not; None where it could not be measured.
        no_knowledge: why `knowledge` is None, and how to get it.
        notes: what else a person should know, whole sentences.
    """

    version: str
    created: str
    source: str
    text_source: str
    images: int
    described: int
    texts: int
    distinct_texts: int
    failed: dict[str, int]
    models: dict[str, int]
    prompts: dict[str, int]
    language: str | None
    encoder: str | None
    words: tuple[int, int, int] | None
    findings: list[Finding]
    leakage: list[ClassLeakage]
    knowledge: Knowledge | None
    no_knowledge: str | None
    notes: list[str]
