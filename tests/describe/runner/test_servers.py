"""Several servers: sick, hanging, dying and rate limiting ones, and what that costs an image."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import Counter

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.describe.estimate import estimate
from gpt4image.describe.runner import RunSettings
from gpt4image.llm import openai_client as openai_server
from support.describing import described, mark_in, opened, records
from support.stub_scenario import MODEL, Fault, Scenario
from support.stub_server import StubProcess, StubServer

IMAGES = 36
MANY = {"samples": 3, "temperature": 1.0}
QUICK = RunSettings(image_seconds=3.0, check_seconds=1.0)


def chats(server) -> int:
    return sum(entry.endpoint == "chat" for entry in server.log)


@pytest.mark.slow
def test_servers_share_the_work_and_one_may_die_and_come_back(image_set, tmp_path, capsys):
    dying = Scenario(latency=0.1, faults=(Fault("die", numbers=(12,), seconds=1.5),))
    with StubServer(Scenario(latency=0.1)) as steady, StubServer(dying) as flapping:
        urls = steady.base_url, flapping.base_url
        tally = described(image_set, tmp_path, *urls, samples=8, temperature=1.0, at_once=4)
        shares = [sum(entry.paid for entry in server.log) for server in (steady, flapping)]
    assert tally.answered == 8 * IMAGES
    assert not tally.failures
    assert min(shares) > 20
    assert "the others take over its images" in capsys.readouterr().err.replace("\n", " ")


def test_dead_server_ends_the_run_and_loses_nothing(image_set, tmp_path, capsys):
    patience = RunSettings(down_seconds=1.0, attempts=20)
    with StubServer(Scenario(latency=0.02, faults=(Fault("die", numbers=(20,)),))) as server:
        with pytest.raises(DescribeError, match=r"No server has responded for \d+ s"):
            described(image_set, tmp_path, server.base_url, at_once=2, patience=patience)
        assert "waiting for it" in " ".join(capsys.readouterr().err.split())
        answered = sum(entry.sent and entry.paid for entry in server.log)
    assert len(records(tmp_path)) == answered
    with StubServer() as server:
        assert described(image_set, tmp_path, server.base_url).answered == IMAGES - answered


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "attempts", "lost"), [(Fault("status", status=500), 2, 0), (Fault("cut"), 1, 1)], ids=["500", "cut"]
)
def test_failing_server_loses_its_share_to_a_healthy_one(image_set, tmp_path, capsys, fault, attempts, lost):
    """Only the first failure of a server may be the image's fault."""
    patience = RunSettings(attempts=attempts)
    busy = Scenario(latency=0.1, slots=4, when_full="429", retry_after="none")
    with StubServer(busy) as well, StubServer(Scenario(faults=(fault,))) as sick:
        tally = described(image_set, tmp_path, well.base_url, sick.base_url, patience=patience, **MANY)
        assert (tally.answered, tally.failures.total()) == (3 * IMAGES - lost, lost)
        assert 5 <= chats(sick) < 40
        assert f"{sick.base_url} fails every request" in " ".join(capsys.readouterr().err.split())
    assert all(mark_in(record) for record in records(tmp_path) if record.answered)


@pytest.mark.slow
def test_recovered_server_gets_its_share_again(image_set, tmp_path):
    ill = Scenario(latency=0.1, faults=(Fault("status", status=500, numbers=tuple(range(1, 6))),))
    with StubServer(Scenario(latency=0.1)) as well, StubServer(ill) as recovering:
        urls = well.base_url, recovering.base_url
        tally = described(image_set, tmp_path, *urls, samples=6, temperature=1.0, at_once=4)
        assert (tally.answered, tally.failures.total()) == (6 * IMAGES, 0)
        assert sum(entry.paid for entry in recovering.log) > 5


def test_run_ends_when_all_servers_fail(image_set, tmp_path):
    scenario, patience = Scenario(faults=(Fault("status", status=500),)), RunSettings(attempts=2)
    with (
        StubServer(scenario) as one,
        StubServer(scenario) as other,
        pytest.raises(DescribeError, match=r"20 descriptions in a row.*server error 500"),
    ):
        described(image_set, tmp_path, one.base_url, other.base_url, patience=patience)


