"""The documentation site builds without a warning, and no link leads nowhere."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

import gpt4image
from gpt4image.cli.commands import COMMANDS
from support import ROOT
from support.forks import forked_python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q", "-b", "html", "-D", "nb_execution_mode=off"]  # test_tutorials.py runs them
    options += ["-D", "suppress_warnings=myst-nb.lexer"]  # no kernel tells the language
    forked_python(["-m", "sphinx", *options, ROOT / "docs", folder])
    return folder


def test_links_between_pages_lead_somewhere(site):
    pages = [page for page in site.rglob("*.html") if "_modules" not in page.parts]
    assert len(pages) > 15
    dead = {
        (page.name, link)
        for page in pages
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text())
        if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists()
    }
    assert dead == set()


def test_reference_lists_every_command_and_public_name(site):
    commands = html.unescape((site / "reference" / "commands.html").read_text())
    assert all(f"gpt4image {name} " in commands for name in COMMANDS)
    api = (site / "reference" / "python.html").read_text()
    missing = {name for name in gpt4image.__all__ if f'.{getattr(gpt4image, name).__name__}"' not in api}
    assert missing == set()
