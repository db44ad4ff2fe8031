"""The preview: every description with its image, prompt and cost, whatever they contain."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gpt4image.report.descriptions import write_preview
from support.page_checks import (
    HOSTILE,
    UNBROKEN,
    Page,
    assert_browser_runs_nothing,
    assert_hostile_text_is_text,
    assert_self_contained,
    assert_well_structured,
    measured,
)
from support.pages_sample import example_items, make_head, make_item


def write(path, items, **head):
    html = write_preview(path / "preview.html", items, make_head(**head)).read_text("utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain"), example_items())


def test_page_is_complete_and_self_contained(plain):
    html, page = plain
    assert_self_contained(html, page)
    assert_well_structured(page)
    assert "11 descriptions of 6 images" in page.words and "1 request failed;" in page.words
    assert "by gpt-4o-mini" in page.words and "$0.0024" in page.words
    assert "Remaining 1,196 descriptions (estimated from 8)" in page.words
    assert len(page.all("img")) == len(page.all("section")) == 6 and len(page.all("article")) == 12


def test_description_shows_text_prompt_and_cost(plain):
    html, _ = plain
    article = html[html.index("<article>", html.index("<article>") + 1) :]
    words = Page(article[: article.index("</article>") + 10]).words
    assert "finish reason: stop 1,105 tokens in" in words and "$0.00020" in words
    assert "The prompt as sent Question" in words
    assert "This is a picture of: animals. Describe how the animals look in" in html


def test_failures_and_cut_off_texts_are_marked(plain):
    _, page = plain
    assert "Failed: server error 500 The server had an error. Retry later." in page.words
    assert page.words.count("cut off at the token limit") == 1


def test_descriptions_of_an_image_are_grouped(tmp_path):
    items = [
        make_item(image_id=f"{image:032x}", path=f"{image}.png", prompt=prompt, sample=sample)
        for prompt in ("plain", "attributes")
        for sample in (0, 1)
        for image in (2, 1)
    ]
    _, page = write(tmp_path, items)
    assert page.words.index("2.png") < page.words.index("1.png")
    first = page.words[page.words.index("2.png") : page.words.index("1.png")]
    order = ["plain sample 1", "plain sample 2", "attributes sample 1", "attributes sample 2"]
    assert sorted(order, key=first.index) == order


def test_system_message_and_every_question_are_shown(tmp_path):
    item = make_item(system="Be brief.\nSay only what is seen.", turns=("What is it?", "What colour is it?"))
    html, page = write(tmp_path, [item])
    assert "System Be brief." in page.words and "Question 1 What is it?" in page.words
    assert "Be brief.<br>Say only what is seen." in html and "Question 2 What colour is it?" in page.words


def test_served_model_is_shown_if_it_differs(tmp_path):
    _, page = write(tmp_path, [make_item(served_model="gpt-4o-mini-2024-07-18")])
    assert "gpt-4o-mini-2024-07-18" in page.words


def test_unknown_counts_and_prices_are_stated(tmp_path):
    nothing = {"tokens_in": None, "tokens_out": None, "cost": None, "finish_reason": None, "text": ""}
    _, page = write(tmp_path, [make_item(thumbnail=None, label=None, **nothing)], spent=None, estimate=())
    assert page.words.count("not counted by this server") == 2
    assert "unknown: no price for this model" in page.words and "The whole set" not in page.words
    assert "The answer is empty." in page.words and "no class" in page.words and "cannot be read" in page.words


def test_failures_alone_and_no_items_render(tmp_path):
    html, page = write(tmp_path, [make_item(error="too slow", text="")])
    assert "0 descriptions of 1 image" in page.words and "Failed: too slow" in page.words
    assert_self_contained(html, page)
    html, page = write(tmp_path, [])
    assert "No descriptions yet." in page.words
    assert_self_contained(html, page)


def test_same_items_give_the_same_bytes(tmp_path):
    first, second = (write_preview(tmp_path / name, example_items(2), make_head()).read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("thumbnail", ["https://example.org/x.jpg", "data:text/html;base64,AAAA", "", "javascript:1"])
def test_thumbnails_other_than_embedded_pictures_are_errors(tmp_path, thumbnail):
    with pytest.raises(ValueError, match="JPEG or PNG"):
        write_preview(tmp_path / "preview.html", [make_item(thumbnail=thumbnail)], make_head())
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def hostile_path(tmp_path_factory):
    texts = {"text": HOSTILE, "prompt": HOSTILE, "finish_reason": HOSTILE, "model": HOSTILE, "served_model": UNBROKEN}
    words = {"path": HOSTILE + UNBROKEN, "label": HOSTILE, "system": HOSTILE, "turns": (HOSTILE, UNBROKEN)}
    items = [
        make_item(**texts, **words),
        make_item(text=UNBROKEN, path=UNBROKEN, label=UNBROKEN, image_id="2"),
        make_item(error=HOSTILE, detail=HOSTILE + UNBROKEN, text="", image_id="3"),
    ]
    head = make_head(source=HOSTILE + UNBROKEN, model=HOSTILE, version=HOSTILE, created=HOSTILE, estimate=(
        f"{HOSTILE}: {HOSTILE}", UNBROKEN))  # fmt: skip
    return write_preview(tmp_path_factory.mktemp("hostile") / "preview.html", items, head)


def test_hostile_text_is_escaped(hostile_path):
    assert_hostile_text_is_text(hostile_path.read_text("utf-8"))


def test_browser_runs_nothing(hostile_path, dump_dom):
    assert_browser_runs_nothing(dump_dom, hostile_path, "gpt4image preview: ")


@pytest.mark.parametrize("width", [390, 1200])
def test_page_does_not_scroll_sideways(hostile_path, dump_dom, tmp_path, width):
    assert measured(dump_dom, hostile_path, tmp_path, width) == f"{width} of {width}"


@pytest.mark.slow
def test_templates_and_figures_are_not_loaded_before_they_are_needed(tmp_path):
    code = (
        "import sys, pathlib, gpt4image.report.descriptions as pages\n"
        "assert not {'jinja2', 'matplotlib', 'torch'} & set(sys.modules)\n"
        "pages.write_preview(pathlib.Path(sys.argv[1]), [], pages.PreviewHead('a', 'b', 'c', 'd'))\n"
        "assert not {'torch', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "preview.html")], check=True)
