"""The stub server inside an event loop: handle requests, follow the scenario, log everything."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import re
import socket
import ssl
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TextIO

from aiohttp import web

from support.stub_answers import (
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
    listed,
    too_large,
    too_many,
    unknown_model,
    with_log_probabilities,
    without_usage,
    wrong_key,
)
from support.stub_batches import BatchStore, ok
from support.stub_scenario import ANSWERS, ERRORS, MODEL, Entry, Fault, Scenario

HOST = "127.0.0.1"
BACKLOG = 2048
CERTIFICATE = "localhost.pem"  # in the folder of the server's state
EXIT_CODE = 3
ROUTES = (
    ("POST", re.compile(r"/v1/chat/completions"), "chat"),
    ("GET", re.compile(r"/v1/models"), "models"),
    ("GET", re.compile(r"/v1/models/(.+)"), "model"),
    ("POST", re.compile(r"/v1/files"), "upload"),
    ("GET", re.compile(r"/v1/files"), "files"),
    ("GET", re.compile(r"/v1/files/([\w-]+)"), "file"),
    ("GET", re.compile(r"/v1/files/([\w-]+)/content"), "content"),
    ("DELETE", re.compile(r"/v1/files/([\w-]+)"), "delete"),
    ("POST", re.compile(r"/v1/batches"), "create"),
    ("GET", re.compile(r"/v1/batches"), "batches"),
    ("GET", re.compile(r"/v1/batches/([\w-]+)"), "batch"),
    ("POST", re.compile(r"/v1/batches/([\w-]+)/cancel"), "cancel"),
)
LOADING = Answer(503, b'{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}')


def route(method: str, path: str) -> tuple[str, str]:
    """Return the kind of a request and the id in its path; empty strings for an unknown path."""
    for wanted, pattern, endpoint in ROUTES:
        if method == wanted and (match := pattern.fullmatch(path)):
            return endpoint, "".join(match.groups())
    return "", ""


def tls_context(folder: Path) -> ssl.SSLContext:
    """Return the server's side of an encryption whose certificate only those trust who are given it."""
    path = folder / CERTIFICATE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_certificate())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def make_certificate() -> bytes:
    """Make a key and a self-signed certificate of the loopback address, valid for a day, as one PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stub")])
    began = datetime.now(UTC) - timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM)


def bind(port: int) -> socket.socket:
    """Return a socket bound to a port; connections are refused until something listens."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, port))
    held.setblocking(False)
    return held


