"""The audit page: self-contained, runs our script alone, and saves what a person decided."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from gpt4image.core.record import ShareEstimate
from gpt4image.quality.audit_record import AuditItem, AuditRecord
from gpt4image.report.descriptions.audit_page import write_audit_page
from support.page_checks import HOSTILE, Page, assert_well_structured, measured
from support.report_sample import make_thumbnail

CLASSES = ["cat", "dog", 'a "quoted", class']


def make_item(number, kind="label", given="cat", suggested="dog", **changes):
    return AuditItem(**{
        "image_id": f"{number:032x}", "path": f"cat/{number}.png", "split": "train", "kind": kind, "given": given,
        "labels": [given] if given else ["cat", "dog"], "suggested": suggested, "confidence": 0.9,
        "given_probability": 0.05, "description": "A dog in the grass.", "thumbnail": make_thumbnail(), **changes,
    })  # fmt: skip


def make_audit(items, **changes):
    found = {kind: sum(item.kind == kind for item in items) for kind in ("label", "duplicate", "no class")}
    return AuditRecord(**{
        "version": "0.1.0", "created": "2026-01-02T03:04:05+00:00", "source": "photos", "classes": CLASSES,
        "examined": 100, "wrong": ShareEstimate(mean=0.1, low=0.05, high=0.15), "found": found, "items": items,
        **changes,
    })  # fmt: skip


ITEMS = [
    make_item(1),
    make_item(2, path='cat/with "quotes", and comma.png'),
    make_item(3, suggested=CLASSES[2]),
    make_item(4),
    make_item(5),
    make_item(6, kind="duplicate", given=None),
    make_item(7, kind="no class"),
]


@pytest.fixture
def page(tmp_path):
    return write_audit_page(tmp_path / "audit.html", make_audit(ITEMS))


def decide(dump_dom, page, script):
    """Return the rows of corrections.csv after a script has run in the page."""
    html = page.read_text().replace("Content-Security-Policy", "x-none")
    copy = page.with_name("copy.html")
    copy.write_text(
        html + "<script>const press = (key) => document.dispatchEvent(new KeyboardEvent('keydown', {key}));"
        f"{script}; document.title = JSON.stringify(csv())</script>"
    )
    dom = dump_dom(copy)
    title = re.search(r"<title>(.*?)</title>", dom, flags=re.DOTALL)[1]
    text = json.loads(title.replace("&quot;", '"').replace("&amp;", "&"))
    return list(csv.DictReader(io.StringIO(text)))


def test_keys_decide_move_on_and_are_saved(page, dump_dom):
    rows = decide(dump_dom, page, "for (const key of ['a', 'k', 'a', 'd', 'n', 'a']) press(key)")
    found = [(int(row["id"], 16), row["given"], row["decision"], row["label"]) for row in rows]
    assert found == [
        (1, "cat", "relabel", "dog"),
        (2, "cat", "keep", ""),
        (3, "cat", "relabel", CLASSES[2]),
        (4, "cat", "drop", ""),
        (6, "", "relabel", "dog"),
    ]
    assert rows[1]["path"] == 'cat/with "quotes", and comma.png'


def test_undo_takes_a_decision_back(page, dump_dom):
    assert decide(dump_dom, page, "press('a'); press('ArrowUp'); press('u')") == []


def test_buttons_and_the_list_of_classes_decide_too(page, dump_dom):
    script = (
        "items[0].querySelector('[data-action=d]').click();"
        "const list = items[1].querySelector('select'); list.value = 'dog';"
        "list.dispatchEvent(new Event('change', {bubbles: true}));"
        "items[5].querySelector('[data-label=cat]').click()"
    )
    rows = decide(dump_dom, page, script)
    found = [(int(row["id"], 16), row["decision"], row["label"]) for row in rows]
    assert found == [(1, "drop", ""), (2, "relabel", "dog"), (6, "relabel", "cat")]


@pytest.mark.slow
def test_decisions_survive_a_reload(page, dump_dom):
    script = "press('a'); document.title = localStorage.getItem(storage)"
    assert decide(dump_dom, page, script)
    reloaded = "decisions = JSON.parse(localStorage.getItem(storage)); show()"
    assert [row["decision"] for row in decide(dump_dom, page, reloaded)] == ["relabel"]


def test_script_runs_under_the_pages_own_policy(page, dump_dom):
    assert "0 of 7 decided" in dump_dom(page)


def test_hostile_text_is_text(tmp_path, dump_dom):
    item = make_item(1, path=HOSTILE, given=HOSTILE, suggested=HOSTILE, description=HOSTILE)
    path = write_audit_page(tmp_path / "audit.html", make_audit([item], source=HOSTILE, classes=[HOSTILE, "dog"]))
    html = path.read_text()
    page = Page(html)
    assert html.count("<script") == 1 and "{{7*1000003}}" in page.words and "7000021" not in page.words
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
    (policy,) = [attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes]
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy
    )
    dom = dump_dom(path)
    assert dom[dom.index("<title>") + 7 :].startswith("gpt4image audit")


def test_page_is_well_structured_and_fits_a_phone(page, dump_dom, tmp_path):
    assert_well_structured(Page(page.read_text()))
    assert measured(dump_dom, page, tmp_path, 400) == "400 of 400"


def test_card_shows_every_path_of_an_image_and_the_label_of_each(tmp_path):
    places = {"cat": ["cat/1.png", "cat/again.png"], "dog": ["dog/7.png"]}
    items = [
        make_item(1, kind="duplicate", given=None, path="cat/1.png", places=places),
        make_item(2, path="cat/2.png", places={"cat": ["cat/2.png", "cat/3.png"]}),
    ]
    page = Page(write_audit_page(tmp_path / "audit.html", make_audit(items, undescribed=3)).read_text())
    assert "cat cat/ 1.png , cat/ again.png dog dog/ 7.png train" in page.words
    assert "? cat/ 2.png , cat/ 3.png train" in page.words
    assert "Not examined, since they have no description: 3 labelled images" in page.words


def test_audit_without_findings_says_so(tmp_path):
    page = Page(write_audit_page(tmp_path / "audit.html", make_audit([], wrong=None)).read_text())
    assert "every label agrees with its description" in page.words
    assert "cannot be estimated" in page.words
