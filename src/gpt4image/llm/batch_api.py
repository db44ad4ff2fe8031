"""A vendor's batch interface through the openai SDK: files, batches and result lines.

Every call raises one of a few errors that say what the caller can do:

    TryLaterError    temporary: try again; `undecided` if the server may have done it all the same
    MissingError     the server has no such file, batch or endpoint
    QueueFullError   the server's queue takes no more requests for now
    TooLargeError    the server takes no file of that size
    DescribeError    no call can succeed
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gpt4image.core.console import say
from gpt4image.core.errors import DescribeError
from gpt4image.llm.base import RateLimitedError, RequestFailedError
from gpt4image.llm.body import parse_body, parse_json, read_body, unwrap
from gpt4image.llm.chat import Body, str_or_none
from gpt4image.llm.credentials import ApiKey, check_address, check_environment
from gpt4image.llm.error_body import error_object, plain_words, server_message
from gpt4image.llm.errors import ErrorClassifier, FailedCall, bounded, failed_body, read_error_body, read_failure

if TYPE_CHECKING:
    import httpx2
    from openai import OpenAI

ENDPOINT = "/v1/chat/completions"

# Key of our ticket in a batch's metadata, and prefix of our files' names.
MARK = "gpt4image"

# Error codes of requests that the server never processed.
NOT_PROCESSED = ("batch_expired", "batch_cancelled")
OVER = ("completed", "failed", "expired", "cancelled")
QUEUE_FULL = "token_limit_exceeded"
MAX_TIME = 10**12  # seconds since 1970; larger values have no date
CALL_SECONDS, UPLOAD_SECONDS, CONNECT_SECONDS = 60.0, 600.0, 15.0
CHUNK_BYTES = 2**16
PAGE = 100
DAY = 86400.0

MAX_SHORT_DOWNLOADS = 3  # a server may list a wrong file size: then accept the file as it is

Json = Mapping[str, Any]


class TryLaterError(Exception):
    """A call failed temporarily.

    Args:
        reason: why.
        wait: seconds that the server asks to wait, if it says so.
        undecided: whether the server may have carried out the call nevertheless.
    """

    def __init__(self, reason: str, wait: float | None = None, *, undecided: bool = True) -> None:
        super().__init__(reason)
        self.wait, self.undecided = wait, undecided


class MissingError(Exception):
    """The server has no such file, batch or endpoint; `code` is its error code."""

    def __init__(self, call: FailedCall) -> None:
        super().__init__(call.detail)
        self.code = call.code


class QueueFullError(Exception):
    """The server's queue of batches takes no more requests for now."""


class TooLargeError(Exception):
    """The server takes no file of that size."""


