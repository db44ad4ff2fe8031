"""Lines of the store that cannot be read cost no other line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.records import record_line
from gpt4image.descriptions.store.shards import read_shard

GOOD = [DescriptionRecord(f"{n:032x}", f"{n:032x}", f"text {n}", created=f"2026-01-0{n}T00:00:00") for n in (1, 2, 3)]


def line(**fields) -> bytes:
    values = json.loads(record_line(GOOD[1])) | {"key": "f" * 32}
    return json.dumps(values | fields).encode() + b"\n"


@pytest.mark.parametrize(
    "damaged",
    [
        line(tokens_in=10**20),
        line(tokens_out="many"),
        line(cost=10**400),
        line(sample=[1]),
        line(text={"a": 1}),
        line(key=None),
        line(key="\u00e9"),
        line(created=3),
        line(unknown=1),
        b"[" * 100_000 + b"\n",
        b"\xff\n",
    ],
)
def test_damaged_line_is_skipped_and_counted(tmp_path, capsys, damaged):
    with DescriptionStore(tmp_path).writer() as writer:
        writer.write(*GOOD)
    lines = writer.path.read_bytes().splitlines(keepends=True)
    writer.path.write_bytes(lines[0] + damaged + b"".join(lines[1:]))
    assert [row for batch in read_shard(writer.path, ("text",)) for row in batch["text"].to_pylist()] == [
        "text 1",
        "text 2",
        "text 3",
    ]
    assert "skipped 1 damaged lines" in " ".join(capsys.readouterr().err.split())
    store = DescriptionStore(tmp_path)
    assert {record.text for record in store.current()} == {"text 1", "text 2", "text 3"}
    assert np.isin(b"f" * 32, store.keys().answered).item() is False
    store.compact()
    assert {record.text for record in DescriptionStore(tmp_path).current()} == {"text 1", "text 2", "text 3"}


def test_torn_last_line_is_no_damage(tmp_path, capsys):
    with DescriptionStore(tmp_path).writer() as writer:
        writer.write(*GOOD)
    writer.path.write_bytes(writer.path.read_bytes()[:-20])
    assert len(DescriptionStore(tmp_path).current()) == 2
    assert "damaged" not in capsys.readouterr().err
