"""Refusals and apologies: where the model speaks of itself in place of the image."""

from __future__ import annotations

import re

from gpt4image.describe.quality.refusal_phrases import ENGLISH, JOINED, JOINT, OTHERS, START
from gpt4image.describe.quality.words import APOSTROPHE, without_quotes

REFUSED = frozenset({"content_filter", "refusal", "safety", "prohibited_content", "blocklist", "recitation"})
"""Finish reasons of servers that kept an answer back."""

PATTERN = re.compile(
    f"{START}(?:{'|'.join((*ENGLISH, *OTHERS))})|{JOINT}(?:{'|'.join(JOINED)})",
    re.IGNORECASE,
)
QUOTES = '"\u201c\u201d \n'
SHOWN = 80


def find_refusal(text: str, finish_reason: str | None = None) -> str | None:
    """The words with which a model refuses, apologises or says that it sees no image; None where it does not.

    Only sentences that begin so count, and nothing that stands in quotation marks: a dog that refuses to move, a
    letter of apology and a sign saying "sorry" are things to describe.

    >>> find_refusal("I'm sorry, but I can't help with that.")
    "I'm sorry, but I can't help with that."
    >>> find_refusal("A dog refuses to leave the sofa.")
    """
    if finish_reason is not None and finish_reason.casefold() in REFUSED:
        return f"the server kept it back: {finish_reason}"
    plain = without_quotes(text.replace(APOSTROPHE, "'").strip(QUOTES))
    found = PATTERN.search(plain)
    return plain[found.start() :].strip()[:SHOWN] if found else None
