"""Keys: taken from the environment, never shown, cut out of whatever a server says."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gpt4image.core.errors import ConfigError

if TYPE_CHECKING:
    pass


HIDDEN = "[key]"


NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


SHORTEST = 6


"""Shorter keys are placeholders such as `-` or `none`; cutting them out would garble the text."""


@dataclass(frozen=True)
class ApiKey:
    """A key, and the environment variable that holds it.

    Attributes:
        variable: name of the environment variable; None where the server needs no key.
        value: the key itself; not in `repr`.
    """

    variable: str | None = None
    value: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, variable: str | None) -> ApiKey:
        """The key that a variable holds.

        Raises:
            ConfigError: the variable is not set; or this is no name of a variable, and then it may be the key itself,
                so it is not shown.
        """
        if variable is None:
            return cls()
        if not NAME.fullmatch(variable):
            raise ConfigError(
                "What was given for the key is no name of an environment variable. Keys are read from the environment "
                "only: export MY_KEY=..., then --key-env MY_KEY."
            )
        value = os.environ.get(variable, "").strip()
        if not value:
            raise ConfigError(f"The environment variable {variable} holds no key: export {variable}=... first.")
        return cls(variable, value)

    def scrub(self, text: str) -> str:
        """A text without the key, or the part of it that servers show of a wrong one."""
        if len(self.value) < SHORTEST:
            return text
        return text.replace(self.value, HIDDEN)

    def scrub_all(self, value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
        """A value of JSON without the key in any of its texts; to be done before a text is cut to some length."""
        if len(self.value) < SHORTEST:
            return value
        match value:
            case str():
                return self.scrub(value)
            case list():
                return [self.scrub_all(item) for item in value]
            case dict():
                return {self.scrub(str(name)): self.scrub_all(item) for name, item in value.items()}
        return value

    def __reduce__(self) -> tuple[object, tuple[str | None]]:
        return ApiKey.from_environment, (self.variable,)  # another process reads its own environment


def check_address(url: str) -> str:
    """An address of a server, without a closing slash.

    Raises:
        ConfigError: it is no http address, or holds a user, a password or a query, which would end in logs.

    >>> check_address("http://localhost:8000/v1/")
    'http://localhost:8000/v1'
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{parts.scheme or 'address'} is no server address: write http://HOST:PORT/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"The address of {parts.hostname} holds more than host, port and path. Keys are read from the environment "
            "only: --key-env NAME."
        )
    return url.rstrip("/")


def address_hint(url: str) -> str:
    """What may be missing at the end of an address.

    >>> address_hint("http://localhost:8000"), address_hint("http://localhost:8000/v1")
    (' Did you mean http://localhost:8000/v1?', '')
    """
    return "" if urlsplit(url).path.strip("/") else f" Did you mean {url}/v1?"


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine.

    >>> is_loopback("http://127.0.0.1:8000/v1"), is_loopback("https://example.org/v1")
    (True, False)
    """
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")


OPENAI_KEY = "OPENAI_API_KEY"


def key_for(url: str, variable: str | None) -> ApiKey:
    """The key for an address: that of the named variable, OpenAI's for OpenAI alone, none for any other address."""
    if variable is not None:
        return ApiKey.from_environment(variable)
    return ApiKey.from_environment(OPENAI_KEY) if is_openai(url) else ApiKey()


def is_openai(url: str) -> bool:
    """Whether an address is OpenAI's own, the only one that its key is sent to unasked."""
    host = urlsplit(url).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")