class Stub:
    """The server itself, inside an event loop.

    Args:
        scenario: its behaviour.
        state: folder of its files and batches.
        log: receives every request on arrival.
        log_file: receives every request as a line of JSON at its end.
        exits: whether the fault `die` ends the process.
    """

    def __init__(
        self,
        scenario: Scenario,
        state: Path,
        log: list[Entry] | deque[Entry],
        log_file: TextIO | None = None,
        *,
        exits: bool = False,
    ) -> None:
        self.scenario = scenario
        self._log, self._log_file, self._exits = log, log_file, exits
        self._state = state
        self._numbers: Counter[str] = Counter()
        self._tries: Counter[tuple[str, int]] = Counter()
        self._open: dict[int, Entry] = {}
        self._active = self._working = 0
        self._window: deque[float] = deque()
        self._slots = asyncio.Semaphore(scenario.slots or sys.maxsize)
        self._fixed = completion(Question(model=MODEL), Entry("chat"), scenario.text or describe(Question()))
        self._store = BatchStore(state, scenario, self.answer_line)
        self._web = web.Server(self.handle, request_factory=self._request, access_log=None)
        self._listener: asyncio.Server | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._ready_at = self._died_at = self._loaded_at = 0.0

    async def start(self, held: socket.socket) -> None:
        """Listen on a bound socket, immediately or after `ready_after`."""
        self._port = held.getsockname()[1]
        self._ready_at = time.monotonic() + self.scenario.ready_after
        if self.scenario.not_ready == "refuse" and self.scenario.ready_after:
            self._waiting = asyncio.create_task(self._listen(held, self.scenario.ready_after))
        else:
            await self._listen(held)

    async def stop(self) -> None:
        """Cut every connection and release the port."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._cut_all()
        await self._web.shutdown(0)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, or cut it off."""
        endpoint, name = route(request.method, request.path)
        entry = self._arrive(endpoint, request)
        try:
            return await self._send(request, entry, await self._answer(request, entry, name))
        except RefusedError as refused:
            return await self._send(request, entry, refused.answer)
        except web.HTTPRequestEntityTooLarge:
            return await self._send(request, entry, too_large())
        except ConnectionError:  # the client left before it had sent everything
            entry.fault = "left"
            return web.Response()
        finally:
            self._leave(entry)

    def answer_line(self, batch: str, custom_id: str, body: dict[str, Any]) -> tuple[Answer, Entry]:
        """Answer a line of a batch; its caller applies faults of the line itself."""
        self._numbers["line"] += 1
        entry = Entry("line", self._numbers["line"], time.monotonic(), batch=batch, custom_id=custom_id)
        self._log.append(entry)
        asked = self._read(body, entry)
        if isinstance(asked, Answer):
            answer = asked
        else:
            self._count_try(entry)
            fault = self.scenario.fault(entry)
            spoilt = None if fault is None else fault_answer(asked, fault, entry, None)
            answer = spoilt or self._complete(asked, entry)
            answer = replace(answer, fault="" if fault is None else fault.kind)
        entry.fault, entry.status, entry.paid, entry.sent = answer.fault, answer.status, answer.paid, True
        self._write(entry)
        return answer, entry

    async def _listen(self, held: socket.socket, after: float = 0.0) -> None:
        try:
            await asyncio.sleep(after)
            loop, encryption = asyncio.get_running_loop(), tls_context(self._state) if self.scenario.tls else None
            self._listener = await loop.create_server(self._web, sock=held, backlog=BACKLOG, ssl=encryption)
        except asyncio.CancelledError:
            held.close()
            raise

    def _request(self, *parts: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(*parts, loop=loop, client_max_size=self.scenario.most_bytes)

    def _arrive(self, endpoint: str, request: web.BaseRequest) -> Entry:
        header = request.headers.get("Authorization")
        self._numbers[endpoint] += 1
        self._active += endpoint == "chat"
        number = self._numbers[endpoint]
        entry = Entry(endpoint, number, time.monotonic(), self._active, tries=number)
        entry.has_key = header is not None
        entry.key_ok = self.scenario.expected_key is not None and header == f"Bearer {self.scenario.expected_key}"
        self._log.append(entry)
        self._open[id(entry)] = entry
        return entry

    def _leave(self, entry: Entry) -> None:
        self._active -= entry.endpoint == "chat"
        del self._open[id(entry)]
        if not entry.done_at:
            self._write(entry)

    def _write(self, entry: Entry) -> None:
        entry.done_at = time.monotonic()
        if self._log_file is not None:
            self._log_file.write(entry.to_json() + "\n")

    async def _answer(self, request: web.BaseRequest, entry: Entry, name: str) -> Answer:
        header = request.headers.get("Authorization")
        if entry.endpoint in ("chat", "create"):
            body = await request.read()  # from here on the work is done even if the client leaves
        entry.read = True
        if entry.endpoint == "chat":
            question = self._read(body, entry)
        if entry.at < self._ready_at:
            return replace(LOADING, fault="not_ready")
        if self.scenario.expected_key is not None and not entry.key_ok:
            return wrong_key(header)
        if not entry.endpoint:
            return error(404, f"Invalid URL ({request.method} {request.path})", "unknown_url")
        if entry.endpoint == "chat":
            return await self._chat(question, entry, header)
        return await self._act(Question(), entry, header, lambda: self._other(request, entry.endpoint, name))

    def _count_try(self, entry: Entry) -> None:
        self._tries[entry.mark, entry.turn] += 1
        entry.tries = self._tries[entry.mark, entry.turn]

    def _read(self, body: bytes | dict[str, Any], entry: Entry) -> Question | Answer:
        """Return the question, or the error for an invalid one."""
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
        self._count_try(entry)

        async def work() -> Answer:
            return self._complete(question, entry)

        async with self._slots:
            self._working += 1
            try:
                return await self._act(question, entry, header, work)
            finally:
                self._working -= 1

    def _complete(self, question: Question, entry: Entry) -> Answer:
        if not self.scenario.marks:
            return self._fixed
        answer = completion(question, entry, self.scenario.text or describe(question))
        if "top_logprobs" in question.settings and self.scenario.logprobs in ("send", "five") and listed(question):
            answer = with_log_probabilities(answer, question)
        return answer if self.scenario.usage else without_usage(answer)

    async def _act(
        self, question: Question, entry: Entry, header: str | None, work: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Do the work, or apply a fault."""
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
        media_type = "text/plain" if fault.kind == "plain" else answer.media_type
        headers = {**answer.headers, "Content-Encoding": fault.text} if fault.kind == "packed" else answer.headers
        return replace(answer, body=body, headers=headers, media_type=media_type, fault=fault.kind)

    async def _wait(self, entry: Entry) -> None:
        seconds = self.scenario.extra_seconds(entry)
        if entry.endpoint == "chat":
            self._loaded_at = self._loaded_at or time.monotonic() + self.scenario.load_seconds
            seconds += max(0.0, self._loaded_at - time.monotonic())
            draw = random.Random(f"{self.scenario.seed} {entry.number}").random() if self.scenario.jitter else 0.0
            seconds += self.scenario.latency + self.scenario.jitter * draw
        if seconds:
            await asyncio.sleep(seconds)

    async def _other(self, request: web.BaseRequest, endpoint: str, name: str) -> Answer:
        store = self._store
        match endpoint:
            case "models":
                return self._models()
            case "model":
                return self._model(name)
            case "upload":
                return await store.upload(request)
            case "create":
                return store.create(await request.read())
            case "files" | "batches":
                return getattr(store, endpoint)(request.query)
        return getattr(store, endpoint)(name)

    def _models(self) -> Answer:
        names = self.scenario.models or (MODEL,)
        return ok(
            {
                "object": "list",
                "data": [{**model_body(name), "shutdown_date": self.scenario.shutdown_date} for name in names],
            }
        )

    def _model(self, name: str) -> Answer:
        there = not self.scenario.models or name in self.scenario.models
        return ok(model_body(name)) if there else unknown_model(name)

    def _busy(self) -> Answer | None:
        """Return a 429 if the request exceeds a limit."""
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
        """Return the headers of a 429 that say how long to wait."""
        value, whole = self.scenario.retry_after_value, math.ceil(seconds)
        match self.scenario.retry_after:
            case "seconds":
                return {"Retry-After": value or str(whole)}
            case "date":
                return {"Retry-After": value or formatdate(math.ceil(time.time() + seconds), usegmt=True)}
            case "ms":
                return {"retry-after-ms": value or str(math.ceil(1000 * seconds)), "Retry-After": str(whole)}
            case "reset":  # as OpenAI does, of a limit that is used up and of one that is not
                left = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "1000"}
                spent = value or f"{int(seconds // 60)}m{seconds % 60:.3f}s"
                return left | {"x-ratelimit-reset-requests": spent, "x-ratelimit-reset-tokens": "9h0m0s"}
        return {}

    def _die(self, fault: Fault) -> Answer:
        """Cut every connection and stop listening, for good or for some seconds."""
        if self._exits and fault.seconds is None:
            for entry in self._open.values():
                if not entry.done_at:
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
        """Send an answer. Log it first, so that a client that has the answer finds it in the log."""
        entry.fault, entry.status = answer.fault, answer.status
        entry.paid = answer.paid and entry.at > self._died_at
        there = request.transport is not None and not request.transport.is_closing()
        entry.sent = there and answer.status != 0 and answer.fault != "cut_body"
        self._write(entry)
        response = web.Response(
            status=answer.status or 200, body=answer.body, headers=answer.headers, content_type=answer.media_type
        )
        with contextlib.suppress(ConnectionError):  # the client may have left
            if answer.status == 0:
                cut(request)
            elif answer.fault == "cut_body":
                await send_half(request, answer)
        return response  # writes nothing on a cut connection


def model_body(name: str) -> dict[str, Any]:
    """Return a model object of the API."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "stub"}


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
