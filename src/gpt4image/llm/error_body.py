"""Errors in the bodies of responses: the server's own words and their meaning, and errors that come with status 200."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gpt4image.llm.body import parse_json

OBJECT = re.compile(r"[{\[].*[}\]]", re.DOTALL)
LONGEST_OBJECT = 10_000
"""Maximum length of a non-JSON object that is parsed."""
HTML_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"<style.*?</style>|<script.*?</script>|<[^>]*>", re.IGNORECASE | re.DOTALL)


def words(*patterns: str) -> re.Pattern[str]:
    """Return a case-insensitive pattern that finds any of the given ones."""
    return re.compile("|".join(patterns), re.IGNORECASE)


# Meanings of error messages, independent of the status. The patterns are searched in an error's code and message.
MODERATION = words(
    "moderat",
    r"risk control|\bminors?\b|real (?:person|people)|"
    r"(?:image|picture|photo|content)s?[ _-]?(?:\w+ ){0,2}(?:rejected|refused|denied)|"
    r"rejected .{0,40}\b(?:image|picture|photo)",
    "flagged",
    "content[ _-]?(?:policy|filter|management)",
    "safety",
    "inappropriate",
    r"violat\w+ .{0,40}(?:polic|guideline)|usage guidelines|(?:acceptable|prohibited) use",
    "data_?inspection|sensitive (?:content|information|words?)|敏感|违规",
    r"prohibited[ _]content|\bnsfw\b|nudity|\bsexual|explicit (?:content|image|material)",
    "guardrail|responsible ai|unsafe|harmful|"
    r"(?:content|image|input|prompt|picture) (?:is|was|has been|were) (?:blocked|filtered|restricted)",
)
ACCOUNT = words(r"\b(?:account|organi[sz]ation|api[ _-]?key|credentials?)\b(?! id)")
NO_MONEY = words(
    "insufficient[ _](?:account )?(?:quota|balance|credits?|funds)",
    "credit[ _]balance|balance (?:is |has been )?(?:too low|insufficient|exhausted|depleted|used up|negative)",
    "please recharge|arrearage|account is suspended|enable billing",
    r"free tier\b.{0,40}\bexhausted",
    r"\b(?:any|no|available|out of|more|included) credits\b(?! (?:were )?charged)",
    "credits? (?:is|are|were|have been) (?:depleted|exhausted|used)",
    "余额不足|欠费",
    "budget(?: has been |[ _])exceeded|hard[ _]limit|spending (?:cap|limit)|key limit exceeded|exceeded_current_quota",
)
LONG_QUOTA = words(
    r"per[ _-]?(?:day|week|month)|by_?day\b|per 86,?400 ?s|\b(?:daily|weekly)\b|\b[RT]PD\b|regain access",
    r"monthly (?:(?:\w+ )?quota|limit)",
    "(?:hourly|API) usage limit|usage[ _]limit[ _](?:reached|exceeded)",
)
BAD_KEY = words(
    "api[ _-]?key (?:is )?(?:not valid|invalid|not found|expired)", "(?:invalid|incorrect|expired) api[ _-]?key"
)
PLACE = words(r"(?:country|region|territory|location)\b.{0,40}\b(?:not|un)[ -]?(?:supported|available|allowed)")
PLAIN_HTTP = words("plain HTTP request was sent to HTTPS", "HTTP request to an HTTPS server", "requires (?:TLS|HTTPS)")
NO_PICTURES = words(
    r"(?:not|n't) support (?:images?\b(?! ?(?:format|type|file|size|larger))|vision|multi-?modal)|mmproj",
    "not a (?:multi-?modal|vision)|image input is not (?:supported|enabled)",
    "endpoints found that support image|at most 0 image|missing data required for image",
    "content (?:part )?type[^.]{0,20}image_url|unknown variant `?image_url",
)
MODEL_GONE = words(
    r"\bmodel\b.{0,80}\b(?:deprecated|retired|decommissioned|discontinued|sunset|removed|shut ?down)\b",
    r"\bmodel\b.{0,80}\b(?:no longer|does(?: not|n't) exist|not found)\b",
)
LOADING = words(r"\bload(?:ing|ed yet)\b", "warming up", "starting up")
UNKNOWN_PATH = words("unexpected endpoint")  # LM Studio says so with status 200
TOO_LONG = words(
    "context[ _](?:length|window|size)|maximum (?:model|context|prompt)|max_model_len|max_input|`inputs`",
    r"too many (?:\w+ )?tokens|reduce the (?:length|size)|image.{0,40}(?:too (?:large|big)|exceeds?)",
    "(?:payload|body)(?: size)? exceeds",
    r"(?:prompt|input|request|messages?|body|entity|payload)\b.{0,40}\btoo (?:long|large|big)",
)
SETTINGS = (
    (words(r"\btemperature\b", r"\btop_p\b"), "omit temperature and top_p (--temperature, --top-p)"),
    (words(r"\bseed\b"), "omit seed (--seed)"),
    (words(r"\bmax_(?:completion_|new_|output_)?tokens\b"), "lower max_tokens (--max-tokens)"),
    (
        words(
            "extra (?:inputs|fields?) |extra_forbidden|reasoning_effort|thinking",
            "(?:unknown|unrecognized|unsupported) (?:request )?(?:argument|parameter|field)",
        ),
        "remove the field it names from extra_body (--extra-body)",
    ),
)
"""Settings that a server may refuse: patterns for their names, and the remedy."""

STATUS_BY_WORDS = (
    (429, words(r"\brate[ _-]?limit|too many requests")),
    (503, words(r"\boverloaded\b|\b(?:server|service|model) (?:is )?(?:too |currently )*busy")),
    (401, words(r"\bunauthori[sz]ed\b|\bauthentication (?:error|fail)", BAD_KEY.pattern)),
)
"""Words in status-200 errors that give neither number nor type."""

# HTTP status by the start of an error's name, in lower case without underscores: OpenAI's, Anthropic's, Google's,
# Alibaba's and Volcengine's.
STATUS_BY_CODE = {
    "invalidrequest": 400,
    "invalidargument": 400,
    "invalidparameter": 400,
    "datainspection": 400,
    "arrearage": 402,
    "accountoverdue": 402,
    "billing": 402,
    "prepaidbilloverdue": 402,
    "postpaidbilloverdue": 402,
    "insufficient": 402,
    "authentication": 401,
    "invalidapikey": 401,
    "unauthenticated": 401,
    "permission": 403,
    "accessdenied": 403,
    "modelnotfound": 404,
    "notfound": 404,
    "requesttoolarge": 413,
    "ratelimit": 429,
    "resourceexhausted": 429,
    "throttling": 429,
    "toomanyrequests": 429,
    "limitrequests": 429,
    "requesttimeout": 504,
    "internalerror.timeout": 504,
    "overloaded": 529,
    "serveroverloaded": 529,
    "unavailable": 503,
    "serviceunavailable": 503,
    "modelunavailable": 503,
    "modelserving": 503,
    "apierror": 500,
    "internal": 500,
    "servererror": 500,
    "systemerror": 500,
}

# MiniMax answers every call with status 200 and a number of its own.
MINIMAX_STATUS = {
    1000: 500,
    1001: 504,
    1002: 429,
    1004: 401,
    1008: 402,
    1013: 500,
    1024: 500,
    1026: 400,  # the picture is sensitive
    1027: 400,  # the answer is
    1033: 500,
    1039: 429,
    1041: 429,
    1042: 400,
    2013: 400,
    2045: 429,
    2049: 401,
    2056: 429,
}


# Names of message fields, in lower case; the first one present is used.
MESSAGE_FIELDS = (
    *("error", "message", "detail", "errors", "msg", "title", "status_msg", "error_msg", "base_resp"),
    *("error_message", "errormessage", "error_description", "description", "reason", "fault", "faultstring"),
)


# Names of fields that may contain one message per setting.
FAULTS_BY_SETTING = ("errors", "detail")


def server_message(body: Any) -> str:  # noqa: ANN401, PLR0911 - whatever a server sends; one return per form
    """Return the server's message in an error body of any form; empty if there is none.

    >>> server_message({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]})
    'body.seed: Extra inputs are not permitted'
    """
    match body:
        case str():
            if (found := OBJECT.search(body)) and (inner := server_message(as_object(found[0]))):
                before = body[: found.start()].strip(" -:\n")  # a gateway passes on another server's error as text
                return f"{before + ': ' if before else ''}{inner}{body[found.end() :].rstrip()}"
            title = HTML_TITLE.search(body)
            return (title.group(1) if title else TAG.sub(" ", body)).strip()
        case {"msg": str(said), "loc": list(place) | tuple(place)}:  # FastAPI
            return f"{'.'.join(map(str, place))}: {said}"
        case {"message": str(said), "metadata": {"raw": str(raw)}}:  # OpenRouter passes on the provider's message
            return f"{said}: {server_message(raw)}"
        case Mapping():
            fields = {str(name).casefold(): value for name, value in body.items()}
            messages = dict.fromkeys(filter(None, (server_message(fields.get(name)) for name in MESSAGE_FIELDS)))
            kind = isinstance(fields.get("error"), str)  # such as Bad Request, before the message
            by_setting = (value for name in FAULTS_BY_SETTING if isinstance(value := fields.get(name), Mapping))
            faults = [plain_words(value) for value in by_setting if not server_message(value)]
            parts = [*list(messages)[: 1 + kind], *faults]
            return ": ".join([*(part.rstrip(".:") for part in parts[:-1]), *parts[-1:]])
        case list() | tuple():
            return "; ".join(filter(None, map(server_message, body)))
    return ""


def error_object(body: Any) -> Any:  # noqa: ANN401 - whatever a server sends
    """Return the error in a body: the field `error` if it is an object with a message, else the whole body.

    >>> error_object({"error": {"message": "no"}}), error_object({"error": True, "message": "no"})
    ({'message': 'no'}, {'error': True, 'message': 'no'})
    """
    if isinstance(body, list) and len(body) == 1:  # Google's errors come in a list
        body = body[0]
    inner = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(inner, Mapping) and inner and (server_message(inner) or not server_message(body)):
        return inner
    return body


def plain_words(body: Any) -> str:  # noqa: ANN401 - whatever a server sends
    """Return the content of an object of unknown form as plain text.

    >>> plain_words({"errors": {"seed": ["is unknown", "is no number"]}, "code": 17})
    'seed: is unknown, is no number; code: 17'
    """
    match body:
        case Mapping():
            parts = ((str(name), plain_words(value)) for name, value in body.items())
            said = ((name, words) for name, words in parts if words)
            return "; ".join(words if name.casefold() in MESSAGE_FIELDS else f"{name}: {words}" for name, words in said)
        case list() | tuple():
            return ", ".join(filter(None, map(plain_words, body)))
        case bool():
            return str(body).lower()
    return "" if body is None else str(body).strip()


def as_object(text: str) -> Any:  # noqa: ANN401 - whatever a server sends
    """Return the object, or the list of objects, in a text, as JSON or Python writes it; None if there is none."""
    found = parse_json(text)
    if isinstance(found, str) and len(found) <= LONGEST_OBJECT:
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = ast.literal_eval(found)
    holds_objects = isinstance(found, list) and any(isinstance(each, Mapping) for each in found)
    return found if isinstance(found, Mapping) or holds_objects else None


def remedy(said: str) -> str:
    """Return the remedy for a refusal by the words of its message; empty if none is known.

    >>> remedy("Unsupported parameter: seed")
    'omit seed (--seed)'
    >>> remedy("prompt is too long: 9000 tokens > 4096")
    'send smaller pictures: lower max_side (--max-side)'
    """
    if TOO_LONG.search(said):
        return "send smaller pictures: lower max_side (--max-side)"
    return next((advice for words, advice in SETTINGS if words.search(said)), "")


def error_with_answer(body: Any) -> Any:  # noqa: ANN401, PLR0911 - whatever a server sends; one return per form
    """Return the error in a body with status 200; None if there is none, or if there is an answer as well."""
    if isinstance(body, list) and len(body) == 1:  # Google's errors come in a list
        body = body[0]
    if not isinstance(body, Mapping):
        return None
    error = minimax_error(body.get("base_resp"))
    match body.get("choices"):
        case [{"error": Mapping() as found, "message": {"content": None | ""}}, *_]:
            return found
        case [{"error": Mapping() as found} as choice, *_] if not choice.get("message"):
            return found
        case [{"message": {"content": None | ""}}, *_] if error:
            return error
        case [_, *_]:
            return None
    if error or body.get("error"):
        return error or error_object(body)
    return body if "choices" not in body and server_message(body) else None


def error_status(error: Any) -> int | None:  # noqa: ANN401 - whatever a server sends
    """Return the HTTP status that an error object gives as a number, a name or words; None if it gives none."""
    values = (
        [error.get(name) for name in ("code", "status", "statusCode", "status_code", "type")]
        if isinstance(error, Mapping)
        else []
    )
    for value in values:
        if isinstance(value, int | str) and str(value).isdecimal() and 400 <= int(str(value)[:9]) < 600:
            return int(value)
        if isinstance(value, str):
            name = value.casefold().replace("_", "")
            known = [start for start in STATUS_BY_CODE if name.startswith(start)]
            if known:
                return STATUS_BY_CODE[max(known, key=len)]
    said = server_message(error)
    if UNKNOWN_PATH.search(said):
        return 404
    return next((status for status, meaning in STATUS_BY_WORDS if meaning.search(said)), None)


def minimax_error(base: Any) -> dict[str, Any] | None:  # noqa: ANN401 - whatever a server sends
    """Return the error of MiniMax's field `base_resp`, in OpenAI's form; None if it reports success or is missing."""
    match base:
        case {"status_code": int(code)} if code:
            name = str(MINIMAX_STATUS.get(code, ""))
            return {"code": name, "message": f"{base.get('status_msg') or 'error'} ({code})"}
    return None
