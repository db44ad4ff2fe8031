"""The code of every tutorial runs from top to bottom, and computes what its text says."""

from __future__ import annotations

import re

import pytest

from support import ROOT
from support.forks import forked_python

pytestmark = pytest.mark.slow

FOLDER = ROOT / "docs" / "tutorials"
PRINTED = {
    "batch": "15 of 15 written",
    "export": "model.onnx",
    "first-look": "of the training labels are recovered",
    "own-folder": "0 written the second time",
    "own-trainer": "epoch 3: cross-entropy",
    "teacher": "epoch 2: alignment",
    "wrong-labels": "labels are still wrong",
}


@pytest.mark.parametrize("name", PRINTED)
def test_tutorial_runs(name):
    text = (FOLDER / f"{name}.md").read_text()
    cells = re.findall(r"```\{code-cell\}[^\n]*\n(?::[^\n]*\n)*(.*?)```", text, re.DOTALL)
    code = "\n".join([f"import os; os.chdir({str(FOLDER)!r})", *cells])
    assert PRINTED[name] in forked_python(["-c", code], environment={"MPLBACKEND": "Agg"}).stdout


def test_every_tutorial_is_run():
    assert set(PRINTED) == {path.stem for path in FOLDER.glob("*.md")} - {"index"}
