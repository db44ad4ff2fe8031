"""The labeller's estimates on simulated sets: the study's own sets, a few of them."""

import importlib.util

import pytest

from support import ROOT


@pytest.mark.slow
def test_intervals_hold_on_simulated_sets():
    spec = importlib.util.spec_from_file_location("label_estimates", ROOT / "studies/label_estimates.py")
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    found = [study.simulate(seed) for seed in range(6)]
    assert {each["kind"] for each in found} == {"few", "wrong"}
    assert sum(each["holds"] for each in found) >= 5, found
    assert all(each["estimate"][2] - each["estimate"][1] < 0.5 for each in found)
