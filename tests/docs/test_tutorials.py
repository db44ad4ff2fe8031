"""The code of every tutorial runs from top to bottom, and computes what its text says."""

from __future__ import annotations

import os
import re

import pytest

from support import ROOT
from support.forks import printed_by

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


def run_cells(name: str) -> None:
    os.chdir(FOLDER)
    os.environ["MPLBACKEND"] = "Agg"
    cells = re.findall(
        r"```\{code-cell\}[^\n]*\n(?::[^\n]*\n)*(.*?)```", (FOLDER / f"{name}.md").read_text(), re.DOTALL
    )
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells, 1):
        exec(compile(cell, f"{name}.md, cell {number}", "exec"), names)


@pytest.mark.parametrize("name", PRINTED)
def test_tutorial_runs(name, tmp_path):
    assert PRINTED[name] in printed_by(run_cells, tmp_path / "printed.txt", name)


def test_every_tutorial_is_run():
    assert set(PRINTED) == {path.stem for path in FOLDER.glob("*.md")} - {"index"}
