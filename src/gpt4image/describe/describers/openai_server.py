"""Any server that speaks OpenAI's chat completions: the vendors, vLLM, Ollama, llama.cpp, LM Studio, transformers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from gpt4image.describe.describers.base import (
    DescribeRequest,
    EndpointDownError,
    PushbackError,
    Reply,
    RequestFailedError,
)
from gpt4image.describe.describers.chat import ChatAnswer, add_counts, chat_body, read_answer
from gpt4image.describe.describers.http_errors import BUSY, Trouble, sort_out
from gpt4image.describe.secrets import ApiKey, check_address
from gpt4image.errors import DescribeError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CHECK_SECONDS = 15.0
MOST_AT_ONCE = 64


class OpenAIDescriber:
    """One server that speaks OpenAI's protocol, through the openai SDK.

    The SDK's own retries are off: the runner decides what is tried again, where and when.

    Args:
        model: the model as the server names it.
        base_url: address up to and including `/v1`.
        key: its key.
        most_at_once: requests under way at a time, at most.
    """

    name = "openai"

    def __init__(
        self, model: str, base_url: str, key: ApiKey | None = None, *, most_at_once: int = MOST_AT_ONCE
    ) -> None:
        self.model, self.place, self.most_at_once = model, check_address(base_url), most_at_once
        self._key = key or ApiKey()
        self._made: AsyncOpenAI | None = None
        self._old_limit = True
        self._answered = False
        self._models: tuple[str, ...] = ()

    @property
    def _client(self) -> AsyncOpenAI:
        if self._made is None:
            self._made = make_client(self.place, self._key)
        return self._made

    async def list_models(self) -> tuple[str, ...]:
        """Names of the models that the server has; empty where it does not say.

        Raises:
            EndpointDownError: it cannot be reached.
            DescribeError: it does not take the key.
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                found = await self._client.get("/models", cast_to=object)
        except Exception as error:  # whatever the SDK raises is sorted out in one place
            trouble = sort_out(error, self._key)
            if trouble.status in (401, 403) or trouble.down:
                raise self._meaning(trouble) from None
            return ()
        rows = found.get("data") if isinstance(found, dict) else None
        names = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        self._models = tuple(self._key.scrub(name) for name in names if isinstance(name, str))
        return self._models

    async def check(self) -> None:
        """Find out whether the server is there and takes the key."""
        await self.list_models()

    async def describe(self, request: DescribeRequest) -> Reply:
        """Ask all questions of a request, one after the other."""
        answers: list[ChatAnswer] = []
        for _ in request.turns:
            try:
                answers.append(await self._ask(request, [answer.text for answer in answers]))
            except RequestFailedError as error:
                raise error.after(answers) from None
        self._answered = True
        last = answers[-1]
        return Reply(
            texts=tuple(answer.text for answer in answers),
            finish_reason=last.finish_reason,
            tokens_in=add_counts(answer.tokens_in for answer in answers),
            tokens_out=add_counts(answer.tokens_out for answer in answers),
            model=last.model or self.model,
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            await self._made.close()
            self._made = None

    async def _ask(self, request: DescribeRequest, answers: list[str]) -> ChatAnswer:
        body = chat_body(self.model, request, answers, old_limit=self._old_limit)
        try:
            found = await self._client.post("/chat/completions", cast_to=object, body=body)
        except Exception as error:  # whatever the SDK raises is sorted out in one place
            trouble = sort_out(error, self._key)
            if trouble.is_unsupported_limit and "max_tokens" in body:
                self._old_limit = False
                return await self._ask(request, answers)
            raise self._meaning(trouble) from None
        return self._without_key(read_answer(found))

    def _without_key(self, answer: ChatAnswer) -> ChatAnswer:
        return replace(answer, text=self._key.scrub(answer.text), model=self._key.scrub(answer.model))

    def _meaning(self, trouble: Trouble) -> Exception:
        """What a failed call means for the job."""
        if trouble.down:
            return EndpointDownError(f"nobody answers at {self.place}")
        if trouble.status in BUSY and trouble.code != "insufficient_quota":
            return PushbackError("too many requests" if trouble.status == 429 else "server busy", trouble.wait)
        if hopeless := self._hopeless(trouble):
            return DescribeError(f"{self.place}: {hopeless} The server says: {trouble.detail}")
        if trouble.status is None:
            reason = "connection cut" if trouble.code == "connection" else "unreadable answer"
            return RequestFailedError(reason, trouble.detail, again=True)
        if trouble.status >= 500 or trouble.status in (408, 409, 425):
            return RequestFailedError(f"server error {trouble.status}", trouble.detail, again=True)
        return RequestFailedError(f"refused by the server ({trouble.status})", trouble.detail, again=False)

    def _hopeless(self, trouble: Trouble) -> str:
        """Why no request can go well, with the fix; nothing where this one alone failed."""
        if trouble.code == "insufficient_quota" or trouble.status == 402:
            return "the account has no money left. Top it up, and give the same command again."
        if trouble.status in (401, 403) and not (self._answered and trouble.status == 403):
            if self._key.variable:
                return f"it does not take the key in {self._key.variable}. Export the right one."
            return "it wants a key. Name the environment variable that holds it: --key-env NAME."
        return "" if self._answered else self._misfit(trouble)

    def _misfit(self, trouble: Trouble) -> str:
        """Why a server that has answered nothing yet never will, where the request as such is at fault."""
        if trouble.status == 404:
            known = f" It has: {', '.join(self._models[:10])}." if self._models else ""
            return f"it has no model {self.model!r}, or no chat completions at this address.{known}"
        if trouble.status in (400, 422) and ("temperature" in trouble.detail or "top_p" in trouble.detail):
            return "the model takes no such sampling: leave --temperature and --top-p out."
        return ""


def make_client(base_url: str, key: ApiKey) -> AsyncOpenAI:
    """An SDK client on aiohttp, which costs a fifth of the default transport's time a call."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    return AsyncOpenAI(
        base_url=base_url,
        api_key=key.value or "none",
        max_retries=0,
        timeout=None,
        http_client=DefaultAioHttpClient(timeout=None),
    )
