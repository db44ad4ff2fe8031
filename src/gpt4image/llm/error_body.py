"""Errors in the bodies of responses: the server's own words, and errors that come with status 200."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

HTML_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"<style.*?</style>|<script.*?</script>|<[^>]*>", re.IGNORECASE | re.DOTALL)

STATUS_BY_CODE = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "billing_error": 402,
    "insufficient_credits": 402,
    "permission_denied": 403,
    "permission_error": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "overloaded_error": 529,
    "unavailable": 503,
    "api_error": 500,
    "internal": 500,
    "server_error": 500,
}
"""HTTP status that belongs to an error's name: OpenAI's, Anthropic's and Google's."""


def parse_json(found: Any) -> Any:  # noqa: ANN401 - whatever a server sends
    """Parse a body that the SDK leaves as text because its content type is not JSON; return other text unchanged."""
    if not isinstance(found, str):
        return found
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        return found


def server_message(body: Any) -> str:  # noqa: ANN401 - whatever a server sends; one per form
    """Return what a server says in the body of an error, whichever form it has; empty if it says nothing.

    >>> server_message({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]})
    'body.seed: Extra inputs are not permitted'
    """
    match body:
        case str():
            title = HTML_TITLE.search(body)
            return (title.group(1) if title else TAG.sub(" ", body)).strip()
        case {"msg": str(said), "loc": list(place)}:  # FastAPI
            return f"{'.'.join(map(str, place))}: {said}"
        case {"message": str(said), "metadata": {"raw": str(raw)}}:  # OpenRouter passes on what the provider says
            return f"{said}: {raw}"
        case Mapping():
            names = ("error", "message", "detail", "errors", "msg", "title")
            return next(filter(None, (server_message(body.get(name)) for name in names)), "")
        case list():
            return "; ".join(filter(None, map(server_message, body)))
    return ""


def error_with_answer(body: Any) -> Any:  # noqa: ANN401 - whatever a server sends
    """Return the error in a body of status 200; None if there is none, or an answer next to it."""
    if not isinstance(body, Mapping):
        return None
    match body.get("choices"):
        case [{"error": Mapping() as error, "message": {"content": None | ""}}, *_]:
            return error
        case [_, *_]:
            return None
    return body.get("error") or None


def error_status(error: Any) -> int | None:  # noqa: ANN401 - whatever a server sends
    """Return the HTTP status that an error object names by number or by name; None if it names none."""
    values = [error.get(name) for name in ("code", "status", "type")] if isinstance(error, Mapping) else []
    for value in values:
        if isinstance(value, int | str) and str(value).isdecimal() and 400 <= int(str(value)[:9]) < 600:
            return int(value)
        if isinstance(value, str) and value.casefold() in STATUS_BY_CODE:
            return STATUS_BY_CODE[value.casefold()]
    return None
