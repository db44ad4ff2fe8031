"""The body of a response: unpacked, decoded and parsed, whatever its headers say."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2

MOST_DIGITS = 18
GZIP_MARK = b"\x1f\x8b\x08"
EVENT = re.compile(r"^data:\s*(\{.*)$", re.MULTILINE)

PACKED = "x-packed"
"""Header under which `keep_packed` puts what a response says about its packing."""


def parse_json(found: Any) -> Any:  # noqa: ANN401 - whatever a server sends
    """Parse the JSON at the start of a text; return other text, and what is no text, unchanged."""
    if not isinstance(found, str):
        return found
    text = found.strip("\ufeff\0 \t\r\n")
    try:
        return json.JSONDecoder(parse_int=bounded_int).raw_decode(text)[0]
    except (ValueError, RecursionError):
        return found


def bounded_int(digits: str) -> float:
    """Return a number, one too large for a count as a float: Python reads no integer of some thousand digits."""
    return float(digits) if len(digits) > MOST_DIGITS else int(digits)


def keep_packed(response: httpx2.Response) -> None:
    """Leave the body of a response packed: a wrong Content-Encoding must not cost an answer that is paid for."""
    if packing := response.headers.pop("content-encoding", None):
        response.headers[PACKED] = packing


def read_body(response: httpx2.Response, field: str = "choices") -> Any:  # noqa: ANN401 - whatever a server sends
    """Return what is in the body of a response, unpacked as its header says if that is true."""
    import httpx2

    data = response.content
    with suppress(httpx2.DecodingError):
        data = httpx2.Response(
            200, headers={"content-encoding": response.headers.get(PACKED, "")}, content=data
        ).content
    return parse_body(data, field)


def parse_body(data: bytes, field: str = "choices") -> Any:  # noqa: ANN401 - whatever a server sends
    """Return the JSON of a response, else its text, whatever headers say about type, encoding and packing.

    An answer that comes in events, or inside another object, is put into the form of one that does not. It has the
    given field.
    """
    if data.startswith(GZIP_MARK):
        with suppress(OSError, EOFError, zlib.error):
            data = gzip.decompress(data)
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    body = parse_json(parse_json(text))  # some gateways send JSON in a string of JSON
    if isinstance(body, str) and (events := EVENT.findall(text)):
        body = join_events([event for event in map(parse_json, events) if isinstance(event, Mapping)]) or body
    if isinstance(body, str) and isinstance(inside := parse_json(text[text.find("{") :]), Mapping):
        body = inside if field in inside else body  # what stands before and behind is a wrapping
    return unwrap(body, field)


def unwrap(body: Any, field: str = "choices") -> Any:  # noqa: ANN401 - whatever a server sends
    """Return the answer in a list of one, or in a field of an object that is none itself; else the body."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if isinstance(body, Mapping) and field not in body:
        inner = (body.get(name) for name in ("result", "data", "response", "body", "output"))
        return next((each for each in inner if isinstance(each, Mapping) and field in each), body)
    return body


def join_events(events: list[Any]) -> Any:  # noqa: ANN401 - whatever a server sends
    """Return the answer, or the error, that a server sends in events though it was not asked to; None without any."""
    choices = [choice for event in events for choice in event.get("choices") or () if isinstance(choice, Mapping)]
    whole = next((event for event in events if event.get("error") or has_message(event)), None)
    if whole is not None or not choices:
        return whole or next(iter(events), None)
    parts = [delta for choice in choices if isinstance(delta := choice.get("delta"), Mapping)]
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "refusal": ""}
    for name, value in ((name, value) for part in parts for name, value in part.items() if value and name != "role"):
        empty = type(value)()
        message[name] = message.get(name) or empty
        if isinstance(value, str | list) and isinstance(message[name], type(value)):
            message[name] += value
    reason = next((found for choice in reversed(choices) if (found := choice.get("finish_reason"))), None)
    usage = next((found for event in reversed(events) if (found := event.get("usage"))), None)
    return {**events[0], "choices": [{"message": message, "finish_reason": reason}], "usage": usage}


def has_message(event: Mapping[str, Any]) -> bool:
    """Return whether an event holds a whole answer."""
    match event.get("choices"):
        case [{"message": Mapping()}, *_]:
            return True
    return False
