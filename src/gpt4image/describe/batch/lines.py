"""Lines of the files that go to a batch interface and come back from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt4image.describe.describers.chat import Body, text_or_none
from gpt4image.describe.describers.http_errors import Trouble, shorten
from gpt4image.describe.secrets import ApiKey

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
    trouble: Trouble | None = None

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


def trouble_of(status: int | None, error: Any, key: ApiKey) -> Trouble:  # noqa: ANN401 - whatever a server sends
    """What went wrong, from an error in the API's form or anything else."""
    code = text_or_none(error.get("code")) if isinstance(error, Mapping) else None
    message = text_or_none(error.get("message")) if isinstance(error, Mapping) else None
    return Trouble(status, code or "", shorten(key.scrub(message or str(error))))
