"""The stub server behaves like the real API as seen by the plain openai client."""

import asyncio
import base64
import io
import json
import time
from email.utils import parsedate_to_datetime

import numpy as np
import openai
import pytest
from PIL import Image

from gpt4image.images.scan import image_id
from support.running import wait_until
from support.stub_server import MODEL, Fault, Scenario, StubProcess, StubServer, mark_of


def picture(number: int, size: int = 48) -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    return buffer.getvalue()


def messages(number: int = 0, size: int = 48, system: str | None = None, answers: tuple[str, ...] = ()) -> list[dict]:
    url = "data:image/png;base64," + base64.b64encode(picture(number, size)).decode()
    first = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Describe."}]
    talk = [{"role": "system", "content": system}] if system else []
    talk.append({"role": "user", "content": first})
    for answer in answers:
        talk += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And the colours?"}]
    return talk


def client(server, **settings) -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(verify=False)  # loading certificates would dominate the time
    usual = {"base_url": server.base_url, "api_key": "sk-right", "max_retries": 0, "http_client": http}
    return openai.AsyncOpenAI(**{**usual, **settings})


async def ask(server, number: int = 0, settings: dict | None = None, **request):
    async with client(server, **(settings or {})) as api:
        return await api.chat.completions.create(**{"model": MODEL, "messages": messages(number), **request})


async def ask_in_turn(server, numbers):
    async with client(server) as api:
        return [await api.chat.completions.create(model=MODEL, messages=messages(number)) for number in numbers]


def failure(server, number: int = 0, **request) -> Exception:
    with pytest.raises(Exception) as caught:
        asyncio.run(ask(server, number, **request))
    return caught.value


def text_of(server, number: int = 0, **request) -> str:
    return asyncio.run(ask(server, number, **request)).choices[0].message.content


def answers(server) -> bool:
    """Whether the server answers instead of being away."""
    try:
        return bool(text_of(server))
    except (openai.APIConnectionError, openai.InternalServerError):
        return False


def test_text_names_its_picture():
    with StubServer() as server:
        talk = messages(3, size=600, system="Be brief.", answers=("Red.",))
        reply = asyncio.run(ask(server, messages=talk, max_tokens=50, temperature=0.5))
    mark = image_id(picture(3, 600))[:12]
    assert mark == mark_of(picture(3, 600))
    assert reply.choices[0].message.content == (
        f"A picture of 600 x 600 pixels with the mark {mark}. This is answer 2. There is a system message."
    )
    assert reply.choices[0].finish_reason == "stop" and reply.model == MODEL
    text_tokens = 3 + 4 * 4 + 3 + 3 + 1 + 4  # 4 messages: "Be brief.", "Describe.", "Red.", "And the colours?"
    assert reply.usage.prompt_tokens == text_tokens + 85 + 4 * 170
    assert reply.usage.completion_tokens == len(reply.choices[0].message.content.split())
    entry = server.log[0]
    assert (entry.mark, entry.turn, entry.system, entry.question) == (mark, 2, True, "And the colours?")
    assert entry.settings == {"max_tokens": 50, "temperature": 0.5}
    assert entry.has_key and entry.paid and entry.sent and entry.status == 200
    assert server.answers_by_mark == server.paid_by_mark == {mark: 1}


def test_answer_is_cut_at_max_tokens():
    with StubServer() as server:
        choice = asyncio.run(ask(server, max_tokens=4)).choices[0]
    assert choice.message.content == "A picture of 48" and choice.finish_reason == "length"


def test_listed_models_exist_and_others_do_not():
    async def names(server):
        async with client(server) as api:
            return [model.id async for model in api.models.list()]

    with StubServer() as server:
        assert asyncio.run(names(server)) == [MODEL]
        assert isinstance(failure(server, model="gpt-none"), openai.NotFoundError)


def test_wrong_key_is_repeated_in_the_error_and_not_logged():
    with StubServer(Scenario(expected_key="sk-right")) as server:
        assert "Bearer sk-secret" in str(failure(server, settings={"api_key": "sk-secret"}))
        text_of(server)
    assert [entry.key_ok for entry in server.log] == [False, True]
    assert "sk-secret" not in repr(server.log)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("status", status=503), openai.InternalServerError),
        (Fault("cut"), openai.APIConnectionError),
        (Fault("cut_body"), openai.APIConnectionError),
        (Fault("truncated"), json.JSONDecodeError),
        (Fault("quota"), openai.RateLimitError),
        (Fault("invalid_image"), openai.BadRequestError),
        (Fault("too_large"), openai.APIStatusError),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_faults_raise_the_expected_sdk_errors(fault, error):
    with StubServer(Scenario(faults=(fault,))) as server:
        assert isinstance(failure(server), error)
    assert server.log[0].fault == fault.kind
    assert server.log[0].paid == (fault.kind in ("cut_body", "truncated"))


