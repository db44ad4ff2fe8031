"""A server's files and batches, through the openai SDK; whatever it raises is sorted out here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gpt4image.core.console import say
from gpt4image.core.errors import DescribeError
from gpt4image.llm.base import RateLimitedError, RequestFailedError
from gpt4image.llm.chat import Body, str_or_none
from gpt4image.llm.credentials import ApiKey, check_address
from gpt4image.llm.errors import ErrorClassifier, FailedCall, read_failure, shorten

if TYPE_CHECKING:
    from openai import OpenAI


ENDPOINT = "/v1/chat/completions"


NOT_DONE = ("batch_expired", "batch_cancelled")


"""Codes of requests that the server never got to."""


OK = 200


STATUSES = range(100, 600)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request.

    Attributes:
        key: the task.
        body: the server's JSON where the request went well.
        trouble: what went wrong otherwise.
    """

    key: str
    body: Any = None
    trouble: FailedCall | None = None

    @property
    def done(self) -> bool:
        """Whether the server has dealt with the request at all."""
        return self.trouble is None or self.trouble.code not in NOT_DONE


def request_line(key: str, body: Body) -> bytes:
    """A request as a line of an input file."""
    return json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}).encode() + b"\n"


def read_result(line: bytes, key: ApiKey) -> Result | None:
    """Read a line of an output or error file; None where it says of no task what became of it.

    Args:
        line: the line.
        key: the server's key, which is cut out of what it says.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    name = values.get("custom_id") if isinstance(values, Mapping) else None
    if not isinstance(name, str):
        return None
    response = values.get("response")
    if not isinstance(response, Mapping):
        return Result(name, trouble=trouble_of(None, values.get("error"), key))
    status, body = response.get("status_code"), response.get("body")
    if status == OK:
        return Result(name, body)
    known = status if isinstance(status, int) and status in STATUSES else None
    error = body.get("error", body) if isinstance(body, Mapping) else body
    return Result(name, trouble=trouble_of(known, error, key))


def trouble_of(status: int | None, error: Any, key: ApiKey) -> FailedCall:  # noqa: ANN401 - whatever a server sends
    """What went wrong, from an error in the API's form or anything else."""
    code = str_or_none(error.get("code")) if isinstance(error, Mapping) else None
    message = str_or_none(error.get("message")) if isinstance(error, Mapping) else None
    return FailedCall(status, code or "", shorten(key.scrub(message or str(error))))


MARK = "gpt4image"


"""Name of our mark in a batch's metadata, and how our files' names begin."""


NO_SUCH = (404, 405, 501)


TOO_LARGE = 413


QUEUE_FULL = "token_limit_exceeded"


CALL_SECONDS, UPLOAD_SECONDS, CONNECT_SECONDS = 60.0, 600.0, 15.0


CHUNK = 2**16


PAGE = 100


CUT_SHORT_TRIES = 3


Found = Mapping[str, Any]


class TryLaterError(Exception):
    """A call failed in a way that passes.

    Args:
        reason: why.
        wait: seconds that the server wants to be left alone, where it says so.
        undecided: whether the server may have done all the same what it was asked.
    """

    def __init__(self, reason: str, wait: float | None = None, *, undecided: bool = True) -> None:
        super().__init__(reason)
        self.wait, self.undecided = wait, undecided


class MissingError(Exception):
    """The server has no such thing.

    Args:
        trouble: what it says.
    """

    def __init__(self, trouble: FailedCall) -> None:
        super().__init__(trouble.detail)
        self.code = trouble.code


class QueueFullError(Exception):
    """The server's queue of batches takes no more for now."""


class TooLargeError(Exception):
    """The server takes no file of that size."""


