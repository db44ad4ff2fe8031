"""Text vectors of random batches: the memory-mapped float16 store against a float32 table in memory, in one run.

python benchmarks/text_lookup.py
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BATCH, ROWS, WIDTH, BATCHES = 256, 400_000, 512, 2_000


def rows_per_second(take: Callable[[np.ndarray], np.ndarray]) -> float:
    generator = np.random.default_rng(0)
    batches = generator.integers(0, ROWS, (BATCHES, BATCH))
    take(batches[0])
    started = time.perf_counter()
    for batch in batches:
        take(batch)
    return BATCH * BATCHES / (time.perf_counter() - started)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        table = np.random.default_rng(1).standard_normal((ROWS, WIDTH), dtype=np.float32)
        np.save(path, table.astype(np.float16))
        mapped = np.load(path, mmap_mode="r")
        in_memory = rows_per_second(lambda rows: table[rows])
        from_map = rows_per_second(lambda rows: mapped[rows].astype(np.float32))
        print(f"float32 in memory  {in_memory:12,.0f} rows/s, {table.nbytes / 2**20:7,.0f} MiB in every process")
        print(f"float16 map        {from_map:12,.0f} rows/s, {path.stat().st_size / 2**20:7,.0f} MiB shared by all")
        print(f"ratio              {from_map / in_memory:12.2f}")


if __name__ == "__main__":
    main()
