"""The runner against a bare asyncio loop over the SDK, on one server of known capacity; and memory as sets grow.

python benchmarks/describe_runner.py            # 10,000 images, both sides in turn, three rounds
python benchmarks/describe_runner.py --memory   # memory with 1,000, 10,000 and 100,000 images
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "describe"))
from stub_scenario import MODEL, Scenario
from stub_server import StubProcess

from gpt4image import load_images
from gpt4image.describe.cost.budget import Budget
from gpt4image.describe.describers.base import Sampling
from gpt4image.describe.describers.openai_server import OpenAIDescriber
from gpt4image.describe.picture import prepare_picture
from gpt4image.describe.prompts import PromptValues, load_strategies
from gpt4image.describe.runner import run_tasks
from gpt4image.describe.store import DescriptionStore
from gpt4image.describe.tasks import Question, RequestMaker, plan_tasks
from gpt4image.images import ImageTable

SLOTS = 64


def write_images(folder: Path, count: int) -> Path:
    """A Parquet file of small PNGs in ten classes."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    images, labels = [], []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG", compress_level=1)
        images.append({"bytes": buffer.getvalue(), "path": f"{number:06}.png"})
        labels.append(f"class{number % 10}")
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "train.parquet")
    return folder


def bare_loop(images: ImageTable, rows: np.ndarray, base_url: str) -> float:
    """Seconds for all images with the SDK's own client, 64 at a time, and nothing else: no record, no retry."""
    from openai import AsyncOpenAI

    async def work() -> None:
        client = AsyncOpenAI(base_url=base_url, api_key="none")
        left = iter(rows.tolist())

        async def one_after_the_other() -> None:
            for row in left:
                picture = prepare_picture(images.read(row), "", 768)
                content = [
                    {"type": "image_url", "image_url": {"url": picture.data_url}},
                    {"type": "text", "text": "Describe the image in detail."},
                ]
                answer = await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": content}], max_tokens=300
                )
                assert answer.choices[0].message.content

        await asyncio.gather(*(one_after_the_other() for _ in range(SLOTS)))
        await client.close()

    start = time.perf_counter()
    asyncio.run(work())
    return time.perf_counter() - start


def runner(images: ImageTable, rows: np.ndarray, base_url: str) -> float:
    """Seconds for all images with the runner: every answer a record on disk."""
    question = Question(MODEL, tuple(load_strategies(["plain"])), PromptValues(images.classes), Sampling())
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as loop:
        store = DescriptionStore(folder)
        start = time.perf_counter()
        tasks = plan_tasks(images, rows, question, store)
        describer = OpenAIDescriber(MODEL, base_url)
        with store.writer() as writer:
            tally = run_tasks(
                RequestMaker(images, question, tasks), [describer], writer, Budget(None, None, 0.0, 300), loop
            )
        seconds = time.perf_counter() - start
        loop.run(describer.close())
    assert tally.answered == len(rows)
    return seconds


def compare(count: int, rounds: int, latency: float) -> None:
    """Print both sides' rates and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        images = load_images(write_images(Path(folder) / "set", count), work=Path(folder) / "work")
        rows = np.arange(len(images))
        scenario = Scenario(latency=latency, slots=SLOTS, marks=False)
        ours, theirs = [], []
        for _ in range(rounds):
            with StubProcess(scenario, keep_log=False) as server:
                theirs.append(count / bare_loop(images, rows, server.base_url))
            with StubProcess(scenario, keep_log=False) as server:
                ours.append(count / runner(images, rows, server.base_url))
    capacity = SLOTS / latency
    bare, mine = statistics.median(theirs), statistics.median(ours)
    print(f"{count:,} images, server: {latency * 1000:.0f} ms, {SLOTS} at once, {capacity:,.0f}/s; {rounds} rounds")
    print(f"bare SDK loop, {SLOTS} at a time  {bare:8,.0f}/s  {bare / capacity:.0%} of the server's capacity")
    print(f"runner, finds out by itself  {mine:8,.0f}/s  {mine / capacity:.0%} of the server's capacity")
    print(f"ratio                        {mine / bare:8.2f}")


def measure_memory(count: int) -> None:
    """Describe so many images, and print how this process's own memory grows meanwhile; mapped files do not count."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--write", folder, "--images", str(count)], check=True)
        images = load_images(Path(folder) / "set", work=Path(folder) / "work")
        with StubProcess(Scenario(slots=SLOTS, marks=False), keep_log=False) as server, Highest() as highest:
            before = own_mib()
            runner(images, np.arange(len(images)), server.base_url)
        print(f"{count:8,} images: {before:6.0f} MiB with the images listed, {highest.mib:6.0f} MiB while describing")


class Highest:
    """The most memory that this process had of its own, looked at now and then."""

    def __enter__(self) -> Highest:
        self.mib, self._ended = own_mib(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.mib = max(self.mib, own_mib())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def own_mib() -> float:
    """Memory of this process that no file stands behind (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the server takes for a request")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        write_images(asked.write / "set", asked.images)
    elif asked.one:
        measure_memory(asked.images)
    elif asked.memory:
        for count in (1_000, 10_000, 100_000):
            subprocess.run([sys.executable, __file__, "--one", "--images", str(count)], check=True)
    else:
        compare(asked.images, asked.rounds, asked.latency)


if __name__ == "__main__":
    main()