class BatchServer:
    """A server with the batch interface.

    Args:
        model: model name as the server knows it.
        base_url: address up to and including `/v1`.
        key: its key.

    Attributes:
        classifier: classifies failed requests.
    """

    def __init__(self, model: str, base_url: str, key: ApiKey | None = None) -> None:
        self.model, self.place = model, check_address(base_url)
        self.key = key or ApiKey()
        self.classifier = ErrorClassifier(self.place, self.key)
        self._short_downloads: Counter[str] = Counter()

    @cached_property
    def _client(self) -> OpenAI:
        from openai import DefaultHttpxClient, OpenAI, Timeout

        timeout = Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)
        return OpenAI(
            base_url=self.place,
            api_key=self.key.value or "none",
            max_retries=0,
            timeout=timeout,
            http_client=DefaultHttpxClient(timeout=timeout, follow_redirects=False),
        )

    def close(self) -> None:
        """Close the connections."""
        if client := self.__dict__.pop("_client", None):
            client.close()

    def check(self) -> None:
        """Check, before anything is sent, that the server has batches, accepts the key and knows the model.

        Raises:
            DescribeError: it does not, or it cannot be reached. The message names the fix.
        """
        check_environment(self.place)
        try:
            self._get("/batches", limit=1)
            self._check_model()
        except MissingError:
            raise self.no_batches() from None
        except TryLaterError as error:
            raise DescribeError(f"{self.place}: {error}. Run the same command again later.") from None

    def _check_model(self) -> None:
        """Raise DescribeError if the server reports that it lacks the model; not every server can be asked."""
        try:
            self.classifier.read_models(self._get("/models"))
            self._get(f"/models/{quote(self.model, safe='')}")
        except (DescribeError, TryLaterError):
            return
        except MissingError as error:
            if error.code == "model_not_found":
                known = f" It has: {', '.join(self.classifier.models[:10])}." if self.classifier.models else ""
                raise DescribeError(f"{self.place} has no model {self.model!r}.{known}") from None

    def no_batches(self) -> DescribeError:
        """Return the error for a server without the batch interface."""
        return DescribeError(
            f"{self.place} has no batch interface (/files and /batches do not exist). Use another describer: chat "
            "completions give the same descriptions, immediately."
        )

    def upload(self, path: Path, name: str) -> str:
        """Upload an input file and return its id."""
        from openai import Timeout

        timeout = Timeout(UPLOAD_SECONDS, connect=CONNECT_SECONDS)
        with path.open("rb") as content:
            file = (name, content, "application/jsonl")  # the SDK streams an open file
            files = self._client.files.with_raw_response  # what the SDK makes of another content type is no file
            return id_of(self._json(lambda: files.create(file=file, purpose="batch", timeout=timeout).http_response))

    def find_upload(self, name: str, size: int) -> str | None:
        """Return the id of the file that was uploaded under this name."""
        for file in self._pages("/files", purpose="batch"):
            if file.get("filename") == name and file.get("bytes") == size:
                return id_of(file)
        return None

    def create(self, file: str, ticket: str) -> str:
        """Create a batch from an uploaded file and return its id."""
        body = {
            "input_file_id": file,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {MARK: ticket},
        }
        return id_of(self._ask("post", "/batches", body=body))

    def find(self, file: str, ticket: str) -> str | None:
        """Return the id of the batch that was created with our ticket."""
        for batch in self._pages("/batches"):
            metadata = batch.get("metadata")
            found = metadata.get(MARK) if isinstance(metadata, Mapping) else None
            no_metadata = found is None and batch.get("status") != "failed"  # some servers drop metadata
            if batch.get("input_file_id") == file and (found == ticket or no_metadata):
                return id_of(batch)
        return None

    def retrieve(self, batch: str) -> BatchReport:
        """Return what the server reports about a batch."""
        return read_report(self._get(f"/batches/{batch}"))

    def lines(self, file: str) -> Iterator[bytes]:
        """Yield the lines of a file as they arrive. Raise TryLaterError if it ends early."""
        size, rest = 0, b""
        for chunk in self._content(file):
            size += len(chunk)
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest
        expected = self._get(f"/files/{file}").get("bytes")
        if isinstance(expected, int) and size < expected and self._short_downloads[file] < MAX_SHORT_DOWNLOADS:
            self._short_downloads[file] += 1
            raise TryLaterError(f"a file of {expected:,} bytes ended after {size:,}")

    def _content(self, file: str) -> Iterator[bytes]:
        try:
            with self._client.files.with_streaming_response.content(file) as response:
                yield from response.iter_bytes(CHUNK_BYTES)
        except Exception as error:  # whatever the SDK raises
            raise self._classify(read_failure(error, self.key)) from None

    def delete(self, file: str) -> None:
        """Delete a file, if it exists. If the server refuses, tell the user and leave it."""
        try:
            self._ask("delete", f"/files/{file}")
        except MissingError:
            return
        except DescribeError as error:
            say(f"File {file} could not be deleted from the server: {error}", style="yellow")

    def _pages(self, path: str, **query: str | int) -> Iterator[Json]:
        """Yield the entries of a list, page by page."""
        while True:
            page = self._get(path, limit=PAGE, **query)
            rows = mappings(page.get("data"))
            yield from rows
            if not rows or not page.get("has_more"):
                return
            query["after"] = id_of(rows[-1])

    def _get(self, path: str, **query: str | int) -> Json:
        return self._ask("get", path, options={"params": query})

    def _ask(self, method: str, path: str, **arguments: Body) -> Json:
        from openai import HttpxBinaryResponseContent

        call = partial(getattr(self._client, method), path, cast_to=HttpxBinaryResponseContent, **arguments)
        return self._json(lambda: call().response)

    def _json(self, call: Callable[[], httpx2.Response]) -> Json:
        """Return the object in the body of a response, whatever its headers say; an error in it is raised."""
        try:
            found = read_body(call(), "id")
        except Exception as error:  # whatever the SDK raises
            raise self._classify(read_failure(error, self.key)) from None
        if isinstance(found, Mapping) and not {"id", "data"}.isdisjoint(found):  # a failed batch names errors, too
            return found
        if failed := read_error_body(found, self.key):
            raise self._classify(failed)
        if not isinstance(found, Mapping):
            raise TryLaterError(unreadable(found))
        return found

    def _classify(self, call: FailedCall) -> Exception:  # noqa: PLR0911 - one per error above
        """Return the error of this module for a failed call."""
        if call.code == QUEUE_FULL:
            return QueueFullError(call.detail)
        if call.status in (404, 405, 501):
            return MissingError(call)
        if call.status == 413:
            return TooLargeError(call.detail)
        match self.classifier.classify(call, self.model):
            case DescribeError() as fatal:
                return fatal
            case RateLimitedError() as busy:
                wait = max(busy.seconds or 0.0, DAY) if busy.long else busy.seconds
                return TryLaterError(f"{busy} ({busy.detail})", wait, undecided=call.status != 429)
            case RequestFailedError(retryable=False):
                return DescribeError(f"{self.place} refused the call: {call.detail}")
            case other:  # after a server error the outcome is unknown; a server that was never reached has done nothing
                return TryLaterError(str(other), undecided=not call.unreachable)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a server reports about a batch.

    Attributes:
        status: such as `in_progress`, or one of OVER.
        files: ids of the files with its results.
        answered: requests answered so far.
        failed: requests failed so far.
        seconds: time from creation to the end; 0 if not reported.
        problems: why the batch failed as a whole.
        queue_full: whether it failed only because the server's queue was full.
    """

    status: str = ""
    files: tuple[str, ...] = ()
    answered: int = 0
    failed: int = 0
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    queue_full: bool = False


def read_report(batch: Json) -> BatchReport:
    """Read a batch object; servers may leave out or misspell any part of it.

    >>> row = {"code": "token_limit_exceeded", "message": "Too many.", "line": 3}
    >>> report = read_report({"status": "failed", "errors": {"data": [row]}})
    >>> report.problems, report.queue_full
    (('line 3: Too many.',), True)
    """
    counts = batch.get("request_counts")
    answered, failed = (
        number if isinstance(counts, Mapping) and isinstance(number := counts.get(kind), int) else 0
        for kind in ("completed", "failed")
    )
    names = ("completed_at", "failed_at", "expired_at", "cancelled_at")
    ends = [end for name in names if (end := time_in(batch, name)) is not None]
    start = time_in(batch, "created_at")
    errors = batch.get("errors")
    problems = mappings(errors.get("data")) if isinstance(errors, Mapping) else []
    files = (str_or_none(batch.get(name)) for name in ("output_file_id", "error_file_id"))
    found = tuple(name for name in files if name)
    return BatchReport(
        status=str_or_none(batch.get("status")) or "",
        files=found,
        answered=answered,
        failed=failed,
        seconds=float(max(0, min(ends) - start)) if ends and start is not None else 0.0,
        problems=tuple(
            f"line {row['line']}: {row.get('message')}" if row.get("line") else str(row.get("message"))
            for row in problems
        ),
        queue_full=not found and any(row.get("code") == QUEUE_FULL for row in problems),
    )


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of one request of a batch.

    Attributes:
        key: its `custom_id`.
        body: the server's JSON if the request succeeded.
        failure: what went wrong otherwise.
    """

    key: str
    body: Any = None
    failure: FailedCall | None = None

    @property
    def processed(self) -> bool:
        """Whether the server got to the request at all."""
        return self.failure is None or self.failure.code not in NOT_PROCESSED


