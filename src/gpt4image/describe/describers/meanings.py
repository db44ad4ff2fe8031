"""What a server's answers mean for the job, whether they come one by one or as the lines of a batch."""

from __future__ import annotations

from typing import Any

from gpt4image.describe.describers.base import ChatAnswer, EndpointDownError, PushbackError, RequestFailedError
from gpt4image.describe.describers.chat import read_answer
from gpt4image.describe.describers.http_errors import BUSY, Trouble
from gpt4image.describe.secrets import ApiKey, address_hint
from gpt4image.errors import DescribeError

OUT_OF_PATIENCE = (408, 504, 524)
"""Something between us and the model did not wait for its answer, which may be paid for."""


class Meanings:
    """Tells a request that failed from a job that cannot go well.

    Args:
        place: the server's address.
        key: its key, which is cut out of all that it says.

    Attributes:
        answered: whether it has answered a request; from then on one that it refuses says nothing about the others.
        models: names of the models that it has, as far as it says.
    """

    def __init__(self, place: str, key: ApiKey) -> None:
        self._place, self._key = place, key
        self.answered = False
        self.models: tuple[str, ...] = ()

    def note_models(self, listed: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever a server sends
        """Take down the models of a server's list; none where it is not of the protocol's form."""
        rows = listed.get("data") if isinstance(listed, dict) else None
        names = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        self.models = tuple(self._key.scrub(name) for name in names if isinstance(name, str))
        return self.models

    def read(self, body: Any) -> ChatAnswer:  # noqa: ANN401 - whatever a server sends
        """Take the answer out of a server's JSON without the key. RequestFailedError as `read_answer` raises it."""
        return read_answer(self._key.scrub_all(body))

    def of(self, trouble: Trouble, model: str) -> Exception:
        """What a failed call means: one of the errors that a describer raises.

        Args:
            trouble: the call.
            model: the model that was asked for.
        """
        if trouble.down:
            return EndpointDownError(f"nobody answers at {self._place}")
        if trouble.status in BUSY and trouble.code != "insufficient_quota":
            return PushbackError("too many requests" if trouble.status == 429 else "server busy", trouble.wait)
        if hopeless := self._hopeless(trouble, model):
            return DescribeError(f"{self._place}: {hopeless} The server says: {trouble.detail}")
        if trouble.status is None:
            reason = "connection cut" if trouble.code == "connection" else "unreadable answer"
            return RequestFailedError(reason, trouble.detail, again=True, of_server=True).uncounted()
        if trouble.status >= 500 or trouble.status in (408, 409, 425):
            error = RequestFailedError(f"server error {trouble.status}", trouble.detail, again=True, of_server=True)
            return error.uncounted() if trouble.status in OUT_OF_PATIENCE else error
        return RequestFailedError(f"refused by the server ({trouble.status})", trouble.detail, again=False)

    def _hopeless(self, trouble: Trouble, model: str) -> str:
        """Why no request can go well, with the fix; nothing where this one alone failed."""
        if trouble.code == "insufficient_quota" or trouble.status == 402:
            return "the account has no money left. Top it up, and give the same command again."
        if trouble.status in (401, 403) and not (self.answered and trouble.status == 403):
            if self._key.variable:
                return f"it does not take the key in {self._key.variable}. Export the right one."
            return "it wants a key. Name the environment variable that holds it: --key-env NAME."
        return "" if self.answered else self._misfit(trouble, model)

    def _misfit(self, trouble: Trouble, model: str) -> str:
        """Why a server that has answered nothing yet never will, where the request as such is at fault."""
        if trouble.status == 404:
            known = f" It has: {', '.join(self.models[:10])}." if self.models else address_hint(self._place)
            return f"it has no model {model!r}, or no chat completions at this address.{known}"
        if trouble.status in (400, 422) and ("temperature" in trouble.detail or "top_p" in trouble.detail):
            return "the model takes no such sampling: leave --temperature and --top-p out."
        return ""
