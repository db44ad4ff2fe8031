"""A loopback server with the OpenAI protocol that misbehaves on a schedule, for tests and benchmarks.

In this process, in a thread:

    with StubServer(Scenario(latency=0.1, slots=4)) as server:
        ...  # server.base_url, server.log, server.answers_by_mark

In a process of its own, for benchmarks and for tests that kill it: `with StubProcess(scenario) as server`, or

    cd tests; python -m support.stub_server --port 0 --scenario '{"latency": 0.1, "slots": 4}' --log log.jsonl

which prints `{"port": 40123, "base_url": "http://127.0.0.1:40123/v1"}` once it is reachable. `--scenario` is JSON, or a
file of it, as written by `Scenario.to_json`. `stub_scenario` lists the faults.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from pathlib import Path
from typing import Self

from support.stub_answers import mark_of
from support.stub_core import CERTIFICATE, HOST, Stub, bind
from support.stub_scenario import (
    MODEL,
    Entry,
    Fault,
    Scenario,
    answers_by_mark,
    paid_by_mark,
    peak_concurrency,
    read_log,
)

__all__ = ["MODEL", "Entry", "Fault", "Scenario", "StubProcess", "StubServer", "mark_of", "peak_concurrency"]


class Watched:
    """A server and its log.

    Args:
        scenario: its behaviour from the next `start` on.
        state: folder of files and batches, which survive a restart; a temporary one if None.
        port: 0 for any free port; a restart keeps it.
    """

    def __init__(self, scenario: Scenario | None = None, *, state: Path | None = None, port: int = 0) -> None:
        self.scenario, self.port = scenario or Scenario(), port
        self._folder = tempfile.TemporaryDirectory(prefix="stub-")
        self._state = state or Path(self._folder.name) / "state"

    @property
    def log(self) -> list[Entry]:
        """All requests in order of arrival."""
        raise NotImplementedError

    @property
    def base_url(self) -> str:
        """Base URL for clients."""
        return f"http{'s' * self.scenario.tls}://{HOST}:{self.port}/v1"

    @property
    def certificate(self) -> Path:
        """Its certificate, where it encrypts; there once it has started."""
        return self._state / CERTIFICATE

    @property
    def answers_by_mark(self) -> Counter[str]:
        """Complete answers per picture."""
        return answers_by_mark(self.log)

    @property
    def paid_by_mark(self) -> Counter[str]:
        """Charged requests per picture."""
        return paid_by_mark(self.log)

    @property
    def peak_concurrency(self) -> int:
        """Maximum number of concurrent chat requests."""
        return peak_concurrency(self.log)

    def start(self) -> Self:
        """Start; return once it is reachable."""
        raise NotImplementedError

    def stop(self) -> None:
        """Cut every connection and stop."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *problem: object) -> None:
        self.stop()
        self._folder.cleanup()


class StubServer(Watched):
    """The server in a thread of this process. Its log continues over restarts."""

    def __init__(self, scenario: Scenario | None = None, *, state: Path | None = None, port: int = 0) -> None:
        super().__init__(scenario, state=state, port=port)
        self._log: list[Entry] = []

    @property
    def log(self) -> list[Entry]:
        """All requests in order of arrival, unfinished ones included."""
        return self._log

    def start(self) -> Self:
        """Start; return once it is reachable."""
        held = bind(self.port)
        self.port = held.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(held, started)), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def stop(self) -> None:
        """Cut every connection and stop the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    async def _serve(self, held: socket.socket, started: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            stub = Stub(self.scenario, self._state, self._log)
            await stub.start(held)
        finally:
            started.set()
        await self._stopping.wait()
        await stub.stop()


class StubProcess(Watched):
    """The server in a process of its own.

    Args:
        scenario: its behaviour from the next `start` on.
        state: folder of files and batches, which survive a restart; a temporary one if None.
        log_file: file of the log; a temporary one if None.
        keep_log: write a log; benchmarks do not.
        port: 0 for any free port; a restart keeps it.

    Attributes:
        process: the process.
    """

    def __init__(
        self,
        scenario: Scenario | None = None,
        *,
        state: Path | None = None,
        log_file: Path | None = None,
        keep_log: bool = True,
        port: int = 0,
    ) -> None:
        super().__init__(scenario, state=state, port=port)
        self._keep_log, self.log_file = keep_log, log_file or Path(self._folder.name) / "log.jsonl"

    @property
    def log(self) -> list[Entry]:
        """All finished requests in order of arrival."""
        return read_log(self.log_file)

    def start(self) -> Self:
        """Start; return once it is reachable."""
        command = [sys.executable, "-m", "support.stub_server", "--port", str(self.port), "--state", str(self._state)]
        command += ["--scenario", self.scenario.to_json()]
        if self._keep_log:
            command += ["--log", str(self.log_file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        assert self.process.stdout is not None
        with self.process.stdout as output:
            line = output.readline()
        if not line:
            raise RuntimeError(f"The stub server ended with {self.process.wait()}.")
        self.port = json.loads(line)["port"]
        return self

    def stop(self) -> None:
        """Terminate it and wait."""
        self.process.terminate()
        self.process.wait()

    def kill(self) -> None:
        """Kill it; unfinished requests are lost and not in the log."""
        self.process.kill()
        self.process.wait()


async def serve(port: int, scenario: Scenario, state: Path, log_path: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with contextlib.ExitStack() as stack:
        log_file = stack.enter_context(log_path.open("a", buffering=1)) if log_path else None
        stub = Stub(scenario, state, deque(maxlen=0), log_file, exits=True)
        held = bind(port)
        port = held.getsockname()[1]
        await stub.start(held)
        print(json.dumps({"port": port, "base_url": f"http://{HOST}:{port}/v1"}), flush=True)
        await stopping.wait()
        await stub.stop()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description="A server that speaks the OpenAI protocol and misbehaves.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scenario", default="{}", help="JSON, or a file of it")
    parser.add_argument("--state", type=Path, help="folder of files and batches, which survive a restart")
    parser.add_argument("--log", type=Path, help="log file, one line of JSON per request")
    asked = parser.parse_args()
    text = asked.scenario if asked.scenario.lstrip().startswith("{") else Path(asked.scenario).read_text("utf-8")
    with tempfile.TemporaryDirectory(prefix="stub-") as folder:
        asyncio.run(serve(asked.port, Scenario.from_json(text), asked.state or Path(folder), asked.log))


if __name__ == "__main__":
    main()
