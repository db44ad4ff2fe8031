"""Properties of every page, whatever it shows, and a browser to check them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

HOSTILE = (
    "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"></style></svg>"
    "<meta http-equiv=refresh content='0;url=http://evil.example/'>\"' onload=\"document.title='pwned'\" {{7*1000003}} "
    "{% raw %} $\\frac{1}{0}$ ]]> --> &lt;b&gt; \u202egnp.exe \u2066\x1b[31mred\x07\x00 \ufffe"
)
UNBROKEN = "w" * 10_000
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}


class Page(HTMLParser):
    """Parses a page into tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def assert_self_contained(html, page):
    """Assert that a page runs and loads nothing, and that its policy forbids it."""
    policy = [attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/")), (tag, attrs)
        for value in attrs.values():
            assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?(.)", value or "")), (tag, attrs)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style


def assert_well_structured(page):
    """Assert that ids are unique, links resolve, headings descend by one, and tables and images are labelled."""
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for _, attrs in page.tags if attrs.get("href", "").startswith("#")}
    targets |= {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs}
    for _, attrs in page.tags:
        targets |= set(re.findall(r"url\(#([^)]+)\)", attrs.get("clip-path") or ""))
    assert targets <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attrs["alt"] for attrs in page.all("img"))


def assert_browser_runs_nothing(dump_dom, path, title):
    """Assert that a real browser shows `HOSTILE` as text and keeps the page's title."""
    dom = dump_dom(path)
    assert dom[dom.index("<title>") + 7 : dom.index("</title>")].startswith(title)
    assert "&lt;script&gt;document.title='pwned'&lt;/script&gt;" in dom
    assert_self_contained(dom, Page(dom))


def assert_hostile_text_is_text(html):
    """Assert that `HOSTILE` is plain text on the page and its invisible characters are escaped."""
    page = Page(html)
    assert_self_contained(html, page)
    assert "<script>document.title='pwned'</script>" in page.words
    assert "{{7*1000003}}" in page.words and "7000021" not in page.words
    assert "\\u202egnp.exe \\u2066\\x1b[31mred\\x07\\x00 \\ufffe" in page.words
    assert not set("\u202e\u2066\x1b\x07\x00\ufffe") & set(html)


def measured(dump_dom, path, tmp_path, width):
    """Return the scroll width of a copy with all details open, in a frame of the given width."""
    return evaluated(dump_dom, path, tmp_path, width, "document.documentElement.scrollWidth + ' of ' + innerWidth")


def cut_off_tables(dump_dom, path, tmp_path, width):
    """Return the captions of the tables that are wider than their box, with all details open."""
    wide = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth + 1)"
    found = f"{wide}.map(box => box.getAttribute('aria-label')).join(';')"
    return [name for name in evaluated(dump_dom, path, tmp_path, width, found).split(";") if name]


def evaluated(dump_dom, path, tmp_path, width, expression):
    """Return a JavaScript expression's value in a copy with all details open, in a frame of the given width."""
    html = path.read_text("utf-8").replace("Content-Security-Policy", "x-none")
    script = (
        "<script>document.querySelectorAll('details').forEach(d => d.open = true);"
        f"parent.postMessage({expression}, '*')</script>"
    )
    (tmp_path / "copy.html").write_text(html + script, "utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<!doctype html><title>none</title><script>onmessage = e => document.title = e.data</script>"
        f"<iframe src=copy.html width={width} height=800 style='border:0'></iframe>"
    )
    dom = dump_dom(frame, "--virtual-time-budget=3000")
    return dom[dom.index("<title>") + 7 : dom.index("</title>")]


@pytest.fixture(scope="session")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium found, and CI is set")
        pytest.skip("no chromium found")
    return found


@pytest.fixture
def dump_dom(chromium, tmp_path):
    def dump(page: Path, *flags: str) -> str:
        command = [chromium, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()

    return dump
