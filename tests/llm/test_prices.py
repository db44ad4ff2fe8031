"""Prices: the user's file, list prices, shutdown dates."""

import re
from datetime import date
from pathlib import Path

import pytest

from gpt4image.core.errors import ConfigError
from gpt4image.llm.prices import Price, find_price, list_price, load_prices, shutdown_warning

DATED = """
["old-model"]
input = 2
output = 8
batch = 0.5
until = 2027-01-14
[["old-model".price]]
from = 2026-06-01
input = 1
output = 4
[["old-model".price]]
from = 2026-12-01
input = 0.5
"""


def test_price_file_matches_dated_versions_of_a_model(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text('\ufeff["gpt-4o"]\ninput = 1\noutput = 2\n["qwen"]\ninput = 0.1\noutput = 0.2\nbatch = 0.4\n')
    table = load_prices(path)
    assert (table["gpt-4o"].input, table["qwen"].batch) == (1, 0.4)
    assert find_price("openai/gpt-4o-2024-08-06", table) == table["gpt-4o"]
    assert find_price("gpt-4o-mini", table) is None
    assert find_price("gpt-4oo", table) is None


@pytest.mark.parametrize(
    ("today", "prices"),
    [
        (date(2026, 5, 31), (2, 8, 0.5)),
        (date(2026, 6, 1), (1, 4, 0.5)),
        (date(2026, 11, 30), (1, 4, 0.5)),
        (date(2026, 12, 1), (0.5, 4, 0.5)),
    ],
)
def test_dated_price_applies_from_its_day_on(tmp_path, today, prices):
    path = tmp_path / "prices.toml"
    path.write_text(DATED.replace("2027-01-14", "'2027-01-14'").replace("2026-12-01", "2026-12-01T00:00:00Z"))
    assert load_prices(path, today)["old-model"].until == date(2027, 1, 14)
    path.write_text(DATED)
    price = load_prices(path, today)["old-model"]
    assert (price.input, price.output, price.batch) == prices
    assert price.until == date(2027, 1, 14)
    assert price.changes == next((day for day in (date(2026, 6, 1), date(2026, 12, 1)) if day > today), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[m]\ninput = 1\n", r"\[m\]: output .*is missing"),
        ("[[m.price]]\nfrom = 2126-01-01\ninput = 1\noutput = 1\n", "input .*is missing or takes effect later"),
        ("[m]\ninput = 1\noutput = 1\n[[m.price]]\ninput = 2\n", "a price has no `from`"),
        ("[m]\ninput = 1\noutput = 1\nuntil = 'soon'\n", "until should be a valid date, not 'soon'"),
        ("[gpt-4.1]\ninput = 1\noutput = 1\n", r'quotation marks: write \["gpt-4.1"\]'),
        ("[m]\ninput = -1\noutput = 1\n", "input should be"),
        ("[m]\ninput = nan\noutput = 1\n", "input should be a finite number, not nan"),
        ("[m]\ninput = 1\noutput = inf\n", "output should be a finite number, not inf"),
        ("[m]\ninput = true\noutput = 1\n", "input should be a valid number, not True"),
        ("[m]\ninput = 1\noutput = 1\nbach = 0.5\n", "Did you mean 'batch'"),
        ("[m]\ninput = 1\noutput = 1\nuntil = 'soon'\n", "until should be a valid date, not 'soon'"),
        ("[m]\n[[m.price]]\ninput = 1\noutput = 1\n", "a price has no `from`"),
        ("[m]\nprice = 3\n", "price should be a valid tuple"),
        ("[[m.price]]\nfrom = 2999-01-01\ninput = 1\noutput = 1\n", "input .*is missing"),
        ("[m]\ninput = 1\noutput = 1\n[[m.price]]\nfrom = 2000-01-01\nbach = 1\n", "Did you mean 'batch'"),
        ("m = 1\n", "must be a table"),
        ("[m", "TOML"),
    ],
)
def test_invalid_price_file_is_rejected_with_its_key(tmp_path, text, message):
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_prices(path)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5-mini", "gemini-2.5-flash-lite"])
def test_list_prices_have_batch_rate_version_and_source(model):
    price = list_price(model)
    assert 0 < price.input < price.output and price.batch == 0.5
    assert price.as_of.startswith("genai-prices ") and price.source.startswith("https://")


def test_costs_in_the_readme_are_those_of_the_list_prices():
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| (\S+) \| ([\d.]+) and ([\d.]+) \| \$([\d.]+) \| \$([\d.]+) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 4
    for model, *numbers in rows:
        price, (read, written, cost, batch) = list_price(model), map(float, numbers)
        if price.as_of not in text:
            pytest.skip(f"the README names other prices than {price.as_of}")
        assert (price.input, price.output) == (read, written), model
        assert cost == pytest.approx(8 * read + written) and batch == pytest.approx(cost * price.batch), model


def test_list_price_is_found_by_dated_and_prefixed_names():
    assert list_price("gpt-4o-mini-2024-07-18") == list_price("openai/gpt-4o-mini") == list_price("gpt-4o-mini")
    assert list_price("gpt-4o-mini", "https://api.openai.com/v1") == list_price("gpt-4o-mini")
    assert list_price("gpt-4o-mini", "https://proxy.example/v1") == list_price("gpt-4o-mini")
    assert list_price("gpt-4oo") is None and list_price("stub-vision", "https://api.openai.com/v1") is None


def test_shutdown_warning_comes_only_when_the_date_is_near_or_past():
    assert "in 60 days" in shutdown_warning("m", date(2026, 12, 31), date(2026, 11, 1))
    assert shutdown_warning("m", date(2026, 12, 31), date(2026, 10, 31)) == ""
    assert "tomorrow" in shutdown_warning("m", date(2026, 12, 31), date(2026, 12, 30))
    assert "was due to shut down on 2026-12-31" in shutdown_warning("m", date(2026, 12, 31), date(2027, 1, 1))


def test_cost_by_hand():
    price = Price(2.0, 8.0, batch=0.5)
    assert price.cost(1000, 100) == pytest.approx(0.0028)
    assert price.cost(1000, 100, batch=True) == pytest.approx(0.0014)
    assert price.cost(None, 100) is None
