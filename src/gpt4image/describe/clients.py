"""The table of describers, and what could be started where none is to be had."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from gpt4image.core.console import say
from gpt4image.core.errors import DescribeError
from gpt4image.core.options import DescribeOptions
from gpt4image.core.registry import Registry
from gpt4image.descriptions.prompts import load_strategies
from gpt4image.descriptions.prompts.prompt import own_strategies
from gpt4image.llm.base import Describer, EndpointDownError
from gpt4image.llm.credentials import OPENAI_KEY, address_hint, is_loopback, key_for
from gpt4image.llm.prices import FREE, Price, find_price, load_prices

if TYPE_CHECKING:
    from gpt4image.llm.openai_client import OpenAIDescriber


def prompt_names(options: DescribeOptions) -> tuple[str, ...]:
    """The prompts that options name: where they name none, those of the user's file, or `plain`."""
    if options.prompts:
        return options.prompts
    return ("plain",) if options.prompt_file is None else tuple(s.name for s in own_strategies(options.prompt_file))


OpenDescribers = Callable[[DescribeOptions], Awaitable[list[Describer]]]


DESCRIBERS: Registry[OpenDescribers] = Registry(
    "describer",
    {
        "openai": "gpt4image.describe.clients:open_servers",
        "batch": "gpt4image.describe.clients:open_servers",
        "local": "gpt4image.describe.clients:open_local",
        "replay": "gpt4image.describe.clients:open_recording",
    },
    group="gpt4image.describers",
)
"""Each is a coroutine that opens the describers that the options ask for and has checked that they can answer."""


OPENAI_URL = "https://api.openai.com/v1"


LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Program:
    """A program that serves a vision-language model on one's own machine.

    Attributes:
        name: its name.
        command: the command that it is known by, to see whether it is installed.
        url: where it listens when nothing else is said.
        start: how to start it.
    """

    name: str
    command: str
    url: str
    start: str


PROGRAMS = (
    Program("vLLM", "vllm", "http://localhost:8000/v1", "vllm serve Qwen/Qwen2.5-VL-3B-Instruct"),
    Program("Ollama", "ollama", "http://localhost:11434/v1", "ollama pull qwen2.5vl:3b && ollama serve"),
    Program(
        "llama.cpp",
        "llama-server",
        "http://localhost:8080/v1",
        "llama-server -hf ggml-org/Qwen2.5-VL-3B-Instruct-GGUF",
    ),
    Program("LM Studio", "lms", "http://localhost:1234/v1", "lms server start"),
)


async def open_describers(options: DescribeOptions) -> list[Describer]:
    """The describers that the options ask for, found to be there.

    Raises:
        ConfigError: unknown describer, or options that do not go together.
        DescribeError: none can answer; the message says what could be started.
    """
    return await DESCRIBERS.load(options.describer)(options)


async def open_local(options: DescribeOptions) -> list[Describer]:
    """A model in this process, loaded."""
    from gpt4image.llm.local.client import LocalDescriber

    describer = LocalDescriber(options.model, batch_size=options.local_batch, precision=options.precision)
    await describer.check()
    return [describer]


async def open_recording(options: DescribeOptions) -> list[Describer]:
    """A recorded set."""
    from gpt4image.describe.replay import ReplayDescriber

    assert options.recording is not None
    strategies = load_strategies(prompt_names(options), options.prompt_file)
    describer = ReplayDescriber(options.recording, model=options.model, strategies=strategies)
    await describer.check()
    return [describer]


