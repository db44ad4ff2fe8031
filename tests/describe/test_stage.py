"""The describe stage: what it prints."""

from __future__ import annotations

from support.describing import opened
from support.stub_server import StubServer

IN, OUT = 1.0, 10.0
PRICE = {"price_in": IN, "price_out": OUT, "max_tokens": 100}


def test_warning_for_a_budget_without_a_price(image_set, tmp_path, capsys):
    from gpt4image.describe.stage import describe

    for more, warned in (({}, True), (PRICE, False)):
        with StubServer() as server, opened(image_set, tmp_path, server.base_url, budget=9.0, **more) as job:
            describe(job)
        printed = " ".join(capsys.readouterr().err.split())
        assert ("the budget has no effect" in printed) == warned
        assert not warned or "price_in" in printed
