"""Every command that README and documentation name exists, with these options."""

from __future__ import annotations

import re
import shlex

import pytest

from gpt4image.cli.commands import COMMANDS
from gpt4image.cli.main import parse
from support import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "studies" / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if {"reference", "_build"}.isdisjoint(page.parts)),
]
NO_COMMAND = re.compile(r"COMMAND\b|--|\.\.\.|\.?$")


def named_commands(text: str) -> list[str]:
    """Return the commands of code blocks and of code in sentences."""
    fenced = [line for block in re.findall(r"```(?:bash|text)?\n(.*?)```", text, re.S) for line in block.splitlines()]
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    inline = re.findall(r"`([^`\n]+)`", text)
    calls = (re.search(r"(?:^|\s|\$\()gpt4image (.*)", line.split("#")[0]) for line in [*fenced, *indented, *inline])
    return [call[1].strip() for call in calls if call]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_a_page_parse(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("lr = 0.1\n")
    (tmp_path / "imagenet").mkdir()  # else it would be taken for a misspelt `embed images`
    for named in named_commands(page.read_text()):
        command = re.split(r"\s[|>&;]\s?|\)\"?$|\\$", named)[0].strip()
        if NO_COMMAND.match(command) or command.rstrip(".:,") in COMMANDS:
            continue
        words = shlex.split(command.replace(" ...", "").replace("SHELL", "bash"))
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
        assert name is not None, f"{page}: {command}"
        options = words[len(name.split()) :]
        if not options or options[0].startswith("--"):  # a sentence may leave the images out
            options = [*(["photos"] if "source" in COMMANDS[name].__dataclass_fields__ else []), *options]
        try:
            parse([*name.split(), *options])
        except SystemExit as end:
            assert end.code == 0, f"{page}: gpt4image {command}"
