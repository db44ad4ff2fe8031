"""Client for servers with OpenAI's chat completions: OpenAI, other vendors, vLLM, Ollama, llama.cpp, LM Studio."""

from __future__ import annotations

import asyncio
import warnings
from datetime import date
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from gpt4image.core.console import say
from gpt4image.core.errors import DescribeError
from gpt4image.llm.base import (
    OTHER_FORM,
    ChatAnswer,
    DescribeRequest,
    EndpointDownError,
    OnAnswer,
    Reply,
    RequestFailedError,
)
from gpt4image.llm.body import keep_packed, read_body
from gpt4image.llm.chat import Body, chat_body, read_answer
from gpt4image.llm.credentials import ApiKey, check_address, check_environment, https_hint
from gpt4image.llm.errors import NO_ANSWER, ErrorClassifier, read_error_body, read_failure

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

# Time limit for listing the models; the server may be busy with other clients' requests.
CHECK_SECONDS = 15.0
CONNECT_SECONDS = 15.0
MAX_CONCURRENCY = 128

# Number of log-probabilities per position to ask for, and how many if the server refuses.
MOST_LOG_PROBABILITIES, FEWER_LOG_PROBABILITIES = 20, {20: 5, 5: 0}


class OpenAIDescriber:
    """A server that speaks OpenAI's protocol, through the openai SDK.

    The SDK's own retries are off: the runner decides what to retry, where and when.

    Args:
        model: model name as the server knows it.
        base_url: address up to and including `/v1`.
        key: its key.
        max_concurrency: maximum requests in flight.

    Attributes:
        shutdown_dates: announced shutdown dates by model; known after `list_models`.
        said: the server's message instead of a list of its models; empty if it sent a list.
    """

    name = "openai"

    def __init__(
        self, model: str, base_url: str, key: ApiKey | None = None, *, max_concurrency: int = MAX_CONCURRENCY
    ) -> None:
        self.model, self.place, self.max_concurrency = model, check_address(base_url), max_concurrency
        self._key = key or ApiKey()
        self._old_limit, self.said = True, ""
        self._top_log_probabilities = MOST_LOG_PROBABILITIES
        self._classifier = ErrorClassifier(self.place, self._key)

    @cached_property
    def _client(self) -> AsyncOpenAI:
        return make_client(self.place, self._key)

    @property
    def shutdown_dates(self) -> dict[str, date]:  # noqa: D102 - see the class
        return self._classifier.shutdown_dates

    async def list_models(self) -> tuple[str, ...]:
        """Return the names of the server's models; empty if it does not list them.

        Raises:
            EndpointDownError: the server cannot be reached or does not respond.
            DescribeError: the server rejects the key.
        """
        client = self._client  # the time to import the SDK must not count as the server's
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                listed = await ask(client, "GET", "/models")
        except TimeoutError:
            reason = f"{self.place} accepts connections but did not respond within {CHECK_SECONDS:.0f} s"
            raise EndpointDownError(reason) from None
        except Exception as error:  # whatever the SDK raises
            call = read_failure(error, self._key)
            failure = self._classifier.classify(call, self.model)
            if call.code == NO_ANSWER and isinstance(failure, RequestFailedError):
                failure = EndpointDownError(
                    f"the connection to {self.place} was closed without an answer{https_hint(self.place)}"
                    f"{self._classifier.proxy_hint()}"
                )
            fatal = (call.moved or call.status in (None, 401, 403, 407)) and isinstance(failure, DescribeError)
            if fatal or isinstance(failure, EndpointDownError):
                raise failure from None
            self.said = call.detail
            return ()
        return self._classifier.read_models(listed)

    async def check(self) -> None:
        """Check that the server can be reached and accepts the key."""
        await self.list_models()

    async def describe(self, request: DescribeRequest, on_answer: OnAnswer) -> Reply:
        """Ask the unanswered questions of a request, one after the other."""
        answers = list(request.answers)
        while len(answers) < len(request.turns):
            answers.append(await self._ask(request, [answer.text for answer in answers]))
            on_answer(answers[-1])
        self._classifier.answered = True
        return Reply.join(answers, answers[-1].model or self.model)

    async def close(self) -> None:
        """Close the connections."""
        if client := self.__dict__.pop("_client", None):  # `_client` is cached; the next call opens a new one
            await client.close()

    async def _ask(self, request: DescribeRequest, answers: list[str]) -> ChatAnswer:
        top = self._top_log_probabilities if request.log_probabilities and len(answers) + 1 == len(request.turns) else 0
        body = chat_body(self.model, request, answers, old_limit=self._old_limit, top_log_probabilities=top)
        client, call = self._client, None  # an error while making the client has nothing to do with the answer
        try:
            response = await ask(client, "POST", "/chat/completions", body)
        except Exception as error:  # whatever the SDK raises
            call = read_failure(error, self._key)
            if call.is_unsupported_limit and "max_tokens" in body:
                self._old_limit = False
                return await self._ask(request, answers)
        else:
            call = read_error_body(response, self._key)
        if call is not None and top and call.is_unsupported_log_probabilities:
            self._ask_for_fewer(top)
            return await self._ask(request, answers)
        if call is not None:
            raise self._classifier.classify(call, self.model, of_picture=bool(request.pictures))
        try:
            return read_answer(self._key.scrub_all(response))
        except RequestFailedError as error:
            if error.reason == OTHER_FORM and not self._classifier.answered:  # it speaks nothing else
                raise DescribeError(f"{self.place}: {error}.") from error
            raise

    def _ask_for_fewer(self, refused: int) -> None:
        """Remember that the server refused so many log-probabilities; another request may have done so already."""
        if self._top_log_probabilities == refused:
            self._top_log_probabilities = FEWER_LOG_PROBABILITIES[refused]
            if not self._top_log_probabilities:
                say(f"{self.place} sends no log-probabilities; its answers are used without them.")


async def ask(client: AsyncOpenAI, method: str, path: str, body: Body | None = None) -> Any:  # noqa: ANN401 - JSON
    """Return what is in the body of a response, which may be JSON whatever its headers say."""
    from openai import HttpxBinaryResponseContent

    call = client.get if method == "GET" else partial(client.post, body=body)
    return read_body((await call(path, cast_to=HttpxBinaryResponseContent)).response)


async def on_response(response: httpx2.Response) -> None:
    """Keep the body of a response as it came."""
    keep_packed(response)


def make_client(base_url: str, key: ApiKey) -> AsyncOpenAI:
    """Return an SDK client on aiohttp, which takes a fifth of the default transport's time per call."""
    from openai import AsyncOpenAI, DefaultAioHttpClient, Timeout

    # caused by the SDK's own use of aiohttp through a proxy with a password; the user cannot change it
    check_environment(base_url)
    warnings.filterwarnings("ignore", "BasicAuth is deprecated|The 'proxy_auth' parameter", DeprecationWarning)
    timeout = Timeout(None, connect=CONNECT_SECONDS)  # the runner limits how long an answer may take
    return AsyncOpenAI(
        base_url=base_url,
        api_key=key.value or "none",
        max_retries=0,
        timeout=timeout,
        http_client=DefaultAioHttpClient(
            timeout=timeout,
            follow_redirects=False,  # redirects turn a POST into a GET
            event_hooks={"response": [on_response]},
        ),
    )
