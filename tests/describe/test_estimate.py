"""Estimates: arithmetic, confidence interval, picture sizes, and what measuring costs."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from scipy import stats

from gpt4image.describe.estimate import Estimate, estimate
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.llm.prices import Price
from support.describing import described, opened, store_in
from support.stub_server import StubServer

IN, OUT = 1.0, 10.0
PRICE = {"price_in": IN, "price_out": OUT, "max_tokens": 100}


def record(seconds: float, tokens_in: int | None, tokens_out: int | None) -> DescriptionRecord:
    return DescriptionRecord("k", "i", "text", tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds)


def spent(work) -> float:
    return DescriptionStore(work / "descriptions").spent().cost


def test_estimate_by_hand():
    found = Estimate(
        [record(2.0, 1000, 100), record(4.0, 3000, 300)], 10_000, 3.0, 64, Price(1.0, 10.0, 0.5, "2025-01-01"), 768,
        {256: 500, 768: 2000})  # fmt: skip
    assert found.dollars() == pytest.approx(10_000 * (2000 * 1.0 + 200 * 10.0) / 1e6)
    assert found.dollars(batch=True) == pytest.approx(found.dollars() / 2)
    assert found.at_once == 2
    # in four round trips 4 + 8 + 16 + 32, then 64 in each
    assert found.time_span == pytest.approx((3.0 * (4 + 9_940 / 64), 3.0 * 10_000 / 2))
    text = "\n".join(found.lines())
    assert found.margin == pytest.approx(12.706 * 2**0.5 * 0.002 / 2**0.5 / 0.004, rel=1e-3)
    assert "$40.00 online ($0.00 to $294.12, 95% interval); $20.00 by the batch interface" in text
    assert "2025-01-01" in text
    assert "500 at 256, 2,000 at 768 pixels" in text
    assert "20.0M input and 2.0M output in total" in text


def test_time_says_on_what_it_hangs_and_supposes_what_every_run_begins_with():
    eight = [record(2.0, 1, 1)] * 8
    late = Estimate(eight, 400, 16.0, 128, None, None)  # one after the other, or long in coming
    assert late.at_once == 4 and late.time_span == pytest.approx((2.0 * (5 + 276 / 128), 200.0))
    line = "time: 14.3 s to 3 min 20 s, with up to 128 concurrent requests or as few as measured"
    assert f"{line} (a description took 2.00 s, 4 at a time)" in "\n".join(late.lines())
    few = Estimate(eight, 6, 16.0, 128, None, None)
    assert few.time_span == pytest.approx((2.0 * (1 + 2 / 8), 3.0))
    alone = Estimate(eight, 400, 16.0, 1, None, None)
    assert alone.time_span == (800.0, 800.0) and "time: 13 min 20 s (a" in "\n".join(alone.lines())


def test_interval_is_that_of_the_mean_cost():
    costs = [0.9, 1.1, 1.0, 1.3, 0.8, 1.2, 1.0, 0.7]
    records = [record(1.0, round(cost * 1e6), 0) for cost in costs]
    found = Estimate(records, 100, 1.0, 4, Price(1.0, 10.0), None)
    low, high = stats.t.interval(0.95, 7, loc=np.mean(costs), scale=stats.sem(costs))
    assert f"$100.00 online (${100 * low:.2f} to ${100 * high:.2f}, 95% interval)" in "\n".join(found.lines())
    alike = Estimate([record(1.0, 1000, 0)] * 8, 100, 1.0, 4, Price(1.0, 10.0), None)
    assert "$0.10 online\n" in "\n".join(alike.lines())
    one = Estimate(records[:1], 100, 1.0, 4, Price(1.0, 10.0), None)
    assert one.margin is None and "to $" not in "\n".join(one.lines())


def test_unknown_tokens_and_prices_are_stated():
    text = "\n".join(Estimate([record(1.0, None, None)], 5, 1.0, 4, None, None).lines())
    assert "not counted by this server" in text
    assert "--price-in" in text


def test_estimate_says_when_another_price_begins_to_hold():
    price = Price(1.0, 10.0, changes=date(2026, 12, 24))
    text = "\n".join(Estimate([record(1.0, 10, 10)], 100, 1.0, 4, price, None).lines())
    assert "the price changes on 2026-12-24" in text


def test_each_picture_size_is_paid_for_once(image_set, tmp_path):
    with StubServer() as server:
        for budget in (None, 1.0, 1.0):
            with opened(image_set, tmp_path, server.base_url, budget=budget, **PRICE) as job:
                found = estimate(job, sizes=(16, 32, 48))
            assert list(found.trials) == [16, 32, 48]
        assert server.paid_by_mark.total() == 8 + 3
        log = [entry for entry in server.log if entry.paid]
    assert {entry.settings["max_tokens"] for entry in log[-3:]} == {16}
    payments = list(DescriptionStore(tmp_path / "descriptions").payments())
    assert [payment.error for payment in payments] == ["size trial"] * 3
    found = store_in(tmp_path).current(trials=True)
    assert len(found) == 8 and spent(tmp_path) == pytest.approx(sum(r.cost for r in [*found, *payments]))


def test_size_trials_stay_within_the_budget(image_set, tmp_path):
    with StubServer() as server:
        with opened(image_set, tmp_path, server.base_url, **PRICE) as job:
            estimate(job)
        limit = spent(tmp_path) + 1e-5
        with opened(image_set, tmp_path, server.base_url, budget=limit, **PRICE) as job:
            assert estimate(job, sizes=(16, 32, 48)).trials == {}
        assert server.paid_by_mark.total() == 8


def test_measured_records_are_found_by_key(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url)
        with opened(image_set, tmp_path, server.base_url) as job:
            few = job.first(3)
            assert sorted(record.key for record in job.records_of(few)) == [key.decode() for key in few.keys.tolist()]
