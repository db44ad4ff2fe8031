"""The labeller's estimates on simulated sets: the study's own sets, a few of them."""

import label_estimates
import numpy as np
import pytest


@pytest.mark.slow
def test_intervals_hold_on_simulated_sets():
    found = [label_estimates.judge(seed) for seed in range(6)]
    assert {each["kind"] for each in found} == {"few", "wrong"}
    judged = [each[name] for each in found for name in ("right", "wrong") if name in each]
    assert len(judged) >= 6
    assert sum(each["holds"] for each in judged) >= len(judged) - 1, found


def test_an_image_in_two_classes_has_one_wrong_label_and_labels_judged_wrong_by_eye_count():
    judged = ("6d6d43a359e2b4c108fac1d19751c602", "animals")  # a roast turkey
    keys = [judged, (judged[0], "food"), ("0" * 32, "food"), ("0" * 32, "food"), ("0" * 32, "animals")]
    found = label_estimates.find_wrong(keys, np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0]))
    assert found["judged"].tolist() == [True, False, False, False, False]
    assert found["one class"].tolist() == [True, True, False, False, True]