class BatchServer:
    """A server with the batch interface.

    Args:
        model: the model as the server names it.
        base_url: address up to and including `/v1`.
        key: its key.

    Attributes:
        meanings: what its answers mean.
    """

    def __init__(self, model: str, base_url: str, key: ApiKey | None = None) -> None:
        self.model, self.place = model, check_address(base_url)
        self.key = key or ApiKey()
        self.classifier = ErrorClassifier(self.place, self.key)
        self._cut_short: Counter[str] = Counter()
        self._made: OpenAI | None = None

    @property
    def _client(self) -> OpenAI:
        if self._made is None:
            from openai import OpenAI, Timeout

            timeout = Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)
            self._made = OpenAI(base_url=self.place, api_key=self.key.value or "none", max_retries=0, timeout=timeout)
        return self._made

    def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def check(self) -> None:
        """Find out, before anything is sent, whether it has batches, takes the key and knows the model.

        Raises:
            DescribeError: it does not, or it cannot be reached. The message names the fix.
        """
        try:
            self._get("/batches", limit=1)
            self._look_for_model()
        except MissingError:
            raise self.no_batches() from None
        except TryLaterError as error:
            raise DescribeError(f"{self.place}: {error}. Give the same command again later.") from None

    def _look_for_model(self) -> None:
        """DescribeError where the server says that it does not have the model; not all servers can be asked."""
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
        """What to raise for a server without the batch interface."""
        return DescribeError(
            f"{self.place} has no batch interface (nothing at /files and /batches). Leave out --describer batch: its "
            "chat completions do the same, at once."
        )

    def upload(self, path: Path, name: str) -> str:
        """Upload an input file; returns the server's name of it.

        Raises:
            TooLargeError: the server takes no file of that size.
        """
        from openai import Timeout

        timeout = Timeout(UPLOAD_SECONDS, connect=CONNECT_SECONDS)
        with path.open("rb") as content:
            file = (name, content, "application/jsonl")  # an open file goes out piece by piece
            found = self._call(lambda: self._client.files.create(file=file, purpose="batch", timeout=timeout))
        return identity({"id": getattr(found, "id", None)})

    def find_upload(self, name: str, size: int) -> str | None:
        """The server's name of a file that was uploaded under one of ours."""
        for file in self._pages("/files", purpose="batch"):
            if file.get("filename") == name and file.get("bytes") == size:
                return identity(file)
        return None

    def create(self, file: str, ticket: str) -> str:
        """Make a batch of an uploaded file; returns the server's name of it.

        Raises:
            TryLaterError: it was not made, or, where `undecided`, it may have been.
            QueueFullError: it was not made.
        """
        body = {
            "input_file_id": file,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {MARK: ticket},
        }
        return identity(self._json(lambda: self._client.post("/batches", cast_to=object, body=body)))

    def find(self, file: str, ticket: str) -> str | None:
        """The server's name of the batch that was made of a file with our mark."""
        for batch in self._pages("/batches"):
            marks = batch.get("metadata")
            mark = marks.get(MARK) if isinstance(marks, Mapping) else None
            unmarked = mark is None and batch.get("status") != "failed"  # some servers drop marks
            if batch.get("input_file_id") == file and (mark == ticket or unmarked):
                return identity(batch)
        return None

    def look(self, batch: str) -> Found:
        """What the server says of a batch. MissingError where it knows none."""
        return self._get(f"/batches/{batch}")

    def lines(self, file: str) -> Iterator[bytes]:
        """Lines of a file as they come.

        Raises:
            MissingError: there is no such file.
            TryLaterError: not all of it came.
        """
        size, rest = 0, b""
        for chunk in self._content(file):
            size += len(chunk)
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest
        expected = self._get(f"/files/{file}").get("bytes")
        if isinstance(expected, int) and size < expected and self._cut_short[file] < CUT_SHORT_TRIES:
            self._cut_short[file] += 1
            raise TryLaterError(f"a file of {expected:,} bytes ended after {size:,}")

    def _content(self, file: str) -> Iterator[bytes]:
        try:
            with self._client.files.with_streaming_response.content(file) as response:
                yield from response.iter_bytes(CHUNK)
        except Exception as error:  # whatever the SDK raises is sorted out in one place
            raise self._meaning(error) from None

    def delete(self, file: str) -> None:
        """Delete a file, if it is there. One that the server will not delete is named to the user and left."""
        try:
            self._json(lambda: self._client.delete(f"/files/{file}", cast_to=object))
        except MissingError:
            return
        except DescribeError as error:
            say(f"The file {file} is left at the server: {error}", style="yellow")

    def _pages(self, path: str, **query: str | int) -> Iterator[Found]:
        """Everything in a list, page by page."""
        while True:
            page = self._get(path, limit=PAGE, **query)
            rows = page.get("data")
            found = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
            yield from found
            if not found or not page.get("has_more"):
                return
            query["after"] = identity(found[-1])

    def _get(self, path: str, **query: str | int) -> Found:
        return self._json(lambda: self._client.get(path, cast_to=object, options={"params": query}))

    def _json(self, call: Callable[[], object]) -> Found:
        found = self._call(call)
        if not isinstance(found, Mapping):
            raise TryLaterError("unreadable answer")
        return found

    def _call(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except Exception as error:  # whatever the SDK raises is sorted out in one place
            raise self._meaning(error) from None

    def _meaning(self, error: Exception) -> Exception:
        """What a failed call means for the job."""
        trouble = read_failure(error, self.key)
        if trouble.code == QUEUE_FULL:
            return QueueFullError(trouble.detail)
        if trouble.status in NO_SUCH:
            return MissingError(trouble)
        if trouble.status == TOO_LARGE:
            return TooLargeError(trouble.detail)
        meaning = self.classifier.classify(trouble, self.model)
        if isinstance(meaning, RateLimitedError):
            return TryLaterError(str(meaning), meaning.seconds, undecided=trouble.status != 429)
        if isinstance(meaning, RequestFailedError) and not meaning.retryable:
            return DescribeError(f"{self.place} will not have it. It says: {trouble.detail}")
        return (
            meaning
            if isinstance(meaning, DescribeError)
            else TryLaterError(str(meaning), undecided=not trouble.unreachable)
        )


def identity(found: Found) -> str:
    """The server's name of a thing. TryLaterError where it does not say."""
    name = found.get("id")
    if not isinstance(name, str) or not name:
        raise TryLaterError("unreadable answer")
    return name


OVER = ("completed", "failed", "expired", "cancelled")


ENDS = ("completed_at", "failed_at", "expired_at", "cancelled_at")


def result_files(batch: Found) -> list[str]:
    """The server's names of the files with a batch's answers."""
    names: Iterable[str | None] = (str_or_none(batch.get(name)) for name in ("output_file_id", "error_file_id"))
    return [name for name in names if name]


def duration_of(batch: Found) -> float:
    """Seconds that the server has taken for a batch, 0 where it does not say."""
    ends = [batch[name] for name in ENDS if isinstance(batch.get(name), int)]
    start = batch.get("created_at")
    return float(max(0, min(ends) - start)) if ends and isinstance(start, int) else 0.0


def was_turned_away(batch: Found) -> bool:
    """Whether a batch failed only because the server's queue was full."""
    return not result_files(batch) and any(code == QUEUE_FULL for code, _ in problems_of(batch))


def counts_of(batch: Found) -> tuple[int, int]:
    """Requests of a batch that are answered by now, and that have failed."""
    counts = batch.get("request_counts")
    known = counts if isinstance(counts, Mapping) else {}
    done, failed = (number if isinstance(number := known.get(kind), int) else 0 for kind in ("completed", "failed"))
    return done, failed


def problems_of(batch: Found) -> list[tuple[str, str]]:
    """Why a batch failed as a whole: codes and messages."""
    errors = batch.get("errors")
    rows = errors.get("data") if isinstance(errors, Mapping) else None
    found = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    return [(str(row.get("code")), problem_text(row)) for row in found]


def problem_text(problem: Mapping[str, object]) -> str:
    """A problem in words.

    >>> problem_text({"message": "No JSON.", "line": 3})
    'line 3: No JSON.'
    """
    line = problem.get("line")
    return f"line {line}: {problem.get('message')}" if line else str(problem.get("message"))
