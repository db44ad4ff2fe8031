"""Text vectors of random batches: the memory-mapped float16 store against a float32 table in memory, in one run.

python benchmarks/text_lookup.py
"""

import hashlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from gpt4image.embed.store import EmbeddingLayout, EmbeddingManifest, EmbeddingStore

BATCH, ROWS, WIDTH, BATCHES = 256, 400_000, 512, 1_000
SEVERAL = 4


def rows_per_second(take: Callable[[np.ndarray], object], rows: int = ROWS) -> float:
    generator = np.random.default_rng(0)
    batches = generator.integers(0, rows, (BATCHES, BATCH))
    take(batches[0])
    started = time.perf_counter()
    for batch in batches:
        take(batch)
    return BATCH * BATCHES / (time.perf_counter() - started)


def index_store(layout: EmbeddingLayout, texts_per_image: int) -> EmbeddingStore:
    """Give the vectors in a folder to images, some to each."""
    images = ROWS // texts_per_image
    ids = sorted(hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest() for number in range(images))
    np.save(layout.ids, np.asarray(ids, dtype="S32"))
    np.save(layout.offsets, np.arange(images + 1) * texts_per_image)
    np.save(layout.rows, np.random.default_rng(2).permutation(ROWS))
    EmbeddingManifest(
        encoder="none", revision="", width=WIDTH, max_tokens=0, long_text="truncate", text_hash="", images=images,
        distinct_texts=ROWS, texts=ROWS, truncated=0, longest={},
    ).save(layout.manifest)  # fmt: skip
    return EmbeddingStore(layout.folder)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        layout = EmbeddingLayout(Path(folder))
        table = np.random.default_rng(1).standard_normal((ROWS, WIDTH), dtype=np.float32)
        np.save(layout.vectors, table.astype(np.float16))
        mapped = np.load(layout.vectors, mmap_mode="r")
        in_memory = rows_per_second(lambda rows: table[rows])
        from_map = rows_per_second(lambda rows: mapped[rows].astype(np.float32))
        size = layout.vectors.stat().st_size
        print(f"float32 in memory  {in_memory:12,.0f} rows/s, {table.nbytes / 2**20:7,.0f} MiB in every process")
        print(f"float16 map        {from_map:12,.0f} rows/s, {size / 2**20:7,.0f} MiB shared by all")
        print(f"ratio              {from_map / in_memory:12.2f}")
        for texts in (1, SEVERAL):
            store = index_store(layout, texts)
            for choose in ("random", "mean"):
                rate = rows_per_second(partial(store.take, choose=choose), len(store))
                print(f"{choose + f' of {texts}':18} {rate:12,.0f} images/s, ratio {rate / in_memory:.2f}")


if __name__ == "__main__":
    main()
