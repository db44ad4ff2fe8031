"""A server on loopback that speaks the OpenAI protocol and misbehaves on a schedule, for tests and benchmarks.

In this process, in a thread:

    with StubServer(Scenario(latency=0.1, slots=4)) as server:
        ...  # server.base_url, server.log, server.answers_by_mark

In a process of its own, for benchmarks and for tests that kill it: `with StubProcess(scenario) as server`, or

    python tests/describe/stub_server.py --port 0 --scenario '{"latency": 0.1, "slots": 4}' --log log.jsonl

which prints `{"port": 40123, "base_url": "http://127.0.0.1:40123/v1"}` once it can be reached. `--scenario` is JSON or
a file of it, as `Scenario.to_json` writes. See `stub_scenario` for what can go wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any, Self, TextIO

from aiohttp import web
from stub_answers import (
    HTML,
    Answer,
    Question,
    RefusedError,
    ask,
    check,
    completion,
    describe,
    error,
    fault_answer,
    too_large,
    too_many,
    wrong_key,
)
from stub_scenario import ANSWERS, ERRORS, MODEL, Entry, Fault, Scenario, answers_by_mark, paid_by_mark, read_log

HOST = "127.0.0.1"
BACKLOG = 2048
EXIT_CODE = 3
ROUTES = (
    ("POST", re.compile(r"/v1/chat/completions"), "chat"),
    ("GET", re.compile(r"/v1/models"), "models"),
)
LOADING = Answer(503, b'{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}')


def route(method: str, path: str) -> tuple[str, str]:
    """The kind of a request and what it names; empty where there is no such address."""
    for wanted, pattern, endpoint in ROUTES:
        if method == wanted and (match := pattern.fullmatch(path)):
            return endpoint, "".join(match.groups())
    return "", ""


def bind(port: int) -> socket.socket:
    """A socket that holds a port; connections are refused until something listens."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, port))
    held.setblocking(False)
    return held


