"""The runner compared with a bare asyncio loop over the SDK, on a server of known capacity; and memory as sets grow.

python benchmarks/describe_runner.py                # 10,000 images, all sides in turn, three rounds
python benchmarks/describe_runner.py --workers 8    # the same with eight worker processes, on a machine with the cores
python benchmarks/describe_runner.py --latency 0.2  # a server with a tenth of that capacity, like that of a large model
python benchmarks/describe_runner.py --memory       # memory with 1,000, 10,000 and 100,000 images

A loopback server with a latency of 20 ms and 64 slots answers faster than one core can send requests through the SDK.
So three figures put its nominal capacity into perspective: the rate of a client without overhead, which sends the same
bytes over and over; the rate of the SDK's own code, without a network or a server; and for each side the share of a
core that it kept busy. A side at 100% of its cores is limited by them and not by the server.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from gpt4image import load_images
from gpt4image.describe.question import Question
from gpt4image.describe.runner import Ledger, run_tasks
from gpt4image.describe.tasks import RequestMaker, plan_tasks
from gpt4image.descriptions.prompts import PromptValues, load_prompts
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.images import ImageTable
from gpt4image.llm.base import Sampling
from gpt4image.llm.budget import Budget
from gpt4image.llm.openai_client import OpenAIDescriber
from gpt4image.llm.picture import prepare_picture
from support.stub_scenario import MODEL, Scenario
from support.stub_server import StubProcess

SLOTS = 64
SAME_BYTES, BARE = f"the same bytes, {SLOTS} at a time", f"bare SDK loop, {SLOTS} at a time"
ALONE = "SDK without a network"


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


@dataclass(frozen=True)
class Timed:
    """One side's run: images per second, and the cores that it kept busy."""

    rate: float
    cores: float


class Clock:
    """Measures wall time and this process's processor time from its creation."""

    def __init__(self) -> None:
        self._wall, self._busy = time.perf_counter(), time.process_time()

    def read(self, count: int) -> Timed:
        """Return the rate and the busy cores, given the number of images processed since then."""
        seconds = time.perf_counter() - self._wall
        return Timed(count / seconds, (time.process_time() - self._busy) / seconds)


def question_body(picture: str) -> dict[str, object]:
    """The body of the request about an image."""
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": "Describe the image in detail."},
    ]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 300}