@pytest.mark.slow
def test_bad_images_fail_alone_at_several_servers(image_set, images, tmp_path):
    bad = [image_id.decode() for image_id in images.ids[:2]]
    scenario = Scenario(faults=tuple(Fault("status", status=500, mark=name[:12]) for name in bad))
    with StubServer(scenario) as one, StubServer(scenario) as other:
        tally = described(image_set, tmp_path, one.base_url, other.base_url)
        assert max(entry.tries for server in (one, other) for entry in server.log if entry.fault) <= 10
    assert (tally.answered, tally.failures) == (IMAGES - 2, {"server error 500": 2})


@pytest.mark.slow
def test_hanging_server_costs_no_image_its_description(image_set, tmp_path, capsys):
    """A process stopped as by a debugger takes connections, and answers nothing."""
    with StubServer(Scenario(latency=0.05)) as well, StubProcess(Scenario(latency=0.05)) as hanging:

        def stop_it() -> None:
            while not hanging.log_file.exists() or hanging.log_file.read_bytes().count(b'"paid": true') < 5:
                time.sleep(0.01)
            os.kill(hanging.process.pid, signal.SIGSTOP)

        stopper = threading.Thread(target=stop_it)
        stopper.start()
        urls = well.base_url, hanging.base_url
        tally = described(image_set, tmp_path, *urls, samples=6, temperature=1.0, at_once=8, patience=QUICK)
        stopper.join()
        os.kill(hanging.process.pid, signal.SIGCONT)
    assert (tally.answered, tally.failures.total()) == (6 * IMAGES, 0)
    assert "no longer responds: the others take over its images" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_single_hanging_server_ends_the_run_without_failures(image_set, tmp_path):
    patience = RunSettings(image_seconds=2.0, check_seconds=0.5, down_seconds=1.0)
    with StubProcess(Scenario(latency=0.02)) as server:

        def stop_it() -> None:
            while not server.log_file.exists() or server.log_file.read_bytes().count(b'"paid": true') < 5:
                time.sleep(0.01)
            os.kill(server.process.pid, signal.SIGSTOP)

        stopper = threading.Thread(target=stop_it)
        stopper.start()
        with pytest.raises(DescribeError, match=r"No server has responded for \d+ s.*no longer responds"):
            described(image_set, tmp_path, server.base_url, at_once=2, patience=patience, samples=4, temperature=1.0)
        stopper.join()
        os.kill(server.process.pid, signal.SIGCONT)
    assert records(tmp_path) and all(record.answered for record in records(tmp_path))


@pytest.mark.slow
def test_timed_out_request_goes_to_another_server(image_set, tmp_path):
    """One of two servers lists its models, but never answers a question."""
    unanswering = Scenario(faults=(Fault("slow", seconds=12.0),))
    patience = RunSettings(image_seconds=5.0)
    with StubServer(Scenario(latency=0.02)) as well, StubServer(unanswering) as hanging:
        tally = described(image_set, tmp_path, well.base_url, hanging.base_url, patience=patience)
        assert chats(hanging)
    assert (tally.answered, tally.failures.total()) == (IMAGES, 0)


@pytest.mark.parametrize("takes_connections", [True, False])
def test_unresponsive_server_is_refused_at_the_start(image_set, tmp_path, monkeypatch, takes_connections):
    monkeypatch.setattr(openai_server, "CHECK_SECONDS", 1.0 if takes_connections else 30.0)
    monkeypatch.setattr(openai_server, "CONNECT_SECONDS", 1.0)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    waiting = []
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(500 if takes_connections else 0)
        address = held.getsockname()
        for _ in range(0 if takes_connections else 5):  # fill the queue of a program that accepts no connections
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}/v1"
        began = time.monotonic()
        with pytest.raises(DescribeError) as raised:
            described(image_set, tmp_path, url, model=MODEL)
        for connection in waiting:
            connection.close()
    assert ("did not respond within 1 s" if takes_connections else "ould not connect") in str(raised.value)
    assert "vllm serve" in str(raised.value)
    assert time.monotonic() - began < 25.0
    assert records(tmp_path) == []


