"""Room for a batch within a budget."""

from __future__ import annotations

import pytest

from gpt4image.llm.budget import Budget
from gpt4image.llm.prices import FREE, Price


def test_batch_room_follows_the_worst_case_cost():
    price = Price(1.0, 1.0, batch=0.5)
    assert Budget(None, price, 0.0, 100, batch=True).room(0) is None
    assert Budget(1.0, FREE, 0.0, 100, batch=True).room(0) is None
    budget = Budget(1.0, price, 0.5, 464, batch=True)
    assert budget.room(0) == int(0.5 / (0.5 * 66_000 / 1e6)) and budget.room(1) == 0
    assert budget.pay(0, 0) == 0 and budget.room(1) == 0  # a failure does not show what a picture costs
    assert budget.pay(1536, 464) == pytest.approx(0.001)
    assert budget.room(0) == 100
    for _ in range(4):
        budget.pay(1000, 464)
    left = 1.0 - budget.spent
    assert budget.room(0) == int(left / 0.001) and budget.room(20) == int(left / 0.001) - 20
    assert Budget(0.003, price, 0.0, 464, batch=True).room(0) == 1
    assert Budget(0.002, price, 0.0, 464, batch=True).room(0) == 0
