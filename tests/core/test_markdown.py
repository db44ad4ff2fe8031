"""Untrusted text in Markdown is shown as it is, whatever it contains, and stays readable in the file."""

from __future__ import annotations

import html
import random

import pytest
from markdown_it import MarkdownIt

from gpt4image.core.markdown import escaped, one_line

GITHUB = MarkdownIt("commonmark").enable(["table", "strikethrough"])
PARTS = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "a", "B", "1", "é", " ", "<b>", "](x)", "http://x.org", "&amp;", "~~"]


def test_any_punctuation_is_shown_as_it_is():
    draw = random.Random(0)
    for _ in range(3000):
        text = one_line("".join(draw.choices(PARTS, k=draw.randrange(1, 12))))
        shown = html.escape(text).replace("&#x27;", "'")
        if text:
            assert GITHUB.render(escaped(text)) == f"<p>{shown}</p>\n", text
        table = GITHUB.render(f"| a |\n| --- |\n| {escaped(text)} |\n")
        assert f"<td>{shown}</td>" in table, text


@pytest.mark.parametrize(
    "text",
    [
        "described minus baseline: 1.2 points (95% interval 0.8 to +1.6).",
        "tf_efficientnet_lite0, test_resnet.r160_in1k",
        "openai/gpt-6-luna",
        "max side 768, temperature 0.5",
        "cats, dogs & birds",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert escaped(text) == text


@pytest.mark.parametrize("address", ["https://x.org", "www.x.org", "WWW.x.org", "mailto:a"])
def test_addresses_become_no_links(address):
    assert escaped(address) != address
