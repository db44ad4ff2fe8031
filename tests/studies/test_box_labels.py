"""The study of boxes without a class: its table in the documentation is that of the recorded scores."""

import json

import box_labels
import numpy as np

from support import ROOT

RESULTS = ROOT / "studies/box_labels.json"


def test_table_of_the_evidence_is_that_of_the_recorded_scores(capsys):
    box_labels.main(["table", str(RESULTS)])
    page = (ROOT / "docs/evidence.md").read_text()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2 and "\n".join(lines) in page
    assert "python studies/box_labels.py table studies/box_labels.json" in page


def test_row_has_the_means_of_all_draws_and_their_difference():
    entries = json.loads(RESULTS.read_text())
    for entry in entries.values():
        means = {}
        for arm, draws in entry["scores"].items():
            scores = [score for draw in draws for score in draw]
            assert {len(draw) for draw in draws} == {90}
            means[arm] = sum(scores) / len(scores)
        (row,) = box_labels.table({"this": entry})[2:]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:4] == [str(entry["images"]), str(entry["epochs"]), "10%", str(len(draws))]
        assert cells[4] == f"{means['baseline']:.1%}"
        assert cells[5].startswith(
            f"{means['text-labels']:.1%}, {100 * (means['text-labels'] - means['baseline']):+.1f} ("
        )
        assert cells[6] == f"{np.mean(entry['right']):.1%}"