class Stub:
    """The server itself, inside an event loop.

    Args:
        scenario: how it behaves.
        log: gets every request as it arrives.
        log_file: gets every request as a line of JSON when it is over.
        exits: whether to die is to end the process.
    """

    def __init__(
        self, scenario: Scenario, log: list[Entry], log_file: TextIO | None = None, exits: bool = False
    ) -> None:
        self.scenario = scenario
        self._log, self._log_file, self._exits = log, log_file, exits
        self._numbers: Counter[str] = Counter()
        self._tries: Counter[tuple[str, int]] = Counter()
        self._open: dict[int, Entry] = {}
        self._active = self._working = 0
        self._window: deque[float] = deque()
        self._slots = asyncio.Semaphore(scenario.slots or sys.maxsize)
        self._fixed = completion(Question(model=MODEL), Entry("chat"), scenario.text or describe(Question()))
        self._web = web.Server(self.handle, request_factory=self._request, access_log=None)
        self._listener: asyncio.Server | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._ready_at = self._died_at = 0.0

    async def start(self, held: socket.socket) -> None:
        """Begin to listen on a bound socket, at once or when the scenario says so."""
        self._port = held.getsockname()[1]
        self._ready_at = time.monotonic() + self.scenario.ready_after
        if self.scenario.not_ready == "refuse" and self.scenario.ready_after:
            self._waiting = asyncio.create_task(self._listen(held, self.scenario.ready_after))
        else:
            await self._listen(held)

    async def stop(self) -> None:
        """Cut every connection and let go of the port."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._cut_all()
        await self._web.shutdown(0)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, or break it off."""
        endpoint, name = route(request.method, request.path)
        entry = self._arrive(endpoint, request)
        try:
            answer = await self._answer(request, entry, name)
        except RefusedError as refused:
            answer = refused.answer
        except web.HTTPRequestEntityTooLarge:
            answer = too_large()
        try:
            return await self._send(request, entry, answer)
        finally:
            self._leave(entry)

    async def _listen(self, held: socket.socket, after: float = 0.0) -> None:
        try:
            await asyncio.sleep(after)
            self._listener = await asyncio.get_running_loop().create_server(self._web, sock=held, backlog=BACKLOG)
        except asyncio.CancelledError:
            held.close()
            raise

    def _request(self, *parts: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(*parts, loop, client_max_size=self.scenario.most_bytes)

    def _arrive(self, endpoint: str, request: web.BaseRequest) -> Entry:
        header = request.headers.get("Authorization")
        self._numbers[endpoint] += 1
        self._active += endpoint == "chat"
        entry = Entry(endpoint, self._numbers[endpoint], time.monotonic(), self._active)
        entry.has_key = header is not None
        entry.key_ok = header == f"Bearer {self.scenario.expected_key}"
        self._log.append(entry)
        self._open[id(entry)] = entry
        return entry

    def _leave(self, entry: Entry) -> None:
        self._active -= entry.endpoint == "chat"
        del self._open[id(entry)]
        self._write(entry)

    def _write(self, entry: Entry) -> None:
        entry.done_at = time.monotonic()
        if self._log_file is not None:
            self._log_file.write(json.dumps(asdict(entry)) + "\n")

    async def _answer(self, request: web.BaseRequest, entry: Entry, name: str) -> Answer:
        header = request.headers.get("Authorization")
        if entry.endpoint == "chat":
            question = self._read(await request.read(), entry)
        if entry.at < self._ready_at:
            return replace(LOADING, fault="not_ready")
        if self.scenario.expected_key is not None and not entry.key_ok:
            return wrong_key(header)
        if not entry.endpoint:
            return error(404, f"Invalid URL ({request.method} {request.path})", "unknown_url")
        if entry.endpoint == "chat":
            return await self._chat(question, entry, header)
        return await self._act(Question(), entry, header, lambda: self._other(request, entry.endpoint, name))

    def _read(self, body: bytes, entry: Entry) -> Question | Answer:
        """The question, or the answer to one that is wrong in itself."""
        if not self.scenario.marks:
            return Question(model=MODEL)
        try:
            question = ask(body)
        except RefusedError as refused:
            return refused.answer
        question.note(entry)
        return check(question, self.scenario) or question

    async def _chat(self, question: Question | Answer, entry: Entry, header: str | None) -> Answer:
        busy = self._busy()
        if busy is not None:
            return busy
        if isinstance(question, Answer):
            return question
        self._tries[entry.mark, entry.turn] += 1
        entry.tries = self._tries[entry.mark, entry.turn]
        async with self._slot():
            return await self._act(question, entry, header, lambda: self._complete(question, entry))

    async def _complete(self, question: Question, entry: Entry) -> Answer:
        if not self.scenario.marks:
            return self._fixed
        return completion(question, entry, self.scenario.text or describe(question))

    async def _act(
        self, question: Question, entry: Entry, header: str | None, work: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Do the work, or what a fault makes of it."""
        await self._wait(entry)
        fault = self.scenario.fault(entry)
        if fault is None:
            return await work()
        entry.fault = fault.kind
        if fault.kind in ANSWERS | ERRORS:
            return fault_answer(question, fault, entry, header)
        match fault.kind:
            case "cut":
                return Answer(0, b"", fault="cut")
            case "die":
                return self._die(fault)
            case "html":
                return Answer(fault.status or 200, HTML, fault="html", media_type="text/html")
        answer = await work()
        body = answer.body[: len(answer.body) // 2] if fault.kind == "truncated" else answer.body
        return replace(answer, body=body, fault=fault.kind)

    async def _wait(self, entry: Entry) -> None:
        seconds = self.scenario.extra_seconds(entry)
        if entry.endpoint == "chat":
            draw = random.Random(f"{self.scenario.seed} {entry.number}").random() if self.scenario.jitter else 0.0
            seconds += self.scenario.latency + self.scenario.jitter * draw
        if seconds:
            await asyncio.sleep(seconds)

    async def _other(self, request: web.BaseRequest, endpoint: str, name: str) -> Answer:
        models = [{"id": model, "object": "model", "created": 0, "owned_by": "stub"} for model in self._models]
        return Answer(200, json.dumps({"object": "list", "data": models}).encode())

    @property
    def _models(self) -> tuple[str, ...]:
        return self.scenario.models or (MODEL,)

    def _busy(self) -> Answer | None:
        """429 where a request is one too many."""
        scenario, now = self.scenario, time.monotonic()
        if scenario.rate_limit is not None:
            while self._window and self._window[0] <= now - scenario.rate_window:
                self._window.popleft()
            if len(self._window) >= scenario.rate_limit:
                left = self._window[0] + scenario.rate_window - now
                return too_many("Rate limit reached for requests.", self._later(left), "rate")
            self._window.append(now)
        if scenario.slots is not None and scenario.when_full == "429" and self._working >= scenario.slots:
            return too_many("The server is busy.", self._later(max(scenario.latency, 0.001)), "full")
        return None

    def _later(self, seconds: float) -> dict[str, str]:
        """What a 429 says about when to come back."""
        value, whole = self.scenario.retry_after_value, math.ceil(seconds)
        match self.scenario.retry_after:
            case "seconds":
                return {"Retry-After": value or str(whole)}
            case "date":
                return {"Retry-After": value or formatdate(math.ceil(time.time() + seconds), usegmt=True)}
            case "ms":
                return {"retry-after-ms": value or str(math.ceil(1000 * seconds)), "Retry-After": str(whole)}
        return {}

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        async with self._slots:
            self._working += 1
            try:
                yield
            finally:
                self._working -= 1

    def _die(self, fault: Fault) -> Answer:
        """Cut every connection and listen no more; for good, or for some seconds."""
        if self._exits and fault.seconds is None:
            for entry in list(self._open.values()):
                self._write(entry)
            os._exit(EXIT_CODE)
        self._died_at = time.monotonic()
        self._cut_all()
        if fault.seconds is not None:
            self._waiting = asyncio.create_task(self._listen(bind(self._port), fault.seconds))
        return Answer(0, b"", fault="die")

    def _cut_all(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self._web.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _send(self, request: web.BaseRequest, entry: Entry, answer: Answer) -> web.StreamResponse:
        """Write an answer to the end, and note whether that was done."""
        entry.fault, entry.status = answer.fault, answer.status
        entry.paid = answer.paid and entry.at > self._died_at
        response = web.Response(
            status=answer.status or 200, body=answer.body, headers=answer.headers, content_type=answer.media_type
        )
        with contextlib.suppress(ConnectionError):  # the client may have left
            if answer.status == 0:
                cut(request)
            elif answer.fault == "cut_body":
                await send_half(request, answer)
            else:
                await response.prepare(request)
                await response.write_eof()
                entry.sent = request.transport is not None and not request.transport.is_closing()
        return response  # over a connection that is cut, this writes nothing


def cut(request: web.BaseRequest) -> None:
    """Cut the connection of a request."""
    if request.transport is not None:
        request.transport.abort()


async def send_half(request: web.BaseRequest, answer: Answer) -> None:
    """Write the first half of an answer and close the connection."""
    response = web.StreamResponse(status=answer.status)
    response.content_type, response.content_length = answer.media_type, len(answer.body)
    await response.prepare(request)
    await response.write(answer.body[: len(answer.body) // 2])
    if request.transport is not None:
        request.transport.close()


class StubServer:
    """The server in a thread of this process.

    Args:
        scenario: how it behaves.
        port: 0 for any that is free; the same again after `stop` and `start`.

    Attributes:
        log: every request in order of arrival.
        port: where it listens.
    """

    def __init__(self, scenario: Scenario | None = None, *, port: int = 0) -> None:
        self.scenario, self.port = scenario or Scenario(), port
        self.log: list[Entry] = []

    @property
    def base_url(self) -> str:
        """Address for a client."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def answers_by_mark(self) -> Counter[str]:
        """How often each picture was answered to the end."""
        return answers_by_mark(self.log)

    @property
    def paid_by_mark(self) -> Counter[str]:
        """How often each picture was paid for."""
        return paid_by_mark(self.log)

    def start(self) -> Self:
        """Begin to listen; returns when it does."""
        held = bind(self.port)
        self.port = held.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(held, started)), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def stop(self) -> None:
        """Cut every connection and end the thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self, held: socket.socket, started: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        stub = Stub(self.scenario, self.log)
        await stub.start(held)
        started.set()
        await self._stopping.wait()
        await stub.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *problem: object) -> None:
        self.stop()


class StubProcess:
    """The server in a process of its own.

    Args:
        scenario: how it behaves.
        log_file: where requests are written; a temporary file when not given.
        keep_log: without, nothing is written, for benchmarks.
        port: 0 for any that is free; the same again after `stop` or `kill` and `start`.

    Attributes:
        port: where it listens.
        process: the process.
    """

    def __init__(
        self, scenario: Scenario | None = None, *, log_file: Path | None = None, keep_log: bool = True, port: int = 0
    ) -> None:
        self.scenario, self.port = scenario or Scenario(), port
        self._keep_log = keep_log
        self._folder = tempfile.TemporaryDirectory(prefix="stub-")
        self._log_file = log_file or Path(self._folder.name) / "log.jsonl"

    @property
    def base_url(self) -> str:
        """Address for a client."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def log(self) -> list[Entry]:
        """Every request that is over, in order of arrival."""
        return read_log(self._log_file)

    @property
    def answers_by_mark(self) -> Counter[str]:
        """How often each picture was answered to the end."""
        return answers_by_mark(self.log)

    @property
    def paid_by_mark(self) -> Counter[str]:
        """How often each picture was paid for."""
        return paid_by_mark(self.log)

    def start(self) -> Self:
        """Begin; returns when it can be reached."""
        command = [sys.executable, __file__, "--port", str(self.port), "--scenario", self.scenario.to_json()]
        if self._keep_log:
            command += ["--log", str(self._log_file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"The stub server ended with {self.process.wait()}.")
        self.port = json.loads(line)["port"]
        return self

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; what is in flight is lost and not in the log."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *problem: object) -> None:
        self.stop()
        self._folder.cleanup()


async def serve(port: int, scenario: Scenario, log_path: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with contextlib.ExitStack() as stack:
        log_file = stack.enter_context(log_path.open("a", buffering=1)) if log_path else None
        stub = Stub(scenario, [], log_file, exits=True)
        held = bind(port)
        port = held.getsockname()[1]
        await stub.start(held)
        print(json.dumps({"port": port, "base_url": f"http://{HOST}:{port}/v1"}), flush=True)
        await stopping.wait()
        await stub.stop()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="A server that speaks the OpenAI protocol and misbehaves.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scenario", default="{}", help="JSON, or a file of it")
    parser.add_argument("--log", type=Path, help="file that gets a line of JSON a request")
    asked = parser.parse_args()
    text = asked.scenario if asked.scenario.lstrip().startswith("{") else Path(asked.scenario).read_text("utf-8")
    asyncio.run(serve(asked.port, Scenario.from_json(text), asked.log))


if __name__ == "__main__":
    main()
