"""What each finding is called, what it means, and what to do about it, in plain words."""

from __future__ import annotations

from typing import NamedTuple

from gpt4image.describe.quality.records import FindingKind, Severity


class Wording(NamedTuple):
    """Words of one kind of finding.

    Attributes:
        severity: what it asks for.
        title: what was found.
        explanation: what that means.
        advice: what to do.
    """

    severity: Severity
    title: str
    explanation: str
    advice: str


WORDING: dict[FindingKind, Wording] = {
    "missing": Wording(
        "know",
        "Images without a text",
        "They train on their labels alone.",
        "Describe them: give the describe command again, with --retry-failed for those that failed.",
    ),
    "empty": Wording(
        "mend",
        "Empty or nearly empty",
        "Fewer than three words describe nothing, but still become a vector that images are drawn to.",
        "Send them back for another try, or drop them.",
    ),
    "refusal": Wording(
        "mend",
        "Refusals and apologies",
        "The model speaks of itself in place of the image, so images that have nothing in common get texts that are "
        "alike.",
        "Send them back for another try; what is refused again, drop. Many of them call for another prompt or model.",
    ),
    "loop": Wording(
        "mend",
        "Loops",
        "The model says the same again and again, and what it says of the image drowns.",
        "Send them back for another try at a higher temperature, or drop them.",
    ),
    "cut-off": Wording(
        "look",
        "Cut off",
        "The server stopped the text at its longest length, so its end is missing.",
        "Look at a few: where what is there is good, keep them; else send them back with a higher --max-tokens, or ask "
        "for fewer sentences.",
    ),
    "language": Wording(
        "mend",
        "Another language",
        "Most text encoders read one language well, and put texts in another far from those that say the same.",
        "Send them back for another try; name the language in the prompt.",
    ),
    "prompt-echo": Wording(
        "mend",
        "Echoes of the prompt",
        "The text repeats the question, so texts of different images are more alike than the images are.",
        "Send them back for another try, or drop them.",
    ),
    "repeated": Wording(
        "look",
        "The same text on several images",
        "Nothing in it tells these images apart; alignment treats them as one and the same.",
        "Look at the images: where they do differ, send the texts back with a prompt that asks for particulars.",
    ),
    "opening": Wording(
        "know",
        "The same first words on most texts",
        "They take up room in what the encoder reads and say nothing of the image, but do no harm beyond that.",
        "Ask for texts that begin with the main object.",
    ),
    "too-long": Wording(
        "look",
        "Longer than the encoder reads",
        "What lies beyond is not in the vector.",
        "Read them whole with --long-text pool, choose an encoder that reads more, or ask for fewer sentences.",
    ),
    "leakage": Wording(
        "know",
        "Texts that carry their class's name",
        "Where a model names the class because it sees it, that is knowledge; where it names all of a class's images "
        "alike, the text tells nothing beyond the label.",
        "Nothing has to be done. What the texts know without the names stands under what they know.",
    ),
    "contradiction": Wording(
        "look",
        "Texts that speak of another class",
        "A classifier that has seen neither this text nor its copies is sure of another class, and all but rules "
        "out the label. The label is wrong, or the text, or the image belongs to both classes.",
        "Look at image, label and text. Drop the text where it is wrong; correct the label where that is.",
    ),
    "outlier": Wording(
        "look",
        "Texts unlike all others",
        "Even the texts nearest to them are further away than for any usual text: mostly they are not about an image "
        "of this set.",
        "Look at them, and send back or drop those that do not describe their image.",
    ),
}
"""Words of every kind, in the order of `FindingKind`."""
