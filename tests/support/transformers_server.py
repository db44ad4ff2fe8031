"""`transformers serve` as a user starts it: a real server with OpenAI's protocol for a model in a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

READY_SECONDS = 180.0


@contextmanager
def served(model: Path, work: Path) -> Iterator[str]:
    """Serve a model on a free port; yield the address up to `/v1`. The model's name is the folder's path.

    Args:
        model: the folder.
        work: an empty folder for its log and its hub cache.
    """
    port, log = free_port(), work / "server.log"
    (work / "hub").mkdir(parents=True)
    environment = {**os.environ, "HF_HOME": str(work), "HF_HUB_OFFLINE": "1"}
    options = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), *options]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        stop(process)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_until_ready(process: subprocess.Popen, address: str, log: Path) -> None:
    """Wait for the server; AssertionError with its log if it exits or does not respond in time."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    state = "still starting" if process.poll() is None else f"ended with {process.returncode}"
    raise AssertionError(f"transformers serve: {state}. Its log:\n{log.read_text(errors='replace')[-4000:]}")


def stop(process: subprocess.Popen) -> None:
    """Terminate the server; kill it if that takes too long."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