def same_bytes(images: ImageTable, count: int, server: StubProcess) -> Timed:
    """A client with almost no overhead, which shows the server's capacity: it sends one request's bytes repeatedly."""
    body = json.dumps(question_body(prepare_picture(images.read(0), "", 768).data_url)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: loopback\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def work() -> Timed:
        left = iter(range(count))

        async def one_after_the_other() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for _ in left:
                writer.write(request)
                answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200")
                await reader.readexactly(int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
            writer.close()

        clock = Clock()
        await asyncio.gather(*(one_after_the_other() for _ in range(SLOTS)))
        return clock.read(count)

    return asyncio.run(work())


def sdk_alone(images: ImageTable, count: int) -> Timed:
    """The SDK's own code: one request's body, sent as the runner does, and answered without a network."""
    import httpx2
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    message = {"role": "assistant", "content": "A small picture of noise. " * 8}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    network = httpx2.MockTransport(lambda _: httpx2.Response(200, json=answer))
    body = question_body(prepare_picture(images.read(0), "", 768).data_url)

    async def work() -> Timed:
        async with AsyncOpenAI(api_key="none", http_client=DefaultAsyncHttpxClient(transport=network)) as client:
            clock = Clock()
            for _ in range(count):
                await client.post("/chat/completions", cast_to=object, body=body)
            return clock.read(count)

    return asyncio.run(work())


def bare_loop(images: ImageTable, count: int, server: StubProcess) -> Timed:
    """The SDK's own client, 64 at a time, and nothing else: no record, no retry."""
    from openai import AsyncOpenAI

    async def work() -> Timed:
        client = AsyncOpenAI(base_url=server.base_url, api_key="none")
        left = iter(range(count))

        async def one_after_the_other() -> None:
            for row in left:
                body = question_body(prepare_picture(images.read(row), "", 768).data_url)
                answer = await client.chat.completions.create(**body)
                assert answer.choices[0].message.content

        clock = Clock()
        await asyncio.gather(*(one_after_the_other() for _ in range(SLOTS)))
        timed = clock.read(count)
        await client.close()
        return timed

    return asyncio.run(work())


def runner(images: ImageTable, base_url: str, rank: int = 0, workers: int = 1) -> Timed:
    """The runner, or one of several workers: every answer becomes a record on disk."""
    question = Question(MODEL, tuple(load_prompts(["plain"])), PromptValues(images.classes), Sampling())
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as loop:
        store = DescriptionStore(folder)
        clock = Clock()
        tasks = plan_tasks(images, np.arange(len(images)), question, store).shard(rank, workers)
        describer = OpenAIDescriber(MODEL, base_url)
        with store.writer() as writer:
            maker = RequestMaker(images, question, tasks)
            ledger = Ledger(maker, writer, Budget(None, None, 0.0, 300))
            tally = run_tasks(maker, [describer], ledger, loop)
        timed = clock.read(len(tasks))
        loop.run(describer.close())
    assert tally.answered == len(tasks)
    return timed


@cache
def load_set(folder: Path) -> ImageTable:
    """The images that were written."""
    return load_images(folder / "set", work=folder / "work")


def get_ready(folder: Path) -> None:
    """Prepare a worker before it is timed: load the code and find the images."""
    import openai  # noqa: F401

    load_set(folder)


def work_a_share(folder: Path, base_url: str, rank: int, workers: int) -> Timed:
    """One worker's share."""
    return runner(load_set(folder), base_url, rank, workers)


def several(folder: Path, count: int, server: StubProcess, workers: int) -> Timed:
    """Worker processes, as `--engine local --workers N` starts them, each with its share of the images."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=get_ready, initargs=(folder,)) as pool:
        list(pool.map(time.sleep, [1.0] * workers))
        start = time.perf_counter()
        shares = list(
            pool.map(work_a_share, *zip(*((folder, server.base_url, n, workers) for n in range(workers)), strict=True))
        )
        seconds = time.perf_counter() - start
    return Timed(count / seconds, sum(share.cores for share in shares))


def compare(count: int, rounds: int, latency: float, workers: int) -> None:
    """Print all sides' rates and their ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "set", count)
        images = load_set(folder)
        sides = {
            SAME_BYTES: lambda server: same_bytes(images, count, server),
            ALONE: lambda _: sdk_alone(images, count),
            BARE: lambda server: bare_loop(images, count, server),
            "runner": lambda server: runner(images, server.base_url),
        }
        if workers > 1:
            sides[f"runner, {workers} workers"] = lambda server: several(folder, count, server, workers)
        runs: dict[str, list[Timed]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side, run in sides.items():
                with StubProcess(Scenario(latency=latency, slots=SLOTS, marks=False), keep_log=False) as server:
                    runs[side].append(run(server))
    capacity = SLOTS / latency
    print(f"{count:,} images, server: {latency * 1000:.0f} ms, {SLOTS} at once, {capacity:,.0f}/s; {rounds} rounds")
    rates = {side: statistics.median(run.rate for run in done) for side, done in runs.items()}
    for side, done in runs.items():
        cores = statistics.median(run.cores for run in done)
        print(
            f"{side:30} {rates[side]:7,.0f}/s  {rates[side] / rates[SAME_BYTES]:4.0%} of what the server gives  "
            f"{rates[side] / rates[BARE]:5.2f} x the bare loop  {cores:4.0%} of a core busy"
        )


def measure_memory(count: int) -> None:
    """Describe `count` images, and print how this process's own memory grows meanwhile; mapped files do not count."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--write", folder, "--images", str(count)], check=True)
        images = load_set(Path(folder))
        with StubProcess(Scenario(slots=SLOTS, marks=False), keep_log=False) as server, Highest() as highest:
            before = own_mib()
            runner(images, server.base_url)
        print(f"{count:8,} images: {before:6.0f} MiB with the images listed, {highest.mib:6.0f} MiB while describing")


class Highest:
    """Peak of this process's own memory, sampled at intervals."""

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
    """Memory of this process in MiB that is not backed by a file (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the server takes for a request")
    parser.add_argument("--workers", type=int, default=1, help="worker processes, a side of their own")
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
        compare(asked.images, asked.rounds, asked.latency, asked.workers)


if __name__ == "__main__":
    main()