def test_faulty_answers_have_the_expected_form():
    kinds = ("empty", "null", "refusal", "refusal_text", "content_filter", "length", "hostile", "text")
    faults = [Fault(kind, numbers=(number,), text="Words.") for number, kind in enumerate(kinds, 1)]
    with StubServer(Scenario(faults=tuple(faults))) as server:
        replies = asyncio.run(ask_in_turn(server, range(len(kinds))))
    choices = {kind: reply.choices[0] for kind, reply in zip(kinds, replies, strict=True)}
    assert choices["empty"].message.content == "" and choices["null"].message.content is None
    assert choices["refusal"].message.refusal.startswith("I'm sorry")
    assert choices["refusal_text"].message.content.startswith("I'm sorry")
    assert choices["content_filter"].finish_reason == "content_filter"
    assert choices["length"].finish_reason == "length"
    assert all(mark in choices["hostile"].message.content for mark in ("<script>", "\x1b[", "\x00", "\u202e", "\ud83d"))
    assert choices["text"].message.content == "Words."
    assert [entry.fault for entry in server.log] == list(kinds) and all(entry.paid for entry in server.log)


def test_fault_rules_select_by_number_picture_attempt_and_probability():
    marks = [mark_of(picture(number)) for number in range(3)]
    rules = (Fault("empty", mark=marks[1], times=2), Fault("refusal_text", every=7))
    with StubServer(Scenario(faults=rules)) as server:
        asyncio.run(ask_in_turn(server, [0, 1, 2] * 3))
    assert [entry.fault for entry in server.log] == ["", "empty", "", "", "empty", "", "refusal_text", "", ""]

    rules = (Fault("empty", share=0.5), Fault("length", probability=0.5))
    with StubServer(Scenario(faults=rules, seed=1)) as server:
        asyncio.run(ask_in_turn(server, [*range(12)] * 2))
    faults = [entry.fault for entry in server.log]
    assert [fault == "empty" for fault in faults[:12]] == [fault == "empty" for fault in faults[12:]]
    assert set(faults) == {"", "empty", "length"}


@pytest.mark.parametrize("form", ["seconds", "date", "ms"])
def test_rate_limit_says_how_long_to_wait(form):
    with StubServer(Scenario(rate_limit=2, rate_window=30, retry_after=form)) as server:
        asyncio.run(ask_in_turn(server, [0, 1]))
        error = failure(server)
    assert isinstance(error, openai.RateLimitError)
    header = error.response.headers["Retry-After"]
    wait = parsedate_to_datetime(header).timestamp() - time.time() if form == "date" else float(header)
    assert 25 < wait <= 31
    assert form != "ms" or 25_000 < float(error.response.headers["retry-after-ms"]) <= 30_000
    assert [entry.fault for entry in server.log] == ["", "", "rate"]


@pytest.mark.slow
def test_sdk_waits_as_long_as_told():
    with StubServer(Scenario(rate_limit=1, rate_window=1.5, retry_after_value="2.0")) as server:
        text_of(server)
        text_of(server, settings={"max_retries": 1})
    assert [entry.status for entry in server.log] == [200, 429, 200]
    assert server.log[2].at - server.log[1].at >= 1.99


@pytest.mark.parametrize(("when_full", "statuses"), [("queue", [200] * 6), ("429", [200] * 2 + [429] * 4)])
@pytest.mark.slow
def test_full_server_queues_or_rejects(when_full, statuses):
    async def ask_all(server):
        async with client(server) as api:
            calls = [api.chat.completions.create(model=MODEL, messages=messages(number)) for number in range(6)]
            return await asyncio.gather(*calls, return_exceptions=True)

    with StubServer(Scenario(slots=2, latency=1.0, when_full=when_full)) as server:
        asyncio.run(ask_all(server))
    assert sorted(entry.status for entry in server.log) == statuses
    assert server.peak_concurrency == (6 if when_full == "queue" else server.peak_concurrency)
    if when_full == "queue":
        assert max(entry.done_at for entry in server.log) - server.log[0].at >= 3.0