def request_line(key: str, body: Body) -> bytes:
    """Return a request as a line of an input file."""
    return json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}).encode() + b"\n"


def read_result(line: bytes, key: ApiKey) -> Result | None:
    """Read a line of an output or error file, with the key removed; None if it names no request."""
    values = parse_body(line, "custom_id")
    name = values.get("custom_id") if isinstance(values, Mapping) else None
    if not isinstance(name, str):
        return None
    response = values.get("response") or values.get("result")  # the latter is Anthropic's
    if not isinstance(response, Mapping):
        return Result(name, failure=failed_body(None, values.get("error"), key))
    status, whole = response.get("status_code", 200), None if "status_code" in response else response
    body = unwrap(parse_json(response.get("body") or response.get("message") or whole))
    if str(status) == "200":
        return Result(name, body, read_error_body(body, key))
    known = status if isinstance(status, int) and 100 <= status < 600 else None
    return Result(name, failure=failed_body(known, error_object(body), key))


def unreadable(found: Any) -> str:  # noqa: ANN401 - whatever a server sends
    """Return the reason for an answer that is no object of the batch interface."""
    return f"unreadable answer ({bounded(server_message(found) or plain_words(found)) or 'empty'})"


def time_in(batch: Json, name: str) -> int | None:
    """Return a batch's time in seconds since 1970; None if it is missing or implausible."""
    value = batch.get(name)
    return value if isinstance(value, int) and 0 <= value <= MAX_TIME else None


def mappings(rows: Any) -> list[Json]:  # noqa: ANN401 - whatever a server sends
    """Return the objects in a JSON array; none if it is not an array."""
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def id_of(found: Json) -> str:
    """Return the server's id of an object. Raise TryLaterError if it has none."""
    name = found.get("id")
    if not isinstance(name, str) or not name:
        raise TryLaterError(unreadable(found))
    return name
