"""Estimates, budgets, and which price applies."""

import numpy as np
import pytest
from scipy import stats

from gpt4image.core.errors import ConfigError
from gpt4image.core.options import DescribeOptions
from gpt4image.describe.clients import price_for
from gpt4image.describe.estimate import Estimate
from gpt4image.descriptions.store import DescriptionRecord
from gpt4image.llm.budget import UNKNOWN_TOKENS_IN, Budget
from gpt4image.llm.prices import Price, list_price


def test_whose_price_counts(tmp_path):
    here = DescribeOptions(base_url=("http://localhost:8000/v1",))
    assert price_for(here, "gpt-4o").input == 0
    assert price_for(DescribeOptions(base_url=("http://localhost:1/v1", "https://far.example/v1")), "qwen") is None
    assert price_for(DescribeOptions(price_in=1.0, price_out=2.0, base_url=here.base_url), "gpt-4o").output == 2.0
    assert price_for(DescribeOptions(), "gpt-4o-mini-2024-07-18").input == list_price("gpt-4o-mini").input
    with pytest.raises(ConfigError, match="both"):
        DescribeOptions(price_in=1.0)


def record(seconds: float, tokens_in: int | None, tokens_out: int | None) -> DescriptionRecord:
    return DescriptionRecord("k", "i", "text", tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds)


def test_the_estimate_adds_up():
    found = Estimate(
        [record(2.0, 1000, 100), record(4.0, 3000, 300)], 10_000, 3.0, 64, Price(1.0, 10.0, 0.5, "2025-01-01"), 768,
        {256: 500, 768: 2000})  # fmt: skip
    assert found.dollars() == pytest.approx(10_000 * (2000 * 1.0 + 200 * 10.0) / 1e6)
    assert found.dollars(batch=True) == pytest.approx(found.dollars() / 2)
    assert found.at_once == 2
    assert found.time_span == pytest.approx((3.0 * 10_000 / 64, 3.0 * 10_000 / 2))
    text = "\n".join(found.lines())
    assert found.margin == pytest.approx(12.706 * 2**0.5 * 0.002 / 2**0.5 / 0.004, rel=1e-3)
    assert "$40.00 online ($0.00 to $294.12, 95 % interval); $20.00 by the batch interface" in text
    assert "2025-01-01" in text
    assert "500 at 256, 2,000 at 768 pixels" in text
    assert "20.0M and 2.0M in all" in text


def test_the_range_of_an_estimate_is_that_of_its_mean():
    costs = [0.9, 1.1, 1.0, 1.3, 0.8, 1.2, 1.0, 0.7]
    records = [record(1.0, round(cost * 1e6), 0) for cost in costs]
    found = Estimate(records, 100, 1.0, 4, Price(1.0, 10.0), None)
    low, high = stats.t.interval(0.95, 7, loc=np.mean(costs), scale=stats.sem(costs))
    assert f"$100.00 online (${100 * low:.2f} to ${100 * high:.2f}, 95 % interval)" in "\n".join(found.lines())
    alike = Estimate([record(1.0, 1000, 0)] * 8, 100, 1.0, 4, Price(1.0, 10.0), None)
    assert "$0.10 online\n" in "\n".join(alike.lines())
    one = Estimate(records[:1], 100, 1.0, 4, Price(1.0, 10.0), None)
    assert one.margin is None and "to $" not in "\n".join(one.lines())


def test_what_is_not_known_is_said():
    text = "\n".join(Estimate([record(1.0, None, None)], 5, 1.0, 4, None, None).lines())
    assert "does not count them" in text
    assert "--price-in" in text


def test_a_budget_counts_what_is_under_way_at_its_worst():
    budget = Budget(1.0, Price(10.0, 100.0), 0.5, most_out=1000)
    assert budget.affords(0)
    assert not budget.affords(1), "before the first answer one at a time"
    assert budget.pay(5000, 500) == pytest.approx(0.1)
    assert budget.spent == pytest.approx(0.6)
    assert budget.affords(1)
    assert not budget.affords(2)
    assert Budget(None, None, 0.0, 10).affords(10**6)
    assert not Budget(UNKNOWN_TOKENS_IN * 1e-5 - 1e-9, Price(10.0, 0.0), 0.0, 1).affords(0)
    with pytest.raises(ConfigError, match="--price-in"):
        Budget(1.0, None, 0.0, 10)
