"""Parts of the batch interface on their own."""

from __future__ import annotations

import json
import tracemalloc
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from gpt4image.core.errors import StoreError
from gpt4image.describe.batch.collect import written_since
from gpt4image.describe.batch.folder import Batch, BatchFolder, BatchTask
from gpt4image.describe.batch.input_file import InputFile
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.llm.base import ChatAnswer
from gpt4image.llm.batch_api import BatchServer, read_result
from gpt4image.llm.budget import Budget
from gpt4image.llm.credentials import ApiKey
from gpt4image.llm.prices import FREE, Price
from support.batching import make_maker
from support.stub_server import StubServer

KEY = ApiKey("KEY", "sk-secret")


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"null", b"3", b'{"custom_id": 3}', b'{"response": {}}', b"\xff\xfe", b"[" * 100_000],
)
def test_lines_that_speak_of_no_task(line):
    assert read_result(line, KEY) is None


@pytest.mark.parametrize(
    ("rest", "status", "code", "detail"),
    [
        (
            '"response": {"status_code": 400, "body": {"error": {"code": "c", "message": "sk-secret"}}}',
            400,
            "c",
            "[key]",
        ),
        ('"response": {"status_code": 0, "body": null}', None, "", "None"),
        ('"response": {"status_code": "500", "body": "oh"}', None, "", "oh"),
        ('"response": {"status_code": 502, "body": {"detail": "no"}}', 502, "", "{'detail': 'no'}"),
        ('"response": null, "error": {"code": "batch_expired", "message": "late"}', None, "batch_expired", "late"),
        ('"error": null', None, "", "None"),
    ],
)
def test_lines_of_requests_that_failed(rest, status, code, detail):
    result = read_result(f'{{"custom_id": "k", {rest}}}'.encode(), KEY)
    assert (result.failure.status, result.failure.code, result.failure.detail) == (status, code, detail)
    assert result.processed == (code != "batch_expired")


def test_lines_end_at_line_feeds_only():
    rows = [{"custom_id": "a", "text": "one\u2028two\x85three\u000bfour"}, {"custom_id": "b", "text": "x" * 200_000}]
    data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    with StubServer() as stub:
        server = BatchServer("m", stub.base_url)
        file = server._client.files.create(file=("x.jsonl", data), purpose="batch").id
        assert [json.loads(line) for line in server.lines(file)] == rows
        assert server.find_upload("x.jsonl", len(data)) == file and server.find_upload("x.jsonl", 1) is None
        server.delete(file)
        server.delete(file)
        server.close()


def test_tasks_come_back_from_their_lines(image_set, tmp_path):
    maker = make_maker(image_set, tmp_path, ["questions"])
    first = BatchTask.first(maker, 3)
    counted, uncounted = ChatAnswer(" One \ud83d.", "stop", 10, 5), ChatAnswer("", None, None, 5)
    told = first.charge(counted, 0.25).answer(counted.text).fail().charge(uncounted, None)
    assert BatchTask.from_line(told.line()) == told and not first.begun and told.begun and not told.finished
    assert (told.record.tokens_in, told.record.tokens_out, told.record.cost) == (None, 10, None)
    assert told.answers == (" One ?.",) and told.answer("Two. ").answer("").text == "One ?. Two."
    assert told.answer("").tries == 0 and told.answer("").answer("").finished


def test_memory_does_not_grow_with_an_input_file(image_set, tmp_path):
    few = make_maker(image_set, tmp_path)

    def peak(times: int) -> tuple[int, int]:
        numbers = np.tile(np.arange(len(few)), times)
        tasks = (BatchTask.first(few, number) for number in numbers.tolist())
        tracemalloc.start()
        file = InputFile("m", old_limit=True, max_bytes=10**9)
        deque(file.write(tmp_path / "requests", tmp_path / "tasks", tasks, few.part(numbers)), maxlen=0)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, file.size

    peak(1)
    (small, size), (large, large_size) = peak(3), peak(30)
    assert size > 600_000 and large_size == 10 * size
    assert large < small + large_size / 20


def test_what_killed_processes_leave_is_tidied(tmp_path):
    folder = BatchFolder(tmp_path)
    whole, half = (Batch(folder.new_name(), "p", "m", requests=1, size=1, old_limit=True) for _ in range(2))
    folder.save(whole)
    (tmp_path / "waiting").mkdir()
    (tmp_path / "waiting" / ".x.jsonl.1.tmp").touch()
    (tmp_path / "waiting" / "x.jsonl").touch()  # emptied, and killed before it could be taken away
    folder.tidy()
    assert folder.batches() == [whole] and not folder.tasks(half.name).parent.exists()
    assert not list((tmp_path / "waiting").iterdir())
    state = folder.tasks(whole.name).with_name("state.json")
    state.write_text(state.read_text().replace("ticket", "tickets"))
    with pytest.raises(StoreError, match="written by another version"):
        folder.batches()


def test_records_written_since_a_time(tmp_path):
    store = DescriptionStore(tmp_path)
    record = DescriptionRecord("a", "i", created="2026-01-01T00:00:02")
    with store.writer() as writer:
        writer.write(record)
        writer.write(replace(record, key="b", error="x"))
        writer.write(replace(record, key="b", created="2026-01-01T00:00:00"))
        writer.write(replace(record, key="c", error="x", created="2026-01-01T00:00:00"))
        writer.write(replace(record, key="d"))
        found = written_since(writer.path.parent, "2026-01-01T00:00:01", dict.fromkeys("abc", b""))
    assert found == {"a": True, "b": False}


def test_the_room_of_a_batch_is_what_it_costs_at_worst():
    price = Price(1.0, 1.0, batch=0.5)
    assert Budget(None, price, 0.0, 100, batch=True).room(0) is None
    assert Budget(1.0, FREE, 0.0, 100, batch=True).room(0) is None
    budget = Budget(1.0, price, 0.5, 464, batch=True)
    assert budget.room(0) == int(0.5 / (0.5 * 66_000 / 1e6)) and budget.room(1) == 0
    assert budget.pay(0, 0) == 0 and budget.room(1) == 0  # a failure tells nothing of pictures
    assert budget.pay(1536, 464) == pytest.approx(0.001)
    assert budget.room(0) == 100
    for _ in range(4):
        budget.pay(1000, 464)
    left = 1.0 - budget.spent
    assert budget.room(0) == int(left / 0.001) and budget.room(20) == int(left / 0.001) - 20
    assert Budget(0.003, price, 0.0, 464, batch=True).room(0) == 1
    assert Budget(0.002, price, 0.0, 464, batch=True).room(0) == 0
