"""Which record of a key counts, against a plain loop; and many records added at once or not at all."""

import random
from dataclasses import replace
from itertools import product

import pyarrow as pa
import pytest

from gpt4image.core.errors import BusyError
from gpt4image.core.files import digest, exclusive
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.shards import to_batch


def plain_current(store: DescriptionStore, dropped: bool, trials: bool) -> list[DescriptionRecord]:
    """The same as `current`, record by record."""
    marks, found = store.marks(), {}

    def rank(record):
        mark = marks.get(record.key)
        void = mark is not None and mark.verdict == "retry" and mark.created >= record.created
        return record.answered and not void, record.answered, record.created

    for record in store.records():
        if record.key not in found or rank(record) >= rank(found[record.key]):
            found[record.key] = record
    kept = []
    for record in found.values():
        mark = marks.get(record.key)
        verdict = mark.verdict if mark is not None and record.answered else "keep"
        late = verdict in ("drop", "retry") and mark.created >= record.created
        out = late or (verdict == "trial" and not trials)  # a trial whenever it was written
        if dropped or not out:
            kept.append(record)
    return sorted(kept, key=lambda r: (r.image_id, r.prompt, r.prompt_hash, r.model, r.sample, r.key))


@pytest.mark.parametrize("seed", range(8))
def test_current_matches_a_plain_loop(tmp_path, seed):
    store, draw = DescriptionStore(tmp_path), random.Random(seed)
    keys = [digest(str(number)) for number in range(30)]
    for step in range(4):
        with store.writer() as writer:
            for number in range(draw.choice([0, 1, 40])):
                error = draw.choice([None, None, "server error 500"])
                times = ["", "2020-01-01", f"2026-01-0{draw.randint(1, 3)}", "2999-01-01"]
                key = draw.choice(keys)
                writer.write(DescriptionRecord(key, digest(key), f"{step} {number}", error, created=draw.choice(times)))
        store.mark(draw.sample(keys, 6), draw.choice(["drop", "retry", "keep", "trial"]), "why")
        if draw.random() < 0.3:
            store.compact()
        for dropped, trials in product((False, True), repeat=2):
            found = store.current(dropped=dropped, trials=trials)
            assert found == plain_current(store, dropped, trials)


def test_empty_store_has_no_current_records(tmp_path):
    assert DescriptionStore(tmp_path).current() == []
    assert list(DescriptionStore(tmp_path).current_batches()) == []


def test_records_written_during_a_read_are_ignored(tmp_path):
    store = DescriptionStore(tmp_path)
    with store.writer() as first, store.writer() as second:
        for writer, name in ((first, "a"), (second, "b")):
            writer.write(DescriptionRecord(digest(name), digest(name), name))
        batches = store.current_batches()
        found = next(batches).to_pylist()
        for writer in (first, second):
            writer.write(DescriptionRecord(digest("late"), digest("late"), "late"))
        found += [row for batch in batches for row in batch.to_pylist()]
    assert sorted(row["text"] for row in found) == ["a", "b"]


class TestAddAll:
    @pytest.fixture
    def record(self):
        return DescriptionRecord(digest("k"), digest("i"), "text", model="m", created="2026-01-01")

    def test_batches_appear_at_once(self, tmp_path, record):
        store = DescriptionStore(tmp_path)
        batches = [to_batch([replace(record, key=digest(str(n)))]) for n in range(3)]
        assert store.add_all(iter(batches)) == 3
        assert len(store.current()) == 3
        assert [path.suffix for path in (tmp_path / "parts").iterdir()] == [".parquet"]

    def test_error_leaves_the_store_unchanged(self, tmp_path, record):
        def broken():
            yield to_batch([record])
            raise ValueError("row 2")

        store = DescriptionStore(tmp_path)
        with pytest.raises(ValueError, match="row 2"):
            store.add_all(broken())
        assert not list((tmp_path / "parts").iterdir())
        assert store.add_all(iter([])) == 0

    def test_second_process_is_rejected(self, tmp_path, record):
        with exclusive(tmp_path / "add.lock", "it"), pytest.raises(BusyError, match="adding descriptions"):
            DescriptionStore(tmp_path).add_all(iter([to_batch([record])]))

    def test_wrong_columns_are_rejected(self, tmp_path):
        with pytest.raises(ValueError):
            DescriptionStore(tmp_path).add_all(iter([pa.RecordBatch.from_pylist([{"key": "k"}])]))
