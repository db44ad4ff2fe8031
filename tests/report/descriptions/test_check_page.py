"""The check page: the verdict first, then every finding with its texts, whatever they contain."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from gpt4image.images.thumbnails import image_thumbnails
from gpt4image.quality.check_record import QualityReport, ShownAdvice
from gpt4image.report.descriptions import write_check_page
from gpt4image.report.descriptions.check_page import report_lines
from support.page_checks import (
    HOSTILE,
    UNBROKEN,
    Page,
    assert_browser_runs_nothing,
    assert_hostile_text_is_text,
    assert_self_contained,
    assert_well_structured,
    cut_off_tables,
    measured,
)
from support.pages_sample import (
    as_address,
    example_thumbnails,
    make_finding,
    make_finding_item,
    make_gap,
    make_knowledge,
    make_leakage,
    make_probe,
    make_report,
)


def write(path, report, thumbnails=lambda _: None):
    html = write_check_page(path / "check.html", report, thumbnails).read_text("utf-8")
    return html, Page(html)


def small_picture():
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (90, 140, 200)).save(buffer, "PNG")
    return as_address(buffer.getvalue())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain"), make_report(), example_thumbnails())


def test_sections_are_in_order(plain):
    html, page = plain
    assert_self_contained(html, page)
    assert_well_structured(page)
    marks = [
        "Do the texts know more than the model?",
        "The texts predict the class better than the image features do: +28.7 points (95% interval +26.0 to +31.4).",
        "Only a comparison tells",
        "Fix first:",
        "1,816 of 1,830 (99.2%)",
        "server error 500 (11 requests)",
        "Fix: drop or retry these texts.",
        "Such a text says nothing about the image.",
        "Texts that name their class, by class",
        "1 image in more than one class",
    ]
    places = [page.words.index(mark) for mark in marks]
    assert places == sorted(places)
    assert 'href="#finding-refusal"' in html and 'id="finding-refusal"' in html


def test_figures_are_labelled_with_their_numbers(plain):
    html, page = plain
    labels = [attrs["aria-label"] for attrs in page.all("svg")]
    assert len(labels) == 2
    assert "texts alone 81.6% (79.3% to 83.9%); image alone 52.9%" in labels[0]
    assert "Always the largest class: 20.0%." in labels[0]
    assert "image +28.7 (95% interval +26.0 to +31.4)" in labels[1]
    assert all(f">{name}</text>" in html for name in ("texts alone", "image alone", "both", "81.6", "52.9"))


def test_colours_mean_the_same_as_in_a_comparison(plain):
    """Without descriptions is the first arm's colour, with them the second's."""
    html, _ = plain
    figure = html[html.index("<figure>") :]
    bars = re.findall(r"fill: ?var\(--(arm-\d)\)", figure[: figure.index("</figure>")])
    assert list(dict.fromkeys(bars)) == ["arm-2", "arm-0", "arm-1"]  # texts alone, image alone, both


def test_texts_without_class_names_have_their_own_bar(tmp_path):
    html, page = write(tmp_path, make_report(knowledge=make_knowledge(masked=make_probe(0.75))))
    assert ">without class names</text>" in html
    assert "with class names removed from the texts" in page.words


def test_extreme_accuracies_can_be_drawn(tmp_path):
    sure, none = make_probe(1.0, 0.0), make_probe(0.0, 0.0)
    knowledge = make_knowledge(chance=1.0, text=none, image=sure, both=sure, text_over_image=make_gap(-1.0, 0.0),
                               both_over_image=make_gap(0.0, 0.0), mended=None, broken=1.0, verdict="less",
                               left_out={"rare": 2, "rarer": 1}, per_class=[])  # fmt: skip
    html, page = write(tmp_path, make_report(knowledge=knowledge))
    assert_self_contained(html, page)
    assert "3 images of 2 classes with too few images" in page.words and "Fixed" not in page.words


def test_found_words_are_highlighted(plain):
    html, _ = plain
    assert html.count("<mark>I&#39;m sorry, but I can&#39;t help with identifying people in images</mark>.") == 3
    assert "<mark>with three tines, with three tines, with" in html and "with three tines (40 times in a row)" in html
    assert "<mark>food</mark>" in html and "<mark>A dark green</mark> wine bottle" in html


def test_end_of_a_cut_off_text_is_shown(plain):
    html, _ = plain
    section = html[html.index('id="finding-cut-off"') :]
    assert "It stands on all 8" in Page(section[section.index("<ul") : section.index("</ul>") + 5]).words


def test_cards_and_ids_are_limited(tmp_path):
    items = [make_finding_item(image_id=f"{number:032x}", path=f"{number}.png") for number in range(40)]
    asked = []
    finding = make_finding("opening", "info", "A common opening", items, 5000)
    ids = [f"{number:032x}" for number in range(5000)]
    report = make_report(findings=[finding.model_copy(update={"image_ids": ids})])
    html, page = write(tmp_path, report, asked.append)
    assert html.count('<li class="card">') == len(asked) == 24
    assert "18 more examples" in page.words and "4,976 more images by id" in page.words
    assert "The first 1,000; check.json lists them all." in page.words
    assert f"{24:032x}" in html and f"{1023:032x}" in html and f"{1024:032x}" not in html


def test_each_thumbnail_is_read_once(tmp_path):
    items = [make_finding_item()] * 3
    asked = []
    findings = [make_finding(kind, "review", kind, items) for kind in ("refusal", "loop")]

    def thumbnails(image_id):
        asked.append(image_id)
        return small_picture()

    html, _ = write(tmp_path, make_report(findings=findings), thumbnails)
    assert len(asked) == 1 and html.count("<img ") == 6


def test_report_without_findings_and_knowledge(tmp_path):
    reason = "It needs at least two classes with ten images each."
    bare = make_report(knowledge=None, no_knowledge=reason, findings=[], leakage=[], notes=[], failed={}, models={},
                       prompts={}, words=None, language=None, encoder=None, images=0, described=0, texts=0,
                       distinct_texts=0)  # fmt: skip
    html, page = write(tmp_path, bare)
    assert_self_contained(html, page)
    assert_well_structured(page)
    assert "Not measured" in page.words and reason in page.words
    assert "No problems found in the texts." in page.words
    assert "<svg" not in html and "Fix first" not in page.words


def test_missing_images_labels_and_texts_are_stated(tmp_path):
    item = make_finding_item(text="", label=None, prompt=None, model=None, detail="server error 500")
    finding = make_finding("missing", "info", "Images without a text", [item], 1)
    _, page = write(tmp_path, make_report(findings=[finding]))
    for words in ("The image cannot be read.", "no class", "No text.", "server error 500", "(1 image, 0.1%)"):
        assert words in page.words


def test_class_names_are_sorted_by_share(tmp_path):
    leakage = [
        make_leakage("few", 100, 3),
        make_leakage("n01440764", 50, 0, sayable=False),
        make_leakage("many", 10, 9),
    ]
    html, page = write(tmp_path, make_report(findings=[], leakage=leakage))
    assert "12 texts of 110 (10.9%) name their own class" in page.words
    table = page.words[page.words.index("Class Texts With the name Share") :]
    assert table.index("many") < table.index("few") < table.index("n01440764 50")
    assert "not a word" in table
    assert 'style="--share:0.900"' in html and "Class in the prompt" not in page.words


def test_thousand_classes_are_folded(tmp_path):
    classes = [f"class {number:04}" for number in range(1000)]
    leakage = [make_leakage(name, 100, number % 100) for number, name in enumerate(classes)]
    html, page = write(tmp_path, make_report(knowledge=make_knowledge(classes), leakage=leakage))
    assert_self_contained(html, page)
    assert "1,000 classes in numbers" in page.words and "985 more classes" in page.words
    assert len(html) < 1_500_000


def test_saved_report_gives_the_same_bytes(tmp_path, plain):
    make_report().save(tmp_path / "check.json")
    html, _ = write(tmp_path, QualityReport.load(tmp_path / "check.json"), example_thumbnails())
    assert html == plain[0]


def test_tables_with_many_columns_hint_at_scrolling(plain):
    html, page = plain
    wide = [attrs["aria-label"] for attrs in page.all("div") if attrs.get("class") == "scroll wide"]
    assert len(wide) == 3 and "All findings" in wide
    assert ".wide::before { content: " in html


def test_summary_for_the_terminal_names_counts_severities_and_accuracies():
    lines = report_lines(make_report())
    assert lines[0] == "1,816 of 1,830 distinct images described, 1,830 texts, 1,809 of them distinct"
    assert "failed: 11 server error 500" in lines
    row = next(line for line in lines if line.startswith("  refusal"))
    assert row.split(maxsplit=4)[1:] == ["3", "0.2%", "fix", "Refusals and apologies"]
    assert "fix: drop or retry these texts" in "".join(lines)
    assert any("texts alone 81.6%" in line and "image" in line and "out of fold" in line for line in lines)
    bare = report_lines(make_report(findings=[], knowledge=None, no_knowledge="No backbone."))
    assert "No problems found in the texts." in bare
    assert "Texts and image features were not compared: No backbone." in bare


def test_findings_and_classes_are_not_cut_off_on_a_phone(tmp_path, dump_dom):
    write(tmp_path, make_report())
    cut_off = cut_off_tables(dump_dom, tmp_path / "check.html", tmp_path, 400)
    assert not {"All findings", "Accuracy of each classifier by class"}.intersection(cut_off)


@pytest.mark.parametrize("thumbnail", ["https://example.org/x.jpg", "data:image/svg+xml;base64,PHN2Zz4=", ""])
def test_thumbnails_other_than_embedded_pictures_are_errors(tmp_path, thumbnail):
    with pytest.raises(ValueError, match="JPEG or PNG"):
        write_check_page(tmp_path / "check.html", make_report(), lambda _: thumbnail)
    assert not list(tmp_path.iterdir())


def test_thumbnails_of_unreadable_images_are_none(tmp_path, image_set):
    import shutil

    from gpt4image import load_images

    folder = tmp_path / "images"
    shutil.copytree(image_set, folder)
    images = load_images(folder, work=tmp_path / "work")
    (folder / images.path(1)).write_bytes(b"no picture any more")
    thumbnails = image_thumbnails(images)
    assert thumbnails(images.ids[0].decode()).startswith("data:image/jpeg;base64,")
    assert thumbnails(images.ids[1].decode()) is None
    assert thumbnails("f" * 32) is None


def test_advice_has_the_lines_of_the_terminal_and_the_command(tmp_path):
    advice = ShownAdvice(
        head=["Train text-labels.", "gain: 10 points"], command="gpt4image compare x", rest=["60 labels"]
    )
    page = Page(write_check_page(tmp_path / "check.html", make_report(), lambda _: None, advice).read_text("utf-8"))
    assert_well_structured(page)
    for line in ("What to train", *advice.head, advice.command, *advice.rest):
        assert line in page.words


@pytest.fixture(scope="module")
def hostile_path(tmp_path_factory):
    words = dict.fromkeys(("text", "label", "prompt", "model", "detail"), HOSTILE)
    items = [
        make_finding_item(path=HOSTILE + UNBROKEN, **words),
        make_finding_item(path=UNBROKEN, text=UNBROKEN, detail=UNBROKEN, label=UNBROKEN, image_id=HOSTILE),
        make_finding_item(text=HOSTILE * 40, detail="document.title"),
    ]
    said = dict.fromkeys(("explanation", "advice"), HOSTILE)
    finding = make_finding("refusal", "fix", HOSTILE, items, 3).model_copy(update=said | {"image_ids": [HOSTILE] * 3})
    knowledge = make_knowledge([HOSTILE, UNBROKEN], left_out={HOSTILE: 1},
                               **dict.fromkeys(("title", "advice", "backbone", "encoder"), HOSTILE))  # fmt: skip
    counts = {HOSTILE: 3, UNBROKEN: 4}
    report = make_report(findings=[finding], knowledge=knowledge, failed=counts, models=counts, prompts=counts,
                         failed_with={HOSTILE: HOSTILE, UNBROKEN: UNBROKEN},
                         leakage=[make_leakage(HOSTILE), make_leakage(UNBROKEN)], notes=[HOSTILE, UNBROKEN],
                         **dict.fromkeys(("version", "created", "source", "text_source", "language", "encoder"),
                                         HOSTILE))  # fmt: skip
    advice = ShownAdvice(head=[HOSTILE, UNBROKEN], command=HOSTILE, rest=[HOSTILE, UNBROKEN])
    path = tmp_path_factory.mktemp("hostile") / "check.html"
    return write_check_page(path, report, lambda _: small_picture(), advice)


def test_hostile_text_is_escaped(hostile_path):
    assert_hostile_text_is_text(hostile_path.read_text("utf-8"))


def test_browser_runs_nothing(hostile_path, dump_dom):
    assert_browser_runs_nothing(dump_dom, hostile_path, "gpt4image check: ")


@pytest.mark.parametrize("width", [390, 1200])
def test_page_does_not_scroll_sideways(hostile_path, dump_dom, tmp_path, width):
    assert measured(dump_dom, hostile_path, tmp_path, width) == f"{width} of {width}"
