"""Thinking in the text of an answer, where a server does not return it in a field of its own."""

from __future__ import annotations

import re

# Markers around thinking: DeepSeek, Qwen and many others; Kimi; Magistral; the channels of gpt-oss.
NAMES = "think|thinking|thought|reasoning"
OPEN = re.compile(
    rf"<(?:{NAMES})>|◁think▷|\[THINK\]|(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)\b.*?<\|message\|>",
    re.IGNORECASE | re.DOTALL,
)
CLOSE = re.compile(
    rf"</(?:{NAMES})>|◁/think▷|\[/THINK\]|(?:<\|start\|>assistant)?<\|channel\|>final\b.*?<\|message\|>",
    re.IGNORECASE | re.DOTALL,
)


def strip_thinking(text: str) -> str:
    """Return a text without the thinking before the answer; empty if the text ends while thinking.

    Only the closing marker is sure to be there: some chat templates put the opening one into the prompt.

    >>> strip_thinking("<think>A cat?</think>A cat."), strip_thinking("A cat?</think> A cat.")
    ('A cat.', 'A cat.')
    """
    if find_thinking(text) is None:
        return text
    text = text.lstrip()
    while close := CLOSE.search(text):
        opening = OPEN.search(text)
        if opening is not None and 0 < opening.start() < close.start():
            return text  # the answer precedes it
        text = text[close.end() :].lstrip()
    return "" if OPEN.match(text) else text


def find_thinking(text: str) -> str | None:
    """Return the first marker of thinking in a text, else None."""
    found = OPEN.search(text) or CLOSE.search(text)
    return found.group() if found else None
