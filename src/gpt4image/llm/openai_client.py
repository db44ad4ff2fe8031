"""Any server that speaks OpenAI's chat completions: the vendors, vLLM, Ollama, llama.cpp, LM Studio, transformers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpt4image.llm.base import ChatAnswer, DescribeRequest, EndpointDownError, OnAnswer, Reply, add_counts
from gpt4image.llm.chat import chat_body
from gpt4image.llm.credentials import ApiKey, check_address
from gpt4image.llm.errors import ErrorClassifier, sort_out

if TYPE_CHECKING:
    from openai import AsyncOpenAI


CHECK_SECONDS = 15.0


"""Time that a server has to say which models it has. It may be at work for others meanwhile."""


CONNECT_SECONDS = 15.0


"""Time that a connection may take to be made."""


MAX_CONCURRENCY = 128


class OpenAIDescriber:
    """One server that speaks OpenAI's protocol, through the openai SDK.

    The SDK's own retries are off: the runner decides what is tried again, where and when.

    Args:
        model: the model as the server names it.
        base_url: address up to and including `/v1`.
        key: its key.
        max_concurrency: requests under way at a time, at most.
    """

    name = "openai"

    def __init__(
        self, model: str, base_url: str, key: ApiKey | None = None, *, max_concurrency: int = MAX_CONCURRENCY
    ) -> None:
        self.model, self.place, self.max_concurrency = model, check_address(base_url), max_concurrency
        self._key = key or ApiKey()
        self._made: AsyncOpenAI | None = None
        self._old_limit = True
        self._classifier = ErrorClassifier(self.place, self._key)

    @property
    def _client(self) -> AsyncOpenAI:
        if self._made is None:
            self._made = make_client(self.place, self._key)
        return self._made

    async def list_models(self) -> tuple[str, ...]:
        """Names of the models that the server has; empty where it does not say.

        Raises:
            EndpointDownError: it cannot be reached, or says nothing at all.
            DescribeError: it does not take the key.
        """
        client = self._client  # the SDK may take its time to load, which is not the server's
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                found = await client.get("/models", cast_to=object)
        except TimeoutError:
            silence = f"{self.place} takes connections, but has said nothing for {CHECK_SECONDS:.0f} s"
            raise EndpointDownError(silence) from None
        except Exception as error:  # whatever the SDK raises is sorted out in one place
            trouble = sort_out(error, self._key)
            if trouble.status in (401, 403) or trouble.down:
                raise self._classifier.of(trouble, self.model) from None
            return ()
        return self._classifier.note_models(found)

    async def check(self) -> None:
        """Find out whether the server is there and takes the key."""
        await self.list_models()

    async def describe(self, request: DescribeRequest, on_answer: OnAnswer) -> Reply:
        """Ask the questions of a request that are not answered yet, one after the other."""
        answers = list(request.answers)
        while len(answers) < len(request.turns):
            answers.append(await self._ask(request, [answer.text for answer in answers]))
            on_answer(answers[-1])
        self._classifier.answered = True
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
            raise self._classifier.of(trouble, self.model) from None
        return self._classifier.read(found)


def make_client(base_url: str, key: ApiKey) -> AsyncOpenAI:
    """An SDK client on aiohttp, which costs a fifth of the default transport's time a call."""
    from openai import AsyncOpenAI, DefaultAioHttpClient, Timeout

    patience = Timeout(None, connect=CONNECT_SECONDS)  # how long an answer may take is the runner's to say
    return AsyncOpenAI(
        base_url=base_url,
        api_key=key.value or "none",
        max_retries=0,
        timeout=patience,
        http_client=DefaultAioHttpClient(timeout=patience),
    )
