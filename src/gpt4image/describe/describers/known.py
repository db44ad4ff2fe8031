"""The table of describers, and what could be started where none is to be had."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gpt4image.console import say
from gpt4image.describe.describers.base import Describer, EndpointDownError
from gpt4image.describe.prompts import load_strategies
from gpt4image.describe.prompts.strategy import prompt_names
from gpt4image.describe.secrets import ApiKey, address_hint
from gpt4image.errors import DescribeError
from gpt4image.options import DescribeOptions
from gpt4image.seams import load_part

if TYPE_CHECKING:
    from gpt4image.describe.describers.openai_server import OpenAIDescriber

DESCRIBERS = {
    "batch": "gpt4image.describe.describers.known:open_servers",
    "local": "gpt4image.describe.describers.known:open_local",
    "openai": "gpt4image.describe.describers.known:open_servers",
    "replay": "gpt4image.describe.describers.known:open_recording",
}
OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
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
    open_them = load_part(DESCRIBERS, options.describer, "describer")
    found: list[Describer] = await open_them(options)
    return found


async def open_local(options: DescribeOptions) -> list[Describer]:
    """A model in this process, loaded."""
    from gpt4image.describe.describers.local import LocalDescriber

    describer = LocalDescriber(options.model, batch_size=options.local_batch, precision=options.precision)
    await describer.check()
    return [describer]


async def open_recording(options: DescribeOptions) -> list[Describer]:
    """A recorded set."""
    from gpt4image.describe.describers.replay import ReplayDescriber

    assert options.recording is not None
    strategies = load_strategies(prompt_names(options), options.prompt_file)
    describer = ReplayDescriber(options.recording, model=options.model, strategies=strategies)
    await describer.check()
    return [describer]


async def open_servers(options: DescribeOptions) -> list[Describer]:
    """Servers that speak OpenAI's protocol. One at least answers now; the others are waited for while work goes on."""
    from gpt4image.describe.describers.openai_server import OpenAIDescriber

    urls = options.base_url or (OPENAI_URL,)
    if not options.base_url and not options.key_env and not os.environ.get(OPENAI_KEY):
        raise DescribeError(await advice(f"{OPENAI_KEY} is not set, so OpenAI's own server cannot be asked."))
    describers = [
        OpenAIDescriber(options.model or "", url, key_for(url, options.key_env), most_at_once=options.at_once)
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


def key_for(url: str, variable: str | None) -> ApiKey:
    """The key for an address: that of the named variable, OpenAI's for OpenAI alone, none for any other address."""
    if variable is not None:
        return ApiKey.from_environment(variable)
    return ApiKey.from_environment(OPENAI_KEY) if is_openai(url) else ApiKey()


def is_openai(url: str) -> bool:
    """Whether an address is OpenAI's own, the only one that its key is sent to unasked."""
    host = urlsplit(url).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")


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
