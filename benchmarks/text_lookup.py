"""Text vectors of random batches: the memory-mapped float16 store and a float32 table in memory, in turns.

    python benchmarks/text_lookup.py

The cost is processor time. Each process needs a table of its own with every vector, whereas all share the map.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from paired import Spread, add_options, processor_time, ratio, save, take_turns

from gpt4image.embed.store import EmbeddingLayout, EmbeddingManifest, EmbeddingStore

BATCH, WIDTH, BATCHES = 256, 512, 200
SEVERAL = 4


def batches_of(take: Callable[[np.ndarray], object], rows: int) -> Callable[[], float]:
    """Return a side that looks up random batches."""
    batches = np.random.default_rng(0).integers(0, rows, (BATCHES, BATCH))

    def go() -> None:
        for batch in batches:
            take(batch)

    return partial(processor_time, go)


def index_store(layout: EmbeddingLayout, vectors: int, texts_per_image: int) -> EmbeddingStore:
    """Assign the vectors in a folder to images, several to each."""
    images = vectors // texts_per_image
    ids = sorted(hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest() for number in range(images))
    np.save(layout.ids, np.asarray(ids, dtype="S32"))
    np.save(layout.offsets, np.arange(images + 1) * texts_per_image)
    np.save(layout.rows, np.random.default_rng(2).permutation(vectors))
    EmbeddingManifest(
        encoder="none", revision="", width=WIDTH, max_tokens=0, long_text="truncate", text_hash="", images=images,
        distinct_texts=vectors, texts=vectors, truncated=0, longest={},
    ).save(layout.manifest)  # fmt: skip
    return EmbeddingStore(layout.folder)


def main() -> None:
    """Print and save vectors per second for every side, and the ratio of their costs to the table's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=400_000)
    add_options(parser, rounds=15)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        layout = EmbeddingLayout(Path(place) / "vectors")
        layout.folder.mkdir()
        table = np.random.default_rng(1).standard_normal((asked.vectors, WIDTH), dtype=np.float32)
        np.save(layout.vectors, table.astype(np.float16))
        mapped = np.load(layout.vectors, mmap_mode="r")
        sides = {
            "float32 in memory": batches_of(lambda rows: table[rows], len(table)),
            "float16 map": batches_of(lambda rows: mapped[rows].astype(np.float32), len(table)),
        }
        for texts in (1, SEVERAL):
            own = EmbeddingLayout(Path(place) / f"store{texts}")
            own.folder.mkdir()
            own.vectors.symlink_to(layout.vectors)
            store = index_store(own, asked.vectors, texts)
            for choose in ("random", "mean"):
                sides[f"store, {choose} of {texts}"] = batches_of(partial(store.take, choose=choose), len(store))
        costs = take_turns(sides, asked.rounds)
    rows = []
    for name, seconds in costs.items():
        rate = BATCH * BATCHES / Spread.of(seconds).median
        rows.append({"side": name, "images_per_second": rate, "cost": ratio(seconds, costs["float32 in memory"])})
        print(f"{name:20} {rate:12,.0f} images/s, cost {rows[-1]['cost']} of the table's")
    save("text_lookup", asked, rows)


if __name__ == "__main__":
    main()
