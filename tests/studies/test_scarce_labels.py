"""The study of few and wrong labels: on a tiny set, and its tables in the documentation."""

import re
import shlex

import pytest
import scarce_figure
import scarce_labels

from support import ROOT
from support.image_files import class_folders

PAGE = ROOT / "docs/evidence.md"
RESULTS = ROOT / "studies/scarce_labels.json"
COMMAND = "python studies/scarce_labels.py table "


@pytest.mark.slow
def test_study_trains_nothing_twice_and_adds_arms(tmp_path, capsys):
    source, work, results = tmp_path / "tiny", tmp_path / "work", tmp_path / "results.json"
    sizes = {"train": 8, "validation": 4, "test": 4}
    counts = {f"{split}/{label}": size for split, size in sizes.items() for label in ("cup", "tree")}
    class_folders(source / "images", counts)
    lines = (
        f'{{"path": "{path.relative_to(source / "images").as_posix()}", "text": "a {path.parent.name} {path.stem}"}}\n'
        for path in (source / "images").rglob("*.png")
    )
    (source / "captions.jsonl").write_text("".join(lines))
    words = f"train {work} --images {source} --backbones test_resnet --draws 1".split()
    few, all_labels = ["--cases", "5 a class"], ["--cases", "all, clean"]
    arms = ["baseline", "self-training", "text-labels"]
    scarce_labels.main([*words, *few, "--arms", *arms])
    first = capsys.readouterr().out
    assert first.count("\n") == 3 and first.splitlines()[-1].startswith("5 a class-0 baseline")
    scarce_labels.main(
        [*words, *few, *all_labels[1:], "--arms", *arms, "described", "baseline, adjusted", "shuffled-text-labels"]
    )
    assert capsys.readouterr().out.count("\n") == 3 + 6
    scarce_labels.main([*words, *few, "--arms", *arms])
    assert capsys.readouterr().out == ""
    scarce_labels.main(["collect", str(work), str(results)])
    scarce_labels.main(["table", str(results)])
    from_file = capsys.readouterr().out
    scarce_labels.main(["table", str(work)])
    assert capsys.readouterr().out == from_file
    assert "trained, tiny" in from_file and "| test_resnet | 5 a class | 1 |" in from_file and "few (8)" in from_file


def test_tables_of_the_evidence_are_those_of_its_commands(capsys):
    page = PAGE.read_text()
    commands = re.findall(rf"^ +{re.escape(COMMAND)}(.*)$", page, re.M)
    assert len(commands) > 1
    for command in commands:
        results, *options = shlex.split(command)
        scarce_labels.main(["table", str(ROOT / results), *options])
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
        assert lines and [line for line in lines if line not in page] == [], command


def test_figure_of_the_readme_is_that_of_the_results(tmp_path):
    scarce_figure.main([str(RESULTS), str(tmp_path / "demo.svg")])
    told = [
        re.findall(r'aria-label="[^"]+"', path.read_text()) for path in (tmp_path / "demo.svg", ROOT / "docs/demo.svg")
    ]
    assert told[0] == told[1] and "47.5%" in told[0][0]
