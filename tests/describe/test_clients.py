"""Opening describers: advice without a server, which address gets which key, models and prices."""

from __future__ import annotations

import socket

import pytest

from gpt4image.core.errors import ConfigError, DescribeError
from gpt4image.describe.clients import ServerProgram, open_session, price_for
from gpt4image.describe.clients import program_state as line_of
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.runner import RunSettings
from gpt4image.llm.credentials import ApiKey, address_hint, check_address, key_for
from gpt4image.llm.prices import list_price
from support.describing import described, records
from support.stub_scenario import MODEL, Fault, Scenario
from support.stub_server import StubServer

LONG_KEY = "sk-live-" + "".join(f"{number:02d}" for number in range(40))


async def program_state(url: str) -> str:
    return await line_of(ServerProgram("vLLM", "no-such-command", url, "vllm serve X"))


def test_error_without_a_server_lists_what_would_work(image_set, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for urls in ((), ("http://127.0.0.1:9/v1",)):
        with pytest.raises(DescribeError) as raised:
            described(image_set, tmp_path, *urls)
        text = str(raised.value)
        for hint in ("vllm serve", "ollama pull", "llama-server -hf", "base_url", "describer to local", "key_env"):
            assert hint in text
    assert "Could not connect to http://127.0.0.1:9/v1" in text


def test_running_program_is_detected():
    import asyncio

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        assert "running at" in asyncio.run(program_state(url))
    assert "not found here" in asyncio.run(program_state(url))


def test_openai_key_is_sent_to_openai_only(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-secret")
    assert key_for("https://api.openai.com/v1", None).value == "sk-openai-secret"
    for url in ("http://localhost:8000/v1", "https://api.openai.com.evil.example/v1", "https://evilopenai.com/v1"):
        assert key_for(url, None).value == ""
    assert key_for("http://localhost:8000/v1", "OPENAI_API_KEY").value == "sk-openai-secret"
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        key_for("http://localhost:8000/v1", "NO_SUCH_KEY")


def test_key_is_not_in_repr_pickle_or_scrubbed_text(monkeypatch):
    import pickle

    monkeypatch.setenv("A_KEY", "sk-very-secret")
    key = ApiKey.from_environment("A_KEY")
    assert "secret" not in repr(key)
    assert b"very-secret" not in pickle.dumps(key)
    assert key.scrub("Bearer sk-very-secret is wrong") == "Bearer [key] is wrong"


@pytest.mark.parametrize("fault", ["no_choices", "echo"])
def test_key_echoed_outside_the_text_is_scrubbed(image_set, tmp_path, monkeypatch, capsys, fault):
    """As finish reason, and right where the detail of a failure is shortened."""
    monkeypatch.setenv("A_KEY", LONG_KEY)
    with StubServer(Scenario(faults=(Fault(fault, every=2),))) as server:
        patience = RunSettings(attempts=1)
        described(image_set, tmp_path, server.base_url, key_env="A_KEY", patience=patience)
    found = records(tmp_path)
    assert sum("[key]" in (record.finish_reason or "") + record.detail for record in found) == 18
    seen = capsys.readouterr().err + "".join(map(str, found))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert LONG_KEY[:12] not in seen and LONG_KEY[:12].encode() not in kept


def test_key_given_as_variable_name_is_not_shown(image_set, tmp_path):
    with pytest.raises(ConfigError, match=r"set key_env") as raised:
        described(image_set, tmp_path, "http://127.0.0.1:9/v1", key_env=LONG_KEY)
    assert LONG_KEY[:12] not in str(raised.value)


@pytest.mark.parametrize("url", ["https://me:pw@host/v1", "https://host/v1?key=sk-1234", "host:8000", "file:///etc"])
def test_invalid_address_is_rejected_without_its_secrets(url):
    with pytest.raises(ConfigError) as raised:
        check_address(url)
    assert "pw" not in str(raised.value) and "sk-1234" not in str(raised.value)


@pytest.mark.parametrize("rest", ["?api-version=2024-10-21", "/openai/deployments/gpt-4o?api-version=2024-10-21"])
def test_old_address_of_azure_is_rejected_with_the_one_that_works(rest):
    with pytest.raises(ConfigError, match=r"Azure's old form.*model to the name of the deployment"):
        check_address(f"https://mine.openai.azure.com{rest}")
    assert address_hint("https://mine.openai.azure.com") == " Did you mean https://mine.openai.azure.com/openai/v1?"


def test_servers_must_agree_on_a_model(image_set, tmp_path):
    with StubServer(Scenario(models=("a",))) as one, StubServer(Scenario(models=("b",))) as other:
        with pytest.raises(DescribeError, match=r"different models \(a, b\)"):
            described(image_set, tmp_path, one.base_url, other.base_url, model=None)
        assert described(image_set, tmp_path, one.base_url, model=None).answered


def test_session_warns_of_the_shutdown_date_that_the_server_announces(capsys):
    def warnings(**scenario) -> str:
        with StubServer(Scenario(**scenario)) as server, open_session(DescribeOptions(base_url=(server.base_url,))):
            return " ".join(capsys.readouterr().err.split())

    assert f"{MODEL} was due to shut down on 2020-01-02" in warnings(shutdown_date="2020-01-02")
    assert warnings(shutdown_date="2999-01-01") == warnings() == ""


def test_session_warns_of_the_shutdown_date_in_the_price_file(capsys, tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text(f'["{MODEL}"]\ninput = 1\noutput = 2\nuntil = 2020-01-02\n')
    with StubServer() as server, open_session(DescribeOptions(base_url=(server.base_url,), prices=prices)):
        assert "was due to shut down on 2020-01-02" in " ".join(capsys.readouterr().err.split())


def test_price_comes_from_the_user_then_the_machine_then_the_list(tmp_path):
    here = DescribeOptions(base_url=("http://localhost:8000/v1",))
    assert price_for(here, "gpt-4o").input == 0
    assert price_for(DescribeOptions(base_url=("http://localhost:1/v1", "https://far.example/v1")), "qwen") is None
    assert price_for(DescribeOptions(price_in=1.0, price_out=2.0, base_url=here.base_url), "gpt-4o").output == 2.0
    assert price_for(DescribeOptions(), "gpt-4o-mini-2024-07-18").input == list_price("gpt-4o-mini").input
    with pytest.raises(ConfigError, match="both"):
        DescribeOptions(price_in=1.0)
