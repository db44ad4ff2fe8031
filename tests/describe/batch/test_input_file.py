"""Input files of batches."""

from __future__ import annotations

import tracemalloc
from collections import deque

import numpy as np
import pytest

from gpt4image.describe.batch.folder import BatchTask
from gpt4image.describe.batch.input_file import InputFile
from support.batching import make_maker


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input_file(image_set, tmp_path):
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