def test_unsupported_parameters_are_rejected():
    with StubServer(Scenario(no_max_tokens=True, no_temperature=True)) as server:
        assert "max_completion_tokens" in str(failure(server, max_tokens=9))
        assert "temperature" in str(failure(server, temperature=0))
        assert text_of(server, max_completion_tokens=99, temperature=1)


def test_pictures_are_decoded():
    with StubServer() as server:
        talk = messages()
        talk[0]["content"][0]["image_url"]["url"] = "data:image/png;base64," + base64.b64encode(b"words").decode()
        assert failure(server, messages=talk).code == "image_parse_error"
        talk[0]["content"][0]["image_url"]["url"] = "data:image/png;base64,*"
        assert failure(server, messages=talk).code == "image_parse_error"


@pytest.mark.slow
def test_server_is_unavailable_until_ready():
    with StubServer(Scenario(ready_after=3.0)) as server:
        assert failure(server).body["message"] == "Loading model"
        wait_until(lambda: answers(server))
    with StubServer(Scenario(ready_after=3.0, not_ready="refuse")) as server:
        assert isinstance(failure(server), openai.APIConnectionError)
        wait_until(lambda: answers(server))


@pytest.mark.slow
def test_stopped_server_restarts_on_the_same_port():
    with StubServer(Scenario(faults=(Fault("die", numbers=(2,), seconds=3.0),))) as server:
        text_of(server)
        assert isinstance(failure(server), openai.APIConnectionError)
        assert isinstance(failure(server), openai.APIConnectionError)
        wait_until(lambda: answers(server))
    assert [entry.fault for entry in server.log] == ["", "die", ""]


def test_killed_process_restarts_on_the_same_port():
    with StubProcess(Scenario(faults=(Fault("die", numbers=(2,)),))) as server:
        text_of(server)
        assert isinstance(failure(server), openai.APIConnectionError)
        assert server.process.wait(10) == 3
        port = server.port
        server.start()
        assert server.port == port and text_of(server, 1)
        assert [entry.fault for entry in server.log] == ["", "die", ""]
        assert len(server.answers_by_mark) == 2


def test_scenario_survives_a_round_trip_through_json():
    scenario = Scenario(slots=2, faults=(Fault("cut", numbers=(1, 2)), Fault("status", status=500, on="create")))
    assert Scenario.from_json(scenario.to_json()) == scenario
    with pytest.raises(TypeError):
        Scenario.from_json('{"slot": 2}')
    with pytest.raises(ValueError, match="No fault 'missing' on 'chat'"):
        Fault("missing")


def lines(*numbers: int, **changes) -> bytes:
    """Return an input file of a batch."""
    rows = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": messages(number), "max_tokens": 50},
            **changes,
        }
        for number in numbers
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


async def send(api: openai.AsyncOpenAI, data: bytes, **metadata: str):
    file = await api.files.create(file=("in.jsonl", data), purpose="batch")
    return await api.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata=metadata
    )


async def wait(api: openai.AsyncOpenAI, batch):
    seen = [batch.status]
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        batch = await api.batches.retrieve(batch.id)
        seen.append(batch.status)
    return batch, seen


async def collect(api: openai.AsyncOpenAI, file: str | None) -> dict[str, dict]:
    if file is None:
        return {}
    content = (await api.files.content(file)).text
    return {row["custom_id"]: row for row in map(json.loads, content.splitlines())}


def test_batch_runs_from_upload_to_results():
    async def go(server):
        async with client(server) as api:
            batch = await send(api, lines(*range(8)), job="one")
            batch, seen = await wait(api, batch)
            rows = await collect(api, batch.output_file_id)
            await api.files.delete(batch.input_file_id)
            with pytest.raises(openai.NotFoundError):
                await api.files.retrieve(batch.input_file_id)
            return batch, seen, rows

    with StubServer(Scenario(batch_polls=2)) as server:
        batch, seen, rows = asyncio.run(go(server))
    assert seen == ["validating", "in_progress", "completed"]
    assert batch.metadata == {"job": "one"} and batch.error_file_id is None
    assert batch.request_counts.model_dump() == {"total": 8, "completed": 8, "failed": 0}
    assert sorted(rows) == [f"row-{number}" for number in range(8)] and list(rows) != sorted(rows)
    for number in range(8):
        body = rows[f"row-{number}"]["response"]["body"]
        assert mark_of(picture(number)) in body["choices"][0]["message"]["content"] and body["usage"]["total_tokens"]
    assert server.answers_by_mark == {mark_of(picture(number)): 1 for number in range(8)}
    assert {(entry.batch, entry.endpoint) for entry in server.log if entry.mark} == {(batch.id, "line")}


