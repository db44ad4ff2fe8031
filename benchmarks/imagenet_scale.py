"""The bookkeeping of every stage at the size of ImageNet, without a model: processor time and peak memory.

    python benchmarks/imagenet_scale.py                                  # 1,000, 100,000 and 1,280,000 images
    python benchmarks/imagenet_scale.py --images 1000 100000

The images are distinct PNG files of 8 x 8 pixels inside Parquet; the answers and the vectors are synthetic. Each stage
uses the library's own calls and runs in a separate process, so that its peak memory is measured by itself.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import resource
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gpt4image.core.options import DataOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.describe.question import Question
from gpt4image.describe.tasks import RequestMaker, plan_tasks
from gpt4image.descriptions import DescriptionSet, DescriptionStore, described_set
from gpt4image.descriptions.prompts import PromptValues, load_prompts
from gpt4image.descriptions.store.shards import now
from gpt4image.embed import EmbeddingStore, embed_descriptions
from gpt4image.images import ImageTable
from gpt4image.images.open import open_images
from gpt4image.llm.base import Sampling

CLASSES, IMAGES_A_CLASS, WIDTH, BATCH = 1000, 50, 384, 256
WORDS = "A photograph of an animal beside the water, seen from the side, with number {} on a small sign. "
PART = 65_536


def pictures(count: int) -> Iterator[bytes]:
    """PNG files that differ in a comment."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
    data = stream.getvalue()
    end = data.index(b"IEND") - 4
    for number in range(count):
        note = b"tEXtn\0%d" % number
        chunk = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
        yield data[:end] + chunk + data[end:]


def write_images(folder: Path, count: int) -> None:
    """Write the image set."""
    folder.mkdir(parents=True)
    kind = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.string()})
    data, classes = pictures(count), min(CLASSES, count // IMAGES_A_CLASS)
    with pq.ParquetWriter(folder / "train.parquet", kind) as writer:
        for start in range(0, count, PART):
            numbers = range(start, min(start + PART, count))
            images = [{"bytes": next(data), "path": f"{n:07}.png"} for n in numbers]
            writer.write_table(pa.table({"image": images, "label": [f"class {n % classes}" for n in numbers]}, kind))


class NoModel:
    """A text encoder whose vectors are made up from the text's hash."""

    name, revision, width, max_tokens = "none", "none", WIDTH, 256

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of words."""
        return [text.count(" ") for text in texts]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors, float32 [N, D]."""
        hashes = b"".join(hashlib.blake2b(text.encode(), digest_size=48).digest() for text in texts)
        bits = np.unpackbits(np.frombuffer(hashes, np.uint8).reshape(len(texts), -1), axis=1)
        return ((bits * 2.0 - 1) / WIDTH**0.5).astype(np.float32)


def images_of(work: Path) -> ImageTable:
    """The images, as every command opens them."""
    return open_images(DataOptions(str(work / "images"), validation_share=0.04, test_share=0.04), WorkDir(work))


def store_of(work: Path) -> DescriptionStore:
    """The store of descriptions."""
    return DescriptionStore(WorkDir(work).description_store)


def plan(work: Path) -> RequestMaker:
    """The plan of `describe`: one question about every image."""
    images = images_of(work)
    question = Question("model", tuple(load_prompts(["plain"])), PromptValues(images.classes), Sampling())
    return RequestMaker(images, question, plan_tasks(images, np.arange(len(images)), question, store_of(work)))


def write_answers(work: Path) -> None:
    """Write a record for every image, one by one, and compact them, as `describe` does at its end."""
    maker, store = plan(work), store_of(work)
    with store.writer() as writer:
        for number in range(len(maker)):
            text = WORDS.format(number) * 3
            answer = {"text": text, "tokens_in": 300, "tokens_out": 80, "cost": 1e-4, "created": now()}
            writer.write(replace(maker.record(number), **answer))
    store.compact()


def texts_of(work: Path) -> DescriptionSet:
    """Join the descriptions to the images."""
    return described_set(store_of(work), images_of(work))


def embed(work: Path) -> None:
    """Embed without a model: plan, chunks, vectors and index."""
    embed_descriptions(texts_of(work), NoModel(), WorkDir(work).embeddings("none"))


def look_up(work: Path) -> None:
    """Look up the vectors of an epoch's batches."""
    images, store = images_of(work), EmbeddingStore(WorkDir(work).embeddings("none"))
    ids = images.ids[np.random.default_rng(0).permutation(len(images))]
    for start in range(0, len(ids), BATCH):
        store.lookup(ids[start : start + BATCH])


STAGES: dict[str, Callable[[Path], object]] = {
    "images, first time": images_of,
    "images, again": images_of,
    "describe: plan": plan,
    "describe: write and compact": write_answers,
    "describe: nothing left": plan,
    "descriptions joined": texts_of,
    "embed: all but the encoder": embed,
    "training: vectors of an epoch": look_up,
}


def run_stage(name: str, work: Path) -> None:
    """Run a stage in this process, and print its time and memory."""
    STAGES[name](work)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": used.ru_utime + used.ru_stime, "peak_mb": round(used.ru_maxrss / 1024)}))


def measure(count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Run all stages on `count` images, each in a process of its own."""
    write_images(folder / "images", count)
    for name in STAGES:
        command = [sys.executable, __file__, "--stage", name, "--work", str(folder)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise SystemExit(answer.stderr)
        row = {"images": count, "stage": name, **json.loads(answer.stdout.splitlines()[-1])}
        print(f"{count:>9,} images  {name:30} {row['seconds']:8.1f} s {row['peak_mb']:7,} MB", flush=True)
        yield row


def main() -> None:
    """Print and save the table."""
    from paired import save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=[1_000, 100_000, 1_280_000])
    parser.add_argument("--save", type=Path, help="file of the record; default: benchmarks/results/NAME.json")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stage:
        run_stage(asked.stage, asked.work)
        return
    rows = []
    for count in asked.images:
        with tempfile.TemporaryDirectory() as folder:
            rows += list(measure(count, Path(folder)))
    save("imagenet_scale", asked, rows)


if __name__ == "__main__":
    main()