def test_long_retry_after_delays_no_image(image_set, tmp_path):
    limited = Scenario(latency=0.01, faults=(Fault("rate_limit", numbers=(1, 2, 3, 4), seconds=60.0),))
    with StubServer(Scenario(latency=0.01)) as free, StubServer(limited) as resting:
        began = time.monotonic()
        tally = described(image_set, tmp_path, free.base_url, resting.base_url)
        assert (tally.answered, tally.failures.total()) == (IMAGES, 0)
        assert 1 <= chats(resting) <= 4
        assert time.monotonic() - began < 40.0


def test_retry_after_delays_the_retry(image_set, tmp_path):
    scenario = Scenario(faults=(Fault("rate_limit", numbers=(1,), seconds=1.0),))
    with StubServer(scenario) as server:
        assert described(image_set, tmp_path, server.base_url).answered == IMAGES
        refused = next(entry for entry in server.log if entry.fault)
        again = [entry for entry in server.log if entry.mark == refused.mark and entry.at > refused.at]
    assert again[0].at - refused.done_at > 0.9


def test_run_ends_when_every_request_is_rate_limited(image_set, tmp_path):
    patience = RunSettings(patience_seconds=1.0)
    with (
        StubServer(Scenario(faults=(Fault("rate_limit"),))) as server,
        pytest.raises(DescribeError, match=r"rate limited every request for \d+ s"),
    ):
        described(image_set, tmp_path, server.base_url, patience=patience)
    assert records(tmp_path) == []


@pytest.mark.slow
def test_time_limit_covers_all_tries_of_an_image(image_set, images, tmp_path):
    mark = images.ids[5].decode()[:12]
    faults = (Fault("status", status=500, mark=mark), Fault("slow", mark=mark, seconds=4.0))
    patience = RunSettings(image_seconds=6.0, attempts=20)
    with StubServer(Scenario(faults=faults)) as server:
        tally = described(image_set, tmp_path, server.base_url, patience=patience)
        assert (tally.answered, tally.failures) == (IMAGES - 1, {"time limit": 1})
        assert sum(entry.mark == mark for entry in server.log) == 2


def test_answers_reset_the_count_of_failures_in_a_row(image_set, tmp_path):
    patience = RunSettings(max_failures_in_a_row=6, max_failures_at_first=6)
    with StubServer(Scenario(faults=(Fault("invalid_image", every=2),))) as server:
        tally = described(image_set, tmp_path, server.base_url, at_once=1, patience=patience)
    assert tally.failures.total() == tally.answered == IMAGES // 2


DAILY = json.dumps({"error": {"message": "Quota exceeded: requests per day", "details": [{"retryDelay": "39600s"}]}})


def test_daily_quota_ends_the_run_at_once_and_says_when_it_resets(image_set, tmp_path):
    spent = Fault("body", status=429, text=DAILY, numbers=tuple(range(11, 200)))
    with StubServer(Scenario(faults=(spent,))) as server:
        tally = described(image_set, tmp_path, server.base_url, at_once=4)
        assert len(server.log) < 20
    assert (tally.answered, tally.failures.total(), tally.exit_status) == (10, 0, 1)
    assert "it resets in 11 h, at 20" in tally.stopped and "Quota exceeded: requests per day" in tally.stopped
    with StubServer() as server:
        assert described(image_set, tmp_path, server.base_url).answered == IMAGES - 10


def test_retry_after_of_hours_ends_the_run_at_once(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("rate_limit", seconds=7200.0),))) as server:
        tally = described(image_set, tmp_path, server.base_url)
    assert (tally.answered, tally.failures.total()) == (0, 0) and "it resets in 2 h" in tally.stopped


def test_reset_of_a_limit_in_hours_ends_the_run_at_once(image_set, tmp_path):
    with StubServer(Scenario(rate_limit=1, retry_after="reset", retry_after_value="2h0m0s")) as server:
        tally = described(image_set, tmp_path, server.base_url)
    assert (tally.answered, tally.failures.total()) == (1, 0) and "it resets in 2 h" in tally.stopped


