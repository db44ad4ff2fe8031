"""Open the describers that the options select; if there are none, say what could be started."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from gpt4image.core.console import say
from gpt4image.core.errors import DescribeError
from gpt4image.core.invocation import install_command
from gpt4image.describe.options import DESCRIBERS, DescribeOptions
from gpt4image.describe.question import read_prompts
from gpt4image.llm.base import Describer, EndpointDownError
from gpt4image.llm.credentials import OPENAI_KEY, address_hint, is_loopback, key_for, proxy_for
from gpt4image.llm.prices import FREE, Price, find_price, list_price, load_prices, shutdown_warning

if TYPE_CHECKING:
    from gpt4image.llm.openai_client import OpenAIDescriber

T = TypeVar("T")

OPENAI_URL = "https://api.openai.com/v1"
PORT_SECONDS = 1.0


@dataclass(frozen=True)
class Session:
    """Describers that are ready to answer.

    Attributes:
        describers: one or more, all of the same model.
        loop: the event loop that runs their coroutines.
        price: price of the tokens; None if unknown.
    """

    describers: tuple[Describer, ...]
    loop: asyncio.Runner
    price: Price | None

    @property
    def model(self) -> str:
        """The requested model."""
        return self.describers[0].model

    @property
    def max_concurrency(self) -> int:
        """Maximum number of open requests."""
        return sum(describer.max_concurrency for describer in self.describers)


@contextmanager
def open_session(options: DescribeOptions) -> Iterator[Session]:
    """Open the describers that the options select, and close them at the end.

    Raises:
        ConfigError: an unknown describer, an invalid price, or options that exclude each other.
        DescribeError: no describer can answer; the message says what could be started.
    """
    with asyncio.Runner() as loop:
        describers = loop.run(open_describers(options))
        try:
            model, price = describers[0].model, price_for(options, describers[0].model)
            announced = getattr(describers[0], "shutdown_dates", {}).get(model)
            if warning := shutdown_warning(model, announced or (price.until if price else None)):
                say(warning, style="yellow")
            yield Session(tuple(describers), loop, price)
        finally:
            for describer in describers:
                loop.run(describer.close())


def price_for(options: DescribeOptions, model: str) -> Price | None:
    """Return the price of a model: the user's price, 0 for models on this machine, else the list price."""
    if options.price_in is not None and options.price_out is not None:
        return Price(options.price_in, options.price_out, source="given by you")
    own = find_price(model, load_prices(options.prices)) if options.prices else None
    if own is not None:
        return own
    if options.describer in ("local", "replay") or (options.base_url and all(map(is_loopback, options.base_url))):
        return FREE
    return list_price(model, options.base_url[0] if options.base_url else OPENAI_URL)


def run_in_thread_if_needed(work: Callable[[], T]) -> T:
    """Run a function that starts event loops; use another thread if this one already runs a loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    pool = ThreadPoolExecutor(1)
    result = pool.submit(work)
    pool.shutdown(wait=False)  # Ctrl-C interrupts the wait below, but would not interrupt `join`
    return result.result()


# The describers.


async def open_describers(options: DescribeOptions) -> list[Describer]:
    """Open the describers that the options select."""
    return await DESCRIBERS.load(options.describer)(options)


async def open_local(options: DescribeOptions) -> list[Describer]:
    """Load a model into this process."""
    from gpt4image.llm.local.client import LocalDescriber

    describer = LocalDescriber(options.model, batch_size=options.local_batch, precision=options.precision)
    await describer.check()
    return [describer]


async def open_recording(options: DescribeOptions) -> list[Describer]:
    """Open a recorded set."""
    from gpt4image.describe.replay import ReplayDescriber

    assert options.recording is not None
    describer = ReplayDescriber(options.recording, model=options.model, prompts=read_prompts(options))
    await describer.check()
    return [describer]


async def open_servers(options: DescribeOptions) -> list[Describer]:
    """Open servers that speak OpenAI's protocol. At least one must answer now; the others may come up later."""
    from gpt4image.llm.openai_client import OpenAIDescriber

    urls = options.base_url or (OPENAI_URL,)
    if not options.base_url and not options.key_env and not os.environ.get(OPENAI_KEY):
        raise DescribeError(await describer_advice(f"{OPENAI_KEY} is not set, so OpenAI's server cannot be used."))
    describers = [
        OpenAIDescriber(options.model or "", url, key_for(url, options.key_env), max_concurrency=options.at_once)
        for url in urls
    ]
    try:
        await agree_on_model(describers)
    except BaseException:
        await asyncio.gather(*(describer.close() for describer in describers))
        raise
    return list(describers)


