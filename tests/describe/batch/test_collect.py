"""Records that an interrupted collection has written already."""

from __future__ import annotations

from dataclasses import replace

from gpt4image.describe.batch.collect import written_since
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore


def test_written_since_finds_later_records_only(tmp_path):
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
