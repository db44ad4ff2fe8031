"""The labeller's estimates on simulated sets: the study's own sets, a few of them."""

import label_estimates
import pytest


@pytest.mark.slow
def test_intervals_hold_on_simulated_sets():
    found = [label_estimates.judge(seed) for seed in range(6)]
    assert {each["kind"] for each in found} == {"few", "wrong"}
    judged = [each[name] for each in found for name in ("right", "wrong") if name in each]
    assert len(judged) >= 6
    assert sum(each["holds"] for each in judged) >= len(judged) - 1, found
