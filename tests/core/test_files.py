"""Atomic writes, locks and resumable arrays."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

from gpt4image.core.errors import BusyError, StoreError
from gpt4image.core.files import ResumableArray, atomic_write, exclusive, fill_array, read_json, write_json


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
    path.write_text("{")
    with pytest.raises(StoreError, match=r"value\.json cannot be read"):
        read_json(path)


def fill_with_ranges(path, computed, plan="plan", stop_after=None):
    def compute(rows):
        if stop_after is not None and len(computed) == stop_after:
            raise KeyboardInterrupt
        computed.append(rows)
        return np.arange(rows.start, rows.stop)[:, None] * np.ones(3)

    list(fill_array(path, (10, 3), "float16", 4, plan, compute))


def test_interrupted_array_resumes_at_the_first_missing_chunk(tmp_path):
    path, computed = tmp_path / "a.npy", []
    with pytest.raises(KeyboardInterrupt):
        fill_with_ranges(path, computed, stop_after=2)
    assert not path.exists()
    fill_with_ranges(path, computed)
    assert computed == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert np.array_equal(np.load(path)[:, 1], np.arange(10))
    fill_with_ranges(path, computed)
    assert len(computed) == 3


def test_array_of_another_plan_is_discarded(tmp_path):
    path, computed = tmp_path / "a.npy", []
    with pytest.raises(KeyboardInterrupt):
        fill_with_ranges(path, computed, stop_after=1)
    fill_with_ranges(path, computed, plan="other")
    assert len(computed) == 1 + 3
    fill_with_ranges(path, computed, plan="third")
    assert len(computed) == 1 + 3 + 3


def test_chunk_is_marked_only_after_its_rows(tmp_path):
    array = ResumableArray(tmp_path / "a.npy", (8, 2), "float32", 4, "plan")
    array.write(1, np.ones((4, 2)))
    again = ResumableArray(tmp_path / "a.npy", (8, 2), "float32", 4, "plan")
    assert again.remaining == [0]
    with pytest.raises(StoreError, match="1 of 2 chunks"):
        again.finish()


def hold(path, held):
    with exclusive(path, "the work"):
        held.set()
        signal.pause()


def test_killed_process_releases_its_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", held))
    process.start()
    assert held.wait(30)
    with pytest.raises(BusyError, match="is using the work"), exclusive(tmp_path / "lock", "the work"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with exclusive(tmp_path / "lock", "the work"):
        pass
