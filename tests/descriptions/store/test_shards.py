"""Shards: whole after a crash, on disk when synced, counted once when compacted."""

from __future__ import annotations

import os
import shutil
import threading
import time

import pytest

from gpt4image.core.errors import StoreError
from gpt4image.descriptions.store import DescriptionRecord
from gpt4image.descriptions.store import shards as parts
from gpt4image.descriptions.store.records import plain_values, record_line
from support.describing import described, records, store_in
from support.stub_scenario import Scenario
from support.stub_server import StubServer

IMAGES = 36


def test_records_are_synced_during_a_run_and_at_its_end(image_set, tmp_path, monkeypatch):
    """Some during the run, all of them at its end."""
    synced, sync = [], os.fsync

    def count(file: int) -> None:
        synced.append((os.fstat(file).st_ino, os.fstat(file).st_size))
        sync(file)

    monkeypatch.setattr(parts.os, "fsync", count)
    with StubServer(Scenario(latency=0.2, slots=4)) as server:
        described(image_set, tmp_path, server.base_url)
    (part,) = (tmp_path / "descriptions" / "parts").glob("*.jsonl")
    sizes = [size for node, size in synced if node == part.stat().st_ino]
    assert sizes[-1] == part.stat().st_size
    assert any(0 < size < sizes[-1] for size in sizes)


def test_close_waits_for_a_sync_in_another_thread(tmp_path, monkeypatch):
    """The event loop may close a file that another thread is flushing to disk."""
    started, failed, sync = threading.Event(), [], os.fsync

    def slow(file: int) -> None:
        started.set()
        time.sleep(0.3)
        try:
            sync(file)
        except OSError as error:
            failed.append(error)

    writer = store_in(tmp_path).writer()
    writer.write(DescriptionRecord("a" * 32, "i", "text"))
    monkeypatch.setattr(parts.os, "fsync", slow)
    thread = threading.Thread(target=writer.sync)
    thread.start()
    started.wait()
    with monkeypatch.context() as patch:
        patch.setattr(parts.os, "fsync", sync)
        writer.close()
    thread.join()
    writer.sync()
    assert not failed and len(records(tmp_path)) == 1


def test_partial_write_is_rolled_back(tmp_path, monkeypatch):
    """A disk that fills up takes a part of what is written."""
    write = os.write
    with store_in(tmp_path).writer() as writer:
        writer.write(DescriptionRecord("a" * 32, "i", "whole"))
        monkeypatch.setattr(parts.os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        with pytest.raises(StoreError, match="free some space"):
            writer.write(DescriptionRecord("b" * 32, "i", "half"))
        monkeypatch.setattr(parts.os, "write", write)
        assert writer.path.read_bytes().endswith(b"}\n")
        writer.write(DescriptionRecord("c" * 32, "i", "whole again"))
    assert [record.key[0] for record in records(tmp_path)] == ["a", "c"]


def test_compacted_shards_count_once_even_if_the_old_ones_survive(image_set, tmp_path):
    """As if the process was killed before it could delete the old shards."""
    store, folder = store_in(tmp_path), tmp_path / "descriptions" / "parts"
    with StubServer() as server:
        for prompt in ("plain", "attributes"):
            described(image_set, tmp_path, server.base_url, prompts=(prompt,), price_in=1.0, price_out=1.0)
    before = store.spent()
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    store.compact()
    for old in kept.glob("*.jsonl"):
        shutil.copy(old, folder)
    assert len(list(folder.glob("*.jsonl"))) == 2 and len(list(folder.glob("*.parquet"))) == 1
    assert store.spent().cost == pytest.approx(before.cost)
    assert len(list(store.records())) == 2 * IMAGES
    store.compact()
    assert not list(folder.glob("*.jsonl"))
    assert len(list(store.records())) == 2 * IMAGES


def test_large_shard_is_not_written_again_for_a_few_new_records(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "SMALL_BYTES", 100_000)
    folder = tmp_path / "parts"

    def add(first, count):
        with parts.RecordWriter(folder) as writer:
            for number in range(first, first + count):
                writer.write(DescriptionRecord(f"{number:032x}", f"{number:032x}", os.urandom(200).hex()))
        if chosen := parts.worth_merging(parts.list_shards(folder)):
            parts.merge_shards(chosen, folder)

    add(0, 2000)
    (large,) = folder.glob("*.parquet")
    for number in range(12):
        add(10_000 + number, 1)
    assert large.exists()
    shards = parts.list_shards(folder)
    assert len(shards) == 2 and not list(folder.glob("*.jsonl"))
    assert sum(batch.num_rows for shard in shards for batch in parts.read_shard(shard, ("key",))) == 2012


def test_lines_parsed_at_once_make_the_records_that_they_make_one_by_one(tmp_path):
    rows = [
        DescriptionRecord(f"{number:032x}", "i" * 32, text, created="2026-01-01T00:00:00", cost=cost, seconds=2)
        for number, (text, cost) in enumerate([("Grüße 😀 \u2028 \\ \n\"'", 1e-7), ("", None), ("2020-01-01", 3)])
    ]
    lines = [record_line(row) for row in rows]
    at_once = parts._parse_intact(lines)
    assert at_once is not None and at_once.equals(parts._parse_one_by_one(lines))
    assert at_once.to_pylist() == [plain_values(row) for row in rows]
    for other in (lines[0].replace(b'"sample": 0, ', b""), lines[0].replace("ü".encode(), b"\xfc")):
        assert parts._parse_intact([*lines, other]) is None
