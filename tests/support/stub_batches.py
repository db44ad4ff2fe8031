"""Files and batches of the stub server, on disk, so that they survive a kill and restart of the server."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import BodyPartReader, web

from support.stub_answers import Answer, RefusedError, error, too_large
from support.stub_scenario import Entry, Scenario

CHAT = "/v1/chat/completions"
DAY = 86_400
CHUNK = 2**20
PAGE, MOST_A_PAGE, FILES_A_PAGE = 20, 100, 10_000
OUTPUT = (
    b'{"id": "batch_req_%s", "custom_id": %s, "response": {"status_code": %d, "request_id": "%s", "body": %s}, '
    b'"error": null}'
)
OVER = ("completed", "failed", "expired", "cancelled")
LEFT_OVER = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was executed."),
}

Record = dict[str, Any]
AnswerLine = Callable[[str, str, Record], tuple[Answer, Entry]]


def ok(body: Mapping[str, Any]) -> Answer:
    """Return a successful answer."""
    return Answer(200, json.dumps(body).encode())


def refuse(status: int, message: str, code: str | None = None) -> RefusedError:
    """Return the exception for an invalid request."""
    return RefusedError(error(status, message, code))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


class BatchStore:
    """Files and batches in a folder.

    Args:
        folder: their folder.
        scenario: behaviour of batches.
        answer_line: answers a line, given batch, `custom_id` and body.
    """

    def __init__(self, folder: Path, scenario: Scenario, answer_line: AnswerLine) -> None:
        self._files, self._batches = folder / "files", folder / "batches"
        self._scenario, self._answer_line = scenario, answer_line
        for place in (self._files, self._batches):
            place.mkdir(parents=True, exist_ok=True)

    async def upload(self, request: web.BaseRequest) -> Answer:
        """Store an uploaded file as it arrives."""
        if request.content_type != "multipart/form-data":
            raise refuse(400, "A file is uploaded as multipart/form-data.")
        name, purpose, identity = "", "", f"file-{uuid4().hex}"
        size, part = 0, self._files / f"{identity}.part"
        with part.open("wb") as file:
            async for field in await request.multipart():
                if not isinstance(field, BodyPartReader):
                    raise refuse(400, "Nested multipart bodies are not supported.")
                if field.name == "file":
                    name = field.filename or ""
                    while chunk := await field.read_chunk(CHUNK):
                        size += file.write(chunk)
                elif field.name == "purpose":
                    purpose = await field.text()
        problem = self._bad_upload(name, purpose, size)
        if problem is not None:
            part.unlink()
            raise RefusedError(problem)
        part.replace(self._content_path(identity))
        return ok(self._note_file(identity, name, purpose, size))

    def _bad_upload(self, name: str, purpose: str, size: int) -> Answer | None:
        if size > self._scenario.batch_most_bytes:
            return too_large()
        if purpose != "batch":
            return error(400, f"'{purpose}' is not one of ['batch'].", "invalid_value", param="purpose")
        if not name.endswith(".jsonl"):
            return error(400, "Invalid file format for Batch API. Must be .jsonl", "invalid_jsonl")
        return None

    def _note_file(self, identity: str, name: str, purpose: str, size: int) -> Record:
        body = {
            "id": identity,
            "object": "file",
            "bytes": size,
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self._save(self._files, identity, {"order": time.time_ns(), "body": body})
        return body

    def files(self, query: Mapping[str, str]) -> Answer:
        """Return a page of files, newest first."""
        records = [r["body"] for r in self._records(self._files)]
        purpose = query.get("purpose")
        return page([body for body in records if purpose in (None, body["purpose"])], query, FILES_A_PAGE, FILES_A_PAGE)

    def file(self, identity: str) -> Answer:
        """Return a file object."""
        return ok(self._load(self._files, identity)["body"])

    def content(self, identity: str) -> Answer:
        """Return the content of a file."""
        self._load(self._files, identity)
        return Answer(200, self._content_path(identity).read_bytes(), media_type="application/octet-stream")

    def delete(self, identity: str) -> Answer:
        """Delete a file."""
        self._load(self._files, identity)
        (self._files / f"{identity}.json").unlink()
        self._content_path(identity).unlink()
        return ok({"id": identity, "object": "file", "deleted": True})

    def create(self, body: bytes) -> Answer:
        """Create a batch of an uploaded file."""
        try:
            asked = json.loads(body)
            file, endpoint, window = (asked[name] for name in ("input_file_id", "endpoint", "completion_window"))
        except (ValueError, KeyError, TypeError) as problem:
            raise refuse(400, f"Missing required parameter: {problem}.", "missing_required_parameter") from problem
        if endpoint != CHAT or window != "24h":
            raise refuse(400, f"Invalid value: {endpoint!r} within {window!r}.", "invalid_value")
        self._load(self._files, file)
        identity, now = f"batch_{uuid4().hex}", int(time.time())
        batch = {
            "id": identity,
            "object": "batch",
            "endpoint": endpoint,
            "errors": None,
            "input_file_id": file,
            "completion_window": window,
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + DAY,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": asked.get("metadata"),
        }
        self._save(
            self._batches, identity, {"order": time.time_ns(), "polls": 0, "started": time.time(), "body": batch}
        )
        return ok(batch)

    def batch(self, identity: str) -> Answer:
        """Return a batch; each poll advances it."""
        record = self._load(self._batches, identity)
        record["polls"] += 1
        self._advance(record)
        return ok(record["body"])

    def batches(self, query: Mapping[str, str]) -> Answer:
        """Return a page of batches, newest first; time advances them, listing does not."""
        records = self._records(self._batches)
        for record in records:
            self._advance(record)
        return page([record["body"] for record in records], query, PAGE, MOST_A_PAGE)

    def cancel(self, identity: str) -> Answer:
        """Cancel a batch; the requests processed so far have results."""
        record = self._load(self._batches, identity)
        batch = record["body"]
        if batch["status"] in OVER:
            raise refuse(409, f"Cannot cancel a batch with status '{batch['status']}'.")
        record["done_share"] = 0.0 if batch["status"] == "validating" else self._progress(record)
        batch.update(status="cancelling", cancelling_at=int(time.time()))
        self._save(self._batches, identity, record)
        return ok(batch)

    def _progress(self, record: Record) -> float:
        """Return the progress of a batch, 0 to 1."""
        seconds, polls = self._scenario.batch_seconds, self._scenario.batch_polls
        if seconds is not None:
            return min((time.time() - record["started"]) / max(seconds, 1e-9), 1.0)
        return min(record["polls"] / polls, 1.0) if polls else 1.0

    def _advance(self, record: Record) -> None:
        """Update the status of a batch."""
        batch, progress = record["body"], self._progress(record)
        if batch["status"] in OVER:
            return
        if batch["status"] == "validating" and progress >= 0.1:
            self._validate(batch)
        if batch["status"] == "cancelling":
            self._finish(batch, record["done_share"], "cancelled")
        if batch["status"] in ("in_progress", "finalizing"):
            outcome = self._scenario.batch_outcome
            if progress < 1:
                status = "finalizing" if progress >= 0.9 else "in_progress"
                batch.update({"status": status, f"{status}_at": int(time.time())})
                batch["request_counts"]["completed"] = int(progress * batch["request_counts"]["total"])
            else:
                self._finish(batch, self._scenario.batch_done_share if outcome == "expired" else 1.0, outcome)
        self._save(self._batches, batch["id"], record)

    def _validate(self, batch: Record) -> None:
        """Start a batch, or fail it as a whole."""
        lines = self._content_path(batch["input_file_id"]).read_bytes().splitlines()
        problems = list(self._problems(lines))
        batch["request_counts"]["total"] = len(lines)
        if problems:
            batch.update(status="failed", failed_at=int(time.time()), errors={"object": "list", "data": problems})
        else:
            batch.update(status="in_progress", in_progress_at=int(time.time()))

    def _problems(self, lines: list[bytes]) -> Iterator[Record]:
        """Yield the errors of an input file in the API's form."""
        if self._scenario.batch_outcome == "failed":
            yield problem("server_error", "The batch failed.")
        if not lines:
            yield problem("empty_file", "The input file is empty.")
        if len(lines) > self._scenario.batch_most_lines:
            yield problem("too_many_requests", f"More than {self._scenario.batch_most_lines} requests.")
        if (
            self._scenario.batch_most_queued is not None
            and self._queued() + len(lines) > self._scenario.batch_most_queued
        ):
            message = (
                "Enqueued token limit reached. Please try again once some in_progress batches have been completed."
            )
            yield problem("token_limit_exceeded", message)
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            try:
                asked = json.loads(line)
                custom_id, url = asked["custom_id"], asked["url"]
                assert asked["method"] == "POST" and asked["body"]["messages"]
            except (ValueError, KeyError, TypeError, AssertionError):
                yield problem("invalid_json_line", "This line is not parseable as valid JSON.", number)
                continue
            if custom_id in seen:
                message = "The custom_id for this request is a duplicate of another request."
                yield problem("duplicate_custom_id", message, number, "custom_id")
            if url != CHAT:
                yield problem("invalid_url", "The URL does not match the endpoint of the batch.", number, "url")
            seen.add(custom_id)

    def _queued(self) -> int:
        """Return the number of lines in unfinished batches."""
        bodies = [record["body"] for record in self._records(self._batches)]
        return sum(body["request_counts"]["total"] for body in bodies if body["status"] not in OVER)

    def _finish(self, batch: Record, share: float, status: str) -> None:
        """Write the result files of a finished batch."""
        lines = self._content_path(batch["input_file_id"]).read_bytes().splitlines()
        done = int(share * len(lines))
        output: list[bytes] = []
        errors: list[bytes] = []
        for line in lines[:done]:
            asked = json.loads(line)
            answer, entry = self._answer_line(batch["id"], asked["custom_id"], asked["body"])
            if entry.fault != "missing":
                whole = output_line(asked["custom_id"], answer)
                written = whole[: len(whole) // 2] if entry.fault == "truncated" else whole
                (output if answer.status == 200 else errors).append(written)
        for line in lines[done:]:
            errors.append(left_over_line(json.loads(line)["custom_id"], *LEFT_OVER[status]))
        counts = {"total": len(lines), "completed": len(output), "failed": len(lines) - len(output)}
        batch.update(
            {
                "status": status,
                f"{status}_at": int(time.time()),
                "request_counts": counts,
                "output_file_id": self._write_output(batch["id"], "output", output),
                "error_file_id": self._write_output(batch["id"], "error", errors),
            }
        )

    def _write_output(self, batch: str, kind: str, lines: list[bytes]) -> str | None:
        """Write lines in random order; return the file's id, None if there are no lines."""
        if not lines:
            return None
        random.Random(self._scenario.seed).shuffle(lines)
        identity, data = f"file-{uuid4().hex}", b"".join(line + b"\n" for line in lines)
        write_whole(self._content_path(identity), data)
        self._note_file(identity, f"{batch}_{kind}.jsonl", "batch_output", len(data))
        return identity

    def _content_path(self, identity: str) -> Path:
        return self._files / f"{identity}.bin"

    def _save(self, place: Path, identity: str, record: Record) -> None:
        write_whole(place / f"{identity}.json", json.dumps(record).encode())

    def _load(self, place: Path, identity: str) -> Record:
        try:
            return json.loads((place / f"{identity}.json").read_bytes())
        except FileNotFoundError:
            kind = "File" if place == self._files else "Batch"
            raise refuse(404, f"No such {kind} object: {identity}") from None

    def _records(self, place: Path) -> list[Record]:
        """Return all records of a kind, newest first."""
        records = [json.loads(path.read_bytes()) for path in place.glob("*.json")]
        return sorted(records, key=lambda record: record["order"], reverse=True)


def page(bodies: list[Record], query: Mapping[str, str], usual: int, most: int) -> Answer:
    """Return a page of a list: up to `limit` objects after an id."""
    wanted = query.get("limit", str(usual))
    if not wanted.isdecimal() or not 1 <= int(wanted) <= most:
        raise refuse(400, f"Invalid 'limit': {wanted} is not a number from 1 to {most}.", "invalid_value")
    limit = int(wanted)
    ids = [body["id"] for body in bodies]
    if "after" in query and query["after"] not in ids:
        raise refuse(400, f"No object with id {query['after']}.", "invalid_value")
    start = ids.index(query["after"]) + 1 if "after" in query else 0
    data = bodies[start : start + limit]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    more = start + limit < len(bodies)
    return ok({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})


def problem(code: str, message: str, line: int | None = None, param: str | None = None) -> Record:
    """Return an error of a batch that failed as a whole."""
    return {"code": code, "message": message, "line": line, "param": param}


def output_line(custom_id: str, answer: Answer) -> bytes:
    """Return a line of an output or error file."""
    name = json.dumps(custom_id).encode()
    return OUTPUT % (uuid4().hex.encode(), name, answer.status, uuid4().hex.encode(), answer.body)


def left_over_line(custom_id: str, code: str, message: str) -> bytes:
    """Return a line of an error file for a request that was never processed."""
    problem = {"code": code, "message": message}
    line = {"id": f"batch_req_{uuid4().hex}", "custom_id": custom_id, "response": None, "error": problem}
    return json.dumps(line).encode()
