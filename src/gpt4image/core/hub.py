"""Access to the Hugging Face hub that fails within seconds if the hub cannot be reached.

The libraries that load from it would each wait and retry for up to a minute, and print every attempt.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from gpt4image.core.console import is_drawn, say
from gpt4image.core.errors import causes, first_line

SECONDS = 4.0  # time to wait for the hub's first answer
FAILED = 500  # the first HTTP status that says the server is at fault

NOISY = ("datasets", "huggingface_hub", "open_clip", "sentence_transformers", "timm", "transformers")
"""Loggers of the libraries that load from the hub."""

CONFIGURATIONS = ("config.json", "modules.json", "open_clip_config.json")
"""Files of which each model on the hub has one."""

HUB_PREFIX = "hf:"
"""Prefixes of names that are looked up on the hub only."""


class HubError(OSError):
    """Something could not be loaded, and the hub cannot be reached."""


def described(error: Exception) -> str:
    """Return the first line of a library's error, with the type where it adds information."""
    return str(error) if isinstance(error, HubError) else f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def hub_access() -> Iterator[None]:
    """Let libraries load from the hub; only from its cache if the hub does not answer.

    Raises:
        HubError: loading failed, and the hub does not answer.
    """
    # These print a line with the address at every retry of a request.
    for name in ("huggingface_hub.utils._http", "huggingface_hub.file_download", "datasets.utils.file_utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    fault = find_fault()
    if fault is None:
        with hub_progress():
            yield
        return
    try:
        with offline():
            yield
    except Exception as error:
        if not any(isinstance(each, OSError) for each in causes(error)):
            raise
        raise HubError(f"the Hugging Face hub does not answer ({fault}), and there is no copy in its cache") from error


@contextmanager
def hub_progress() -> Iterator[None]:
    """Let the hub's library draw its progress bars only where progress is drawn."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    with ExitStack() as stack:
        if not is_drawn() and not are_progress_bars_disabled():
            disable_progress_bars()
            stack.callback(enable_progress_bars)
        yield


def require_model(name: str) -> None:
    """Raise HubError if a model is neither in the hub's cache nor on the hub, ValueError if none can be called so."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError

    if any(isinstance(try_to_load_from_cache(name, file), str) for file in CONFIGURATIONS):
        return
    fault = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else find_fault()
    if fault:
        raise HubError(f"the Hugging Face hub does not answer ({fault}), and there is no copy in its cache")
    try:
        HfApi().model_info(name, timeout=SECONDS)
    except RepositoryNotFoundError:
        raise HubError(f"the Hugging Face hub has no model {name}, or it needs a token (HF_TOKEN)") from None
    except Exception:  # the hub's other faults: loading says what they mean
        return


@cache
def find_fault() -> str | None:
    """Return why the hub does not answer; None if it does, or if the user works offline. The hub is asked once."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        return None
    faults = [f"no answer within {SECONDS:g} s"]

    def ask() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=SECONDS).status_code
            faults[:] = [f"status {status}"] if status >= FAILED else []
        except Exception as error:  # versions of the client differ in the library below them
            faults[:] = [first_line(error)]

    # Name resolution has no time-out of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    fault = next(iter(faults), None)
    if fault:
        say(f"The Hugging Face hub does not answer ({fault}). Cached copies are used where there are any.", "yellow")
    return fault


def is_critical(record: logging.LogRecord) -> bool:
    """Whether a record is worse than an error."""
    return record.levelno > logging.ERROR


@contextmanager
def offline() -> Iterator[None]:
    """Stop the loaded libraries from asking the hub and from logging that it is missing."""
    from huggingface_hub import constants

    flags: list[Any] = [constants, *filter(None, [sys.modules.get("datasets.config")])]
    with ExitStack() as stack:
        for module in flags:
            stack.callback(setattr, module, "HF_HUB_OFFLINE", module.HF_HUB_OFFLINE)
            module.HF_HUB_OFFLINE = True
        for logger in map(logging.getLogger, NOISY):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        logging.root.addFilter(is_critical)  # the root logger
        stack.callback(logging.root.removeFilter, is_critical)
        yield
