"""Thinking in the text of an answer, from servers that do not return it in a separate field."""

from __future__ import annotations

import re

# Markers around thinking: DeepSeek, Qwen and many others; Seed; Keye; Kimi; Magistral; Command; Sky-T1; Gemma;
# channels of gpt-oss.
NAMES = (
    r"(?:\w{1,12}:)?(?:think|cot_\w{1,20})|(?:ant_)?thinking|thinking_process|thoughts?|thought_process|reason|reasoning|analysis|"
    "scratchpad|reflection|planning|(?:inner|internal)_(?:monologue|thoughts?)|chain_of_thought|cot"
)
CHANNEL = r"(?:<\|start\|>assistant)?<\|channel\|>"
OPEN = re.compile(
    rf"(?:<|&lt;)\|?(?:{NAMES})(?:\s[^<>]{{0,80}})?\|?(?:>|&gt;)|◁think▷|\[(?:think(?:ing)?|reasoning)\]|<\|START_THINKING\|>|<\|begin_of_thought\|>|"
    rf"<\|channel>thought|<unused94>thought|{CHANNEL}(?:analysis|commentary)\b.*?<\|message\|>",
    re.IGNORECASE | re.DOTALL,
)
CLOSE = re.compile(
    rf"(?:<|&lt;)\|?/(?:{NAMES})\s?\|?(?:>|&gt;)|◁/think▷|\[/(?:think(?:ing)?|reasoning)\]|assistantfinal|<\|END_THINKING\|>|<\|end_of_thought\|>|<channel\|>|<unused95>|{CHANNEL}final\b.*?<\|message\|>",
    re.IGNORECASE | re.DOTALL,
)

# Open WebUI's collapsible block around thinking.
FOLD = re.compile(r"\s*<details\s[^<>]*type=\"reasoning\"[^<>]*>.*?</details>", re.IGNORECASE | re.DOTALL)

# Markers around the answers of reasoning models: Hunyuan and others trained like R1; GLM; Command.
AROUND_ANSWER = re.compile(
    r"</?(?:answer|response)>|<\|(?:begin|end)_of_(?:box|solution)\|>|<\|(?:START|END)_RESPONSE\|>", re.IGNORECASE
)


BOX = re.compile(r"<\|(?:begin|end)_of_(?:box|solution)\|>")

# End-of-turn markers of chat templates: a server that does not know the model's marker sends it as text.
ENDS_OF_TURN = (
    *("<|im_end|>", "<|eot_id|>", "<|end|>", "<|return|>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>"),
    *(
        "</s>",
        "<eos>",
        "<end_of_turn>",
        "<|eom_id|>",
        "<|END_OF_TURN_TOKEN|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    ),
)


# Thinking under a heading, which could also be part of a description: found by the check, but not stripped.
LABELLED = re.compile(
    r"\W*(?:<summary>\s*)?(?:thinking|thoughts?|thought process|chain of thought|reasoning|inner monologue)"
    r"\W*(?:[:\n]|</summary>)",
    re.IGNORECASE,
)


def strip_thinking(text: str) -> str:
    """Return a text without the thinking before the answer and without end markers; empty if it never stops thinking.

    Only the closing marker is certain: some chat templates put the opening one into the prompt.

    >>> strip_thinking("<think>A cat?</think><answer>A cat.</answer>"), strip_thinking("A cat?</think> A cat.")
    ('A cat.', 'A cat.')
    """
    while (bare := text.rstrip()).endswith(ENDS_OF_TURN):
        text = bare.removesuffix(next(filter(bare.endswith, ENDS_OF_TURN))).rstrip()
    if fold := FOLD.match(text):
        text = text[fold.end() :].lstrip()
    if find_thinking(text) is None:
        return BOX.sub("", text)
    text = text.lstrip()
    while close := CLOSE.search(text):
        opening = OPEN.search(text)
        if opening is not None and 0 < opening.start() < close.start():
            return text  # the answer precedes it
        text = AROUND_ANSWER.sub("", text[close.end() :]).lstrip()
    return "" if OPEN.match(text) else text


def find_thinking(text: str) -> str | None:
    """Return the first marker of thinking in a text, else None."""
    found = OPEN.search(text) or CLOSE.search(text) or FOLD.match(text)
    return found.group() if found else None


def find_labelled_thinking(text: str) -> str | None:
    """Return the heading under which a text begins with thinking, else None.

    >>> find_labelled_thinking("**Thinking:** A cat?"), find_labelled_thinking("Thinking of a cat: a poster.")
    ('**Thinking:', None)
    """
    plain = re.sub(r"</?details>", "", text)
    found = LABELLED.match(plain)
    return found.group().strip() if found else None
