"""Which given labels count as likely label errors."""

import numpy as np
import pytest

from gpt4image.probing.label_issues import MIN_CONFIDENCE, MIN_ODDS_RATIO, find_label_issues


@pytest.mark.parametrize(
    ("given", "other", "found"),
    [
        (0.02, 0.98, True),
        (MIN_CONFIDENCE / MIN_ODDS_RATIO, MIN_CONFIDENCE, True),
        (0.0, MIN_CONFIDENCE - 1e-9, False),  # not confident enough
        (MIN_CONFIDENCE / MIN_ODDS_RATIO + 1e-9, MIN_CONFIDENCE, False),  # the given class is too plausible
        (0.9, 0.1, False),
    ],
)
def test_both_thresholds_must_be_met(given, other, found):
    probabilities = np.array([[given, 1 - given - other, other]])
    assert find_label_issues(probabilities, np.array([0])).tolist() == [2 if found else -1]


def test_likeliest_class_is_never_an_issue():
    probabilities = np.random.default_rng(0).dirichlet(np.full(5, 0.2), 200)
    assert (find_label_issues(probabilities, probabilities.argmax(axis=1)) == -1).all()


def test_rows_without_label_are_never_an_issue():
    assert find_label_issues(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([-1, -1])).tolist() == [-1, -1]