def test_failed_lines_are_in_the_error_file():
    faults = (
        Fault("status", on="line", numbers=(1,), status=500),
        Fault("refusal", on="line", numbers=(2,)),
        Fault("missing", on="line", numbers=(3,)),
    )

    async def go(server):
        async with client(server) as api:
            batch, _ = await wait(api, await send(api, lines(0, 1, 2, 3)))
            return batch, await collect(api, batch.output_file_id), await collect(api, batch.error_file_id)

    with StubServer(Scenario(faults=faults)) as server:
        batch, good, bad = asyncio.run(go(server))
    assert batch.status == "completed" and sorted(good) == ["row-1", "row-3"] and sorted(bad) == ["row-0"]
    assert bad["row-0"]["response"]["status_code"] == 500 and "error" in bad["row-0"]["response"]["body"]
    assert good["row-1"]["response"]["body"]["choices"][0]["message"]["refusal"]
    assert batch.request_counts.model_dump() == {"total": 4, "completed": 2, "failed": 2}


@pytest.mark.parametrize("way", ["expired", "cancelled"])
def test_batch_that_ends_early_lists_unprocessed_lines(way):
    async def go(server):
        async with client(server) as api:
            batch = await send(api, lines(*range(4)))
            if way == "cancelled":
                await api.batches.retrieve(batch.id)
                batch = await api.batches.cancel(batch.id)
                assert batch.status == "cancelling"
            batch, _ = await wait(api, batch)
            return batch, await collect(api, batch.output_file_id), await collect(api, batch.error_file_id)

    with StubServer(Scenario(batch_outcome="expired")) as server:
        batch, good, bad = asyncio.run(go(server))
    assert batch.status == way and sorted(good) == ["row-0", "row-1"] and sorted(bad) == ["row-2", "row-3"]
    assert all(row["error"]["code"] == f"batch_{way}" and row["response"] is None for row in bad.values())


def test_invalid_batches_fail_as_a_whole():
    async def go(server, data):
        async with client(server) as api:
            batch, _ = await wait(api, await send(api, data))
            return batch.status, [(error.code, error.line) for error in batch.errors.data]

    with StubServer(Scenario(batch_most_lines=3, batch_most_queued=3)) as server:
        assert asyncio.run(go(server, lines(0) + b"{broken\n")) == ("failed", [("invalid_json_line", 2)])
        assert asyncio.run(go(server, lines(0, 0))) == ("failed", [("duplicate_custom_id", 2)])
        status, errors = asyncio.run(go(server, lines(0, 1, 2, 3)))
        assert status == "failed" and ("token_limit_exceeded", None) in errors


def test_batches_survive_a_restart():
    async def begin(server):
        async with client(server) as api:
            return [await send(api, lines(number), job=str(number)) for number in range(3)]

    async def go_on(server, batch):
        async with client(server) as api:
            found = [each async for each in api.batches.list(limit=2)]
            batch, _ = await wait(api, batch)
            return [each.metadata["job"] for each in found], await collect(api, batch.output_file_id)

    with StubProcess() as server:
        batches = asyncio.run(begin(server))
        server.kill()
        server.start()
        jobs, rows = asyncio.run(go_on(server, batches[1]))
        assert jobs == ["2", "1", "0"] and list(rows) == ["row-1"]
        assert server.answers_by_mark == {mark_of(picture(1)): 1}


def test_lost_response_is_charged():
    async def go(server):
        async with client(server) as api:
            with pytest.raises(openai.APIConnectionError):
                await send(api, lines(0), job="lost")
            return [batch.metadata async for batch in api.batches.list()]

    with StubServer(Scenario(faults=(Fault("cut_body", on="create"),))) as server:
        assert asyncio.run(go(server)) == [{"job": "lost"}]


def test_abandoned_request_is_charged():
    with StubServer(Scenario(latency=2.0)) as server:
        assert isinstance(failure(server, timeout=0.5), openai.APITimeoutError)
        wait_until(lambda: server.log[0].done_at)
        assert server.paid_by_mark == {mark_of(picture(0)): 1} and not server.answers_by_mark