async def agree_on_model(describers: Sequence[OpenAIDescriber]) -> None:
    """Check which servers answer, and choose the model if the user named none.

    Raises:
        DescribeError: no server answers, or they do not agree on a model.
    """
    down: list[str] = []
    names: set[str] = set()
    for describer in describers:
        try:
            models = await describer.list_models()
        except EndpointDownError as error:
            down.append(str(error))
            continue
        names.add(describer.model or only_model(models, describer))
    if not names:
        trouble = f"{down[0][0].upper()}{'; '.join(down)[1:]}."
        in_between = any(proxy_for(describer.place) for describer in describers)  # then the other servers do not help
        raise DescribeError(trouble if in_between else await describer_advice(trouble))
    if len(names) > 1:
        raise DescribeError(f"The servers have different models ({', '.join(sorted(names))}): set model (--model).")
    for trouble in down:
        say(f"{trouble}: the other servers take over until it answers", style="yellow")
    for describer in describers:
        describer.model = next(iter(names))


def only_model(models: Sequence[str], describer: OpenAIDescriber) -> str:
    """Return the only model of a server. If there are several, DescribeError lists them."""
    if len(models) == 1:
        return models[0]
    place, said = describer.place, f' It says "{describer.said}".' if describer.said else ""
    known = f" It has: {', '.join(models[:20])}." if models else said
    raise DescribeError(f"Set model (--model NAME) to the model that {place} should use.{known}{address_hint(place)}")


# What to start if no describer answers.


class ServerProgram(NamedTuple):
    """A program that serves vision-language models on the user's own machine."""

    name: str
    command: str  # tells whether the program is installed
    url: str  # where it listens by default
    start: str


PROGRAMS = (
    ServerProgram("vLLM", "vllm", "http://localhost:8000/v1", "vllm serve Qwen/Qwen2.5-VL-3B-Instruct"),
    ServerProgram("Ollama", "ollama", "http://localhost:11434/v1", "ollama pull qwen2.5vl:3b && ollama serve"),
    ServerProgram(
        "llama.cpp",
        "llama-server",
        "http://localhost:8080/v1",
        "llama-server -hf ggml-org/Qwen2.5-VL-3B-Instruct-GGUF",
    ),
    ServerProgram("LM Studio", "lms", "http://localhost:1234/v1", "lms server start"),
)


async def describer_advice(trouble: str) -> str:
    """Return a message that says what is wrong, which describers would work, and how to start them."""
    states = await asyncio.gather(*(program_state(program) for program in PROGRAMS))
    local = "transformers is installed" if find_spec("transformers") else f"needs: {install_command('transformers')}"
    return "\n".join(
        [
            f"{trouble} Options:",
            f"  OpenAI's server: export {OPENAI_KEY}=... and set model (--model NAME)",
            "  another vendor's: set base_url (--base-url URL), key_env (--key-env VARIABLE) and model (--model NAME)",
            *states,
            f"  a model in this process ({local}): set describer to local (--describer local), and model (--model "
            "FOLDER-OR-HUB-NAME)",
            "  a recorded set: set describer to replay (--describer replay), and recording (--recording FOLDER)",
        ]
    )


async def program_state(program: ServerProgram) -> str:
    """Say in a line whether a program is running or installed, and how to start it."""
    if await is_listening(program.url):
        return f"  {program.name}: running at {program.url}: set base_url (--base-url {program.url})"
    state = "installed, not running" if shutil.which(program.command) else "not found here"
    return f"  {program.name} ({state}):\n      {program.start}\n      then base_url (--base-url {program.url})"


async def is_listening(url: str) -> bool:
    """Whether anything accepts connections at an address on this machine."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(PORT_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
