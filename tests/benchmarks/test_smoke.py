"""Every benchmark runs, on little, and writes its record; nothing is timed here."""

from __future__ import annotations

import json
import re

import pytest

from support import ROOT
from support.forks import forked_python

pytestmark = pytest.mark.slow

FOLDER = ROOT / "benchmarks"
SET = ROOT / "tests" / "data" / "work_0_1"
SMALL = {
    "embedding": "--texts 16 --rounds 1 --sets clipart12",
    "imagenet_cost": "",
    "imagenet_scale": "--images 200",
    "input_pipeline": "--kinds png --sources memory --rounds 1",
    "starting": f"--samples 40 --files 40 --rounds 1 --compared {SET}/photos --text {SET}/captions.jsonl",
    "text_lookup": "--vectors 2000 --rounds 1",
    "training_step": "--backbone test_resnet --image-size 32 --batch-size 4 --rounds 1 --plain-torch",
    "verdict_error": "--studies 2 --seeds 2 --images 40",
    "waiting": "--image-size 32 --batch-size 2 --steps 1 --rounds 1 --skip-default",
}


@pytest.mark.parametrize("name", SMALL)
def test_benchmark_runs(name, tmp_path):
    words = [*SMALL[name].split(), *(["--save", str(tmp_path / "record.json")] if "paired" in source(name) else [])]
    assert forked_python([FOLDER / f"{name}.py", *words]).stdout
    if "paired" in source(name):
        record = json.loads((tmp_path / "record.json").read_text())
        assert record["benchmark"] == name and record["machine"]["processors"] and record["rows"]


def source(name):
    return (FOLDER / f"{name}.py").read_text()


def test_readme_lists_every_benchmark():
    listed = set(re.findall(r"\(([a-z_]+)\.py\)", (FOLDER / "README.md").read_text()))
    assert listed == {path.stem for path in FOLDER.glob("*.py")} - {"paired"}