def test_other_servers_take_over_when_one_is_out_of_quota(image_set, tmp_path, capsys):
    with StubServer(Scenario(faults=(Fault("body", status=429, text=DAILY),))) as spent, StubServer() as well:
        tally = described(image_set, tmp_path, spent.base_url, well.base_url)
        assert chats(spent) <= 4
    assert (tally.answered, tally.stopped) == (IMAGES, "")
    assert "the others take over its images" in " ".join(capsys.readouterr().err.split())


def test_retry_after_beyond_all_dates_ends_the_run_in_good_order(image_set, tmp_path):
    forever = Scenario(rate_limit=1, retry_after_value="1e400")
    with StubServer(forever) as server:
        tally = described(image_set, tmp_path, server.base_url)
    assert (tally.answered, tally.failures.total()) == (1, 0) and "it resets in 366 d" in tally.stopped


def test_estimate_without_quota_says_so(image_set, tmp_path):
    spent = Fault("body", status=429, text=DAILY)
    with (
        StubServer(Scenario(faults=(spent,))) as server,
        opened(image_set, tmp_path, server.base_url) as job,
        pytest.raises(DescribeError, match="it resets in 11 h"),
    ):
        estimate(job)


def test_gateway_of_a_server_that_starts_is_waited_for_and_named(image_set, tmp_path, capsys):
    page = Fault("html", status=502, numbers=tuple(range(1, 7)))
    with StubServer(Scenario(faults=(page,))) as server:
        tally = described(image_set, tmp_path, server.base_url)
    assert (tally.answered, tally.failures.total()) == (IMAGES, 0)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("may be loading its model: waiting up to") == 1 and "it says" in said


@pytest.mark.slow
def test_loading_of_the_model_costs_no_image_its_description(image_set, tmp_path, capsys):
    with StubServer(Scenario(load_seconds=4.0)) as server:
        tally = described(image_set, tmp_path, server.base_url, patience=RunSettings(image_seconds=1.5))
        assert max(Counter(entry.mark for entry in server.log if entry.mark).values()) == 1
    assert (tally.answered, tally.failures.total(), tally.uncounted) == (IMAGES, 0, 0)
    assert "may be loading its model" in capsys.readouterr().err


@pytest.mark.slow
def test_server_that_never_answers_ends_the_run_without_blaming_an_image(image_set, tmp_path):
    patience = RunSettings(image_seconds=0.5, load_seconds=1.0)
    with (
        StubServer(Scenario(latency=3.0)) as server,
        pytest.raises(DescribeError, match=r"accepts requests but has not answered any in 1\.0 s"),
    ):
        described(image_set, tmp_path, server.base_url, patience=patience)
    assert records(tmp_path) == []


@pytest.mark.slow
def test_server_whose_answers_are_of_no_use_has_loaded_its_model(image_set, tmp_path):
    faults = (Fault("empty", numbers=(1,)), Fault("slow", numbers=(2,), seconds=4.0))
    patience = RunSettings(image_seconds=1.0, attempts=1)
    with StubServer(Scenario(faults=faults)) as server:
        tally = described(image_set, tmp_path, server.base_url, at_once=1, patience=patience)
    assert (tally.failures, tally.answered) == ({"empty answer": 1, "time limit": 1}, IMAGES - 2)


@pytest.mark.slow
def test_loading_said_with_a_503_is_waited_for_beyond_the_patience_for_rate_limits(image_set, tmp_path):
    patience = RunSettings(patience_seconds=3.0, load_seconds=60.0)
    with StubServer(Scenario(ready_after=6.0)) as server:
        tally = described(image_set, tmp_path, server.base_url, patience=patience)
    assert tally.answered == IMAGES


def test_standstill_quotes_the_last_refusal(image_set, tmp_path):
    busy = Fault("body", status=429, text='{"message": "Requests rate limit exceeded"}')
    with (
        StubServer(Scenario(faults=(busy,))) as server,
        pytest.raises(DescribeError, match=r"too many requests \(Requests rate limit exceeded\)"),
    ):
        described(image_set, tmp_path, server.base_url, patience=RunSettings(patience_seconds=1.0))
