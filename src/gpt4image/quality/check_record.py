"""The records of a check of descriptions, kept as `descriptions/check.json`; the page reads nothing else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gpt4image.core.format import points
from gpt4image.core.record import Record

# In the order of the report
FindingKind = Literal[
    "missing",
    "empty",
    "refusal",
    "thinking",
    "loop",
    "cut-off",
    "unknown-end",
    "language",
    "prompt-echo",
    "repeated",
    "opening",
    "too-long",
    "leakage",
    "contradiction",
    "outlier",
]

OLD_SEVERITIES = {"mend": "fix", "look": "review", "know": "info"}  # in files of version 0.1

# `fix`: drop or retry the texts; `review`: look at them and decide; `info`: nothing has to be done
Severity = Annotated[Literal["fix", "review", "info"], BeforeValidator(lambda word: OLD_SEVERITIES.get(word, word))]


class FindingItem(Record):
    """One text of a finding, as an example.

    Attributes:
        key: key in the description store; None for texts from a file or column.
        image_id: the image, 32 hex digits.
        path: path of the image within its source; untrusted.
        label: class of the image; None without one.
        text: the whole description, empty if there is none; untrusted.
        prompt: name of the prompt; None if unknown.
        model: the model that wrote the text; None if unknown.
        detail: what exactly was found, such as the matching words; untrusted.
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
    """All texts that one check flags.

    Attributes:
        kind: the check.
        severity: what the user has to do.
        title: the problem in a few words.
        explanation: what it means, one sentence.
        advice: the remedy.
        count: number of texts, or of images for `missing`.
        share: `count` as a share of all texts, or of all images for `missing`, 0 to 1.
        items: examples, the clearest first.
        keys: keys of all texts in the description store; empty for texts from a file or column.
        image_ids: images of all texts, sorted, each once.
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
    """How many texts of a class contain its name.

    Attributes:
        name: the class.
        sayable: whether the name consists of words that a text can contain; `n01440764` does not.
        texts: texts of the class whose prompt did not name the class, or is unknown.
        with_word: how many of those contain the name.
        share: `with_word` as a share of `texts`; None without such texts or with a name that is not sayable.
        told_texts: texts of the class whose prompt named the class, where the name is expected.
        told_with_word: how many of those contain the name.
    """

    name: str
    sayable: bool
    texts: int
    with_word: int
    share: float | None
    told_texts: int
    told_with_word: int


# Verdict on texts compared with image features. `adds`: not better by themselves, but both together are; `same`: no
# difference was shown
ProbeVerdict = Literal["more", "adds", "same", "less"]


class Probe(Record):
    """Out-of-fold accuracy of a linear classifier on frozen vectors, from 0 to 1, with a 95% interval."""

    accuracy: float
    low: float
    high: float


class PairedGap(Record):
    """Difference of two accuracies on the same images, from -1 to 1, with a 95% interval."""

    mean: float
    low: float
    high: float

    def in_words(self, of: str = "") -> str:
        """Format it in percentage points with its interval; `of` names the kind of interval.

        >>> PairedGap(mean=0.293, low=0.25, high=0.335).in_words("95% interval ")
        '+29.3 points (95% interval +25.0 to +33.5)'
        """
        mean, low, high = points((self.mean, self.low, self.high))
        return f"{mean} points ({of}{low} to {high})"


class ClassKnowledge(Record):
    """One class: its number of images, and the out-of-fold accuracy of each classifier on them."""

    name: str
    images: int
    text: float
    image: float
    both: float


class Knowledge(Record):
    """How well texts and frozen image features predict the class, separately and together. All numbers are out-of-fold.

    Attributes:
        images: images that were classified: those with a label, a text and enough others of their class.
        folds: number of folds.
        left_out: images of classes with too few members, by class.
        chance: accuracy of always predicting the largest class.
        text: classifier on the texts' vectors.
        image: classifier on the frozen image features.
        both: classifier on the two together.
        masked: classifier on vectors of the texts without class names; None if hardly any text has one.
        text_over_image: accuracy of the texts minus that of the image features.
        both_over_image: accuracy of both minus that of the image features.
        mended: share of the image classifier's errors that the texts get right; None without errors.
        broken: share of the image classifier's correct predictions that the texts get wrong; None without any.
        per_class: the classes, in the order of their labels.
        verdict: whether the texts know more or less than the image features.
        title: the verdict in a sentence.
        advice: what to do about it.
        backbone: the backbone of the image features and the source of its weights.
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
    verdict: ProbeVerdict
    title: str
    advice: str
    backbone: str
    encoder: str


class ShownAdvice(Record):
    """Advice on what to train, as the terminal shows it.

    Attributes:
        head: lines of the advice itself.
        command: command to run.
        rest: lines on the evidence for the advice and on what would help more.
    """

    head: list[str]
    command: str
    rest: list[str]


class QualityReport(Record):
    """Everything that a check of descriptions found.

    Attributes:
        version: version of gpt4image.
        created: time of the check, ISO 8601 in UTC.
        source: the image set, as the user named it.
        text_source: the texts' source, as the user named it, or `description store`.
        images: distinct images that should have a text.
        described: how many of those have one.
        texts: texts that were checked; several per image if several prompts or models answered.
        distinct_texts: number of distinct texts among them.
        failed: failed requests by reason.
        failed_with: the commonest message for each reason and what helps, shown after the reason; untrusted.
        models: texts by model, as requested.
        served_models: texts by model, as the servers named it.
        prompts: texts by prompt.
        language: expected language, ISO 639-1; None if too few texts are long enough to determine it.
        encoder: the text encoder, None if texts were not encoded.
        words: words of the shortest text, the median, and the longest.
        findings: the findings, in the order of `FindingKind`.
        leakage: class names in the texts, by class in the order of labels.
        knowledge: what the texts add to the image features; None if it was not measured.
        no_knowledge: why it was not measured, and how to get it.
        notes: further notes, whole sentences.
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
    failed_with: dict[str, str] = Field(default_factory=dict)
    models: dict[str, int]
    served_models: dict[str, int] = Field(default_factory=dict)
    prompts: dict[str, int]
    language: str | None
    encoder: str | None
    words: tuple[int, int, int] | None
    findings: list[Finding]
    leakage: list[ClassLeakage]
    knowledge: Knowledge | None
    no_knowledge: str | None
    notes: list[str]
