"""On a terminal, a line says what is going on before a command starts what takes long."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

# Runs each command up to its first import of torch, the slowest step that they share, and prints what is on the
# terminal at that moment.
UNTIL_TORCH = """
import io, json, sys
from rich.console import Console
from gpt4image.core import console

class ReachedTorch(BaseException):
    pass

class StopAtTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ReachedTorch([task.description for line in console._OPEN[:1] for task in line.tasks])

sys.meta_path.insert(0, StopAtTorch())
from gpt4image.cli.main import main
shown = {}
for name, words in json.loads(sys.argv[1]).items():
    console.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    try:
        shown[name] = f"ended with {main(words)}: {console.console.file.getvalue()}"
    except ReachedTorch as reached:
        shown[name] = reached.args[0]
print(json.dumps(shown))
"""


# Commands whose run, model or work directory is not there; their images are not looked at.
MISSING = [
    ["export", "photos", "--run", "nowhere", "--out", "model"],
    ["predict", "nowhere", "photos"],
    ["export", "photos", "--run", ".", "--out", "nowhere.txt"],
    ["search", "photos", "a cat", "--work", "nowhere"],
    ["search", "photos", "a cat", "--run", "nowhere"],
    ["zero-shot", "photos", "--classes", "classes.txt", "--work", "nowhere"],
    ["map", "photos", "--out", "map.html", "--work", "nowhere"],
    ["report", "--work", "nowhere"],
    ["runs", "--work", "nowhere"],
    ["train", "photos", "--teachers", "run:nowhere"],
    ["compare", "photos", "--teachers", "run:nowhere"],
    ["compare", "photos", "--transfer", "nowhere"],
    ["embed", "images", "photos", "--teacher", "run:nowhere"],
    ["describe", "photos", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--confusions", "nowhere", "--yes"],
]


@pytest.fixture(scope="module")
def shown(image_set, descriptions_file, tmp_path_factory):
    """What each command shows when it begins to import torch."""
    folder = tmp_path_factory.mktemp("silence")
    data = [str(image_set), "--work", str(folder / "work")]
    text = ["--text", str(descriptions_file)]
    commands = {
        "compare": ["compare", *data, *text],
        "train": ["train", *data, *text],
        "embed": ["embed", *data, *text],
        "embed compare": ["embed", "compare", *data, *text],
        "embed images": ["embed", "images", *data, "--teacher", "timm:test_resnet"],
        "label": ["label", *data, *text],
        "describe check": ["describe", "check", *data, *text, "--backbone", "test_resnet"],
        "export": ["export", *data, "--run", str(folder), "--out", str(folder / "model")],
        "predict": ["predict", str(folder), str(image_set)],
        "demo": ["demo", "--work", str(folder / "demo")],
        **{" ".join(words): words for words in MISSING},
    }
    for name in ("result.json", "config.json", "model.safetensors", "nowhere.txt"):
        (folder / name).write_text("{}")
    command = [sys.executable, "-c", UNTIL_TORCH, json.dumps(commands)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("words", MISSING, ids=" ".join)
def test_a_command_without_its_run_ends_before_torch_is_imported(shown, words):
    ended = " ".join(re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", " ", str(shown[" ".join(words)])).split())
    assert re.match(r"ended with 1: .*error: .*nowhere(.txt)? (contains (no|something other)|does not exist)", ended), (
        ended
    )


COMMANDS = [
    "compare",
    "train",
    "embed",
    "embed compare",
    "embed images",
    "label",
    "describe check",
    "export",
    "predict",
]


@pytest.mark.slow
@pytest.mark.parametrize("command", [*COMMANDS, "demo"])
def test_a_line_is_on_the_terminal_while_torch_is_imported(shown, command):
    assert isinstance(shown[command], list), shown[command]
    assert len(shown[command]) >= 1
