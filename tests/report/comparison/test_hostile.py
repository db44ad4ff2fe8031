"""Names, descriptions and paths with malicious content, in a real browser."""

from __future__ import annotations

import pytest

from gpt4image.compare.records import Answer, Gallery, VariantRecord
from gpt4image.report import write_report
from support.page_checks import HOSTILE, UNBROKEN, assert_browser_runs_nothing, assert_hostile_text_is_text, measured
from support.report_sample import make_comparison, make_data, make_item, save

LOOKS_HARMLESS = {"description": HOSTILE, "label": HOSTILE, "path": f"{HOSTILE}/{UNBROKEN}"}


def hostile_records():
    answers = {arm: Answer(answer=HOSTILE, probability=0.5, right=True) for arm in ("baseline", "described")}
    gallery = Gallery(
        items=[make_item("both right", answers=answers, **LOOKS_HARMLESS), make_item(description=UNBROKEN)]
    )
    data = make_data(
        source=HOSTILE + UNBROKEN, descriptions_source=HOSTILE, rejected=[(HOSTILE, HOSTILE), (UNBROKEN, UNBROKEN)],
        images={"train": 5, HOSTILE: 3}, leaked=3)  # fmt: skip
    comparison = make_comparison(
        classes=[HOSTILE, UNBROKEN, "漢字のとても長いクラス名です" * 3, "$x_1$", "plain"],
        data=data, recipe={HOSTILE: HOSTILE, "list": [HOSTILE, UNBROKEN]}, notes=[HOSTILE, UNBROKEN],
        version=HOSTILE, created=HOSTILE, device=HOSTILE)  # fmt: skip
    encoder = comparison.encoders[0].model_copy(update=dict.fromkeys(("name", "revision", "pooling"), HOSTILE))
    arms = [arm.model_copy(update={"title": HOSTILE + UNBROKEN}) for arm in comparison.arms]
    variant = VariantRecord(arm=HOSTILE, title=HOSTILE + UNBROKEN, changes={HOSTILE: HOSTILE}, seeds=[0, 1],
        validation_accuracy=[0.5, 0.6], mean=0.55, chosen=True)  # fmt: skip
    more = {"variants": (variant,), "warnings": (HOSTILE, UNBROKEN)}
    return comparison.model_copy(update={"arms": arms, "encoders": [encoder], **more}), gallery


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    return write_report(save(tmp_path_factory.mktemp("hostile"), *hostile_records()))


def test_hostile_text_is_escaped(page_path):
    assert_hostile_text_is_text(page_path.read_text("utf-8"))


def test_names_are_never_parsed_as_formulas(tmp_path):
    names = ["$x_1$", "a_b^c", "$\\frac{1}{0}$", "$broken"]
    html = write_report(save(tmp_path, make_comparison(classes=names))).read_text("utf-8")
    drawn = html[html.index('aria-label="Difference of test accuracy by class') :]
    drawn = drawn[: drawn.index("</svg>")]
    assert all(f">{name}</text>" in drawn for name in names)


def test_browser_runs_nothing(page_path, dump_dom):
    assert_browser_runs_nothing(dump_dom, page_path, "gpt4image report: ")


def test_browser_runs_the_same_content_unescaped(tmp_path, dump_dom):
    bare = tmp_path / "bare.html"
    bare.write_text("<!doctype html><title>x</title><img src=x onerror=\"document.title='pwned'\">")
    assert "<title>pwned</title>" in dump_dom(bare)


@pytest.mark.parametrize("width", [390, 1200])
def test_page_does_not_scroll_sideways(page_path, dump_dom, tmp_path, width):
    assert measured(dump_dom, page_path, tmp_path, width) == f"{width} of {width}"


@pytest.mark.slow
def test_wide_tables_do_not_widen_the_page(dump_dom, tmp_path):
    path = write_report(save(tmp_path, make_comparison(classes=[f"class {number}" for number in range(30)])))
    assert measured(dump_dom, path, tmp_path, 390) == "390 of 390"