async def open_servers(options: DescribeOptions) -> list[Describer]:
    """Servers that speak OpenAI's protocol. One at least answers now; the others are waited for while work goes on."""
    from gpt4image.llm.openai_client import OpenAIDescriber

    urls = options.base_url or (OPENAI_URL,)
    if not options.base_url and not options.key_env and not os.environ.get(OPENAI_KEY):
        raise DescribeError(await advice(f"{OPENAI_KEY} is not set, so OpenAI's own server cannot be asked."))
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
    """Find out which servers answer, and the model's name where the user gave none.

    Raises:
        DescribeError: none answers, or they do not agree on a model.
    """
    silent: list[str] = []
    names: set[str] = set()
    for describer in describers:
        try:
            models = await describer.list_models()
        except EndpointDownError as error:
            silent.append(str(error))
            continue
        names.add(describer.model or the_only(models, describer.place))
    if not names:
        raise DescribeError(await advice("; ".join(silent).capitalize() + "."))
    if len(names) > 1:
        raise DescribeError(f"The servers have different models ({', '.join(sorted(names))}): name one with --model.")
    for trouble in silent:
        say(f"{trouble}: its share goes to the others until it does", style="yellow")
    for describer in describers:
        describer.model = next(iter(names))


def the_only(models: Sequence[str], place: str) -> str:
    """The model of a server that has just one. DescribeError lists them where there are more."""
    if len(models) == 1:
        return models[0]
    known = f" It has: {', '.join(models[:20])}." if models else ""
    raise DescribeError(f"Name the model that {place} is to use: --model NAME.{known}{address_hint(place)}")


async def advice(trouble: str) -> str:
    """What is wrong, and which describers would work here and how each is started."""
    states = await asyncio.gather(*(look_for(program) for program in PROGRAMS))
    local = "transformers is installed" if find_spec("transformers") else "needs: pip install transformers"
    return "\n".join(
        [
            f"{trouble} What would work:",
            f"  a vendor's server: export {OPENAI_KEY}=... and --model NAME; any other: --base-url URL --key-env NAME",
            *states,
            f"  a model in this process ({local}): --describer local --model FOLDER-OR-HUB-NAME",
            "  a recorded set: --describer replay --recording FOLDER",
        ]
    )


async def look_for(program: Program) -> str:
    """One line: whether a program runs here, is installed, or how it is started."""
    if await listens(program.url):
        return f"  {program.name}: something answers at {program.url}: --base-url {program.url}"
    state = "installed, not running" if shutil.which(program.command) else "not found here"
    return f"  {program.name} ({state}): {program.start}\n      then --base-url {program.url}"


async def listens(url: str) -> bool:
    """Whether anything takes connections at an address on this machine."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """Describers that are ready to answer.

    Attributes:
        describers: one or more, all of the same model.
        loop: runs their coroutines.
        price: what tokens cost; None where it is not known.
    """

    describers: tuple[Describer, ...]
    loop: asyncio.Runner
    price: Price | None

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.describers[0].model

    @property
    def max_concurrency(self) -> int:
        """Requests under way at a time, at most."""
        return sum(describer.max_concurrency for describer in self.describers)


@contextmanager
def open_session(options: DescribeOptions) -> Iterator[Session]:
    """Open the describers that the options ask for, and close them at the end.

    Raises:
        ConfigError: options that do not go together, or a price that cannot be meant.
        DescribeError: no describer can answer; the message says what could be started.
    """
    with asyncio.Runner() as loop:
        describers = loop.run(open_describers(options))
        try:
            yield Session(tuple(describers), loop, price_for(options, describers[0].model))
        finally:
            for describer in describers:
                loop.run(describer.close())


def price_for(options: DescribeOptions, model: str) -> Price | None:
    """What the model costs: what the user says, nothing on this machine, else what the price table knows."""
    if options.price_in is not None and options.price_out is not None:
        return Price(options.price_in, options.price_out, source="given by you")
    own = find_price(model, load_prices(options.prices)) if options.prices else None
    if own is not None:
        return own
    if options.describer in ("local", "replay") or (options.base_url and all(map(is_loopback, options.base_url))):
        return FREE
    return find_price(model, load_prices())


def outside_loops(work: Callable[[], T]) -> T:
    """Do work that runs loops of its own: in a thread where this one runs a loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def collect() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=collect)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
