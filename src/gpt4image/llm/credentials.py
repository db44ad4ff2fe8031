"""API keys and server addresses: read keys from the environment, never show them, remove them from server messages."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from gpt4image.core.errors import ConfigError

HIDDEN = "[key]"
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Shorter keys are placeholders such as `-` or `none`; removing them would garble the text.
MIN_KEY_LENGTH = 6
OPENAI_KEY = "OPENAI_API_KEY"

# Paths of vendors' servers that are not /v1, by the end of the host's name.
VENDOR_PATHS = {
    "azure.com": "/openai/v1",
    "generativelanguage.googleapis.com": "/v1beta/openai",
    "api.groq.com": "/openai/v1",
    "openrouter.ai": "/api/v1",
}

# Keys in the forms of the large vendors, tokens in headers, passwords in addresses.
SECRET = re.compile(
    r"\b(?:sk|gsk|xai|hf|csk|pplx)[-_][\w-]{16,}|\bAIza[\w-]{30,}|(?<=Bearer )[^\s\"',]{8,}|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"
)
DATA_URL = re.compile(r"data:[\w/+.-]*;base64,[\w+/=]*")


@dataclass(frozen=True)
class ApiKey:
    """An API key and the environment variable that holds it.

    Attributes:
        variable: name of the environment variable; None if the server needs no key.
        value: the key itself; left out of `repr`.
    """

    variable: str | None = None
    value: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, variable: str | None) -> ApiKey:
        """Read the key from an environment variable.

        Raises:
            ConfigError: the variable is not set, or its name is invalid. An invalid name may be the key itself, so the
                message does not repeat it.
        """
        if variable is None:
            return cls()
        if not VARIABLE_NAME.fullmatch(variable):
            raise ConfigError(
                "The value given for the key is not the name of an environment variable. Keys are read from the "
                "environment only: export MY_KEY=..., then set key_env (--key-env MY_KEY)."
            )
        value = os.environ.get(variable, "").strip()
        if not value:
            raise ConfigError(f"The environment variable {variable} is empty: export {variable}=... first.")
        return cls(variable, value)

    def scrub(self, text: str) -> str:
        """Replace the key wherever it occurs in a text."""
        return text if len(self.value) < MIN_KEY_LENGTH else text.replace(self.value, HIDDEN)

    def scrub_message(self, text: str) -> str:
        """Replace the key in a server's message, whatever looks like another secret, and pictures sent back."""
        return DATA_URL.sub("data:...", SECRET.sub(HIDDEN, self.scrub(text)))

    def scrub_all(self, value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
        """Replace the key in every string of a JSON value. Scrub before you shorten: half a key is not recognised."""
        match value:
            case _ if len(self.value) < MIN_KEY_LENGTH:
                return value
            case str():
                return self.scrub(value)
            case list():
                return [self.scrub_all(item) for item in value]
            case dict():
                return {self.scrub(str(name)): self.scrub_all(item) for name, item in value.items()}
        return value

    def __reduce__(self) -> tuple[object, tuple[str | None]]:
        return ApiKey.from_environment, (self.variable,)  # another process reads its own environment


def key_for(url: str, variable: str | None) -> ApiKey:
    """Return the key for an address: the named variable's, else OpenAI's key for OpenAI's own addresses only."""
    if variable is None and is_openai(url):
        variable = OPENAI_KEY
    return ApiKey.from_environment(variable)


def check_address(url: str) -> str:
    """Return a server's address without a trailing slash.

    Raises:
        ConfigError: it is not an http address, or contains a user, a password or a query, which would end up in logs.

    >>> check_address("http://localhost:8000/v1/")
    'http://localhost:8000/v1'
    """
    if fault := address_fault(url):
        raise ConfigError(f"Not a server address ({url[:80]!r}: {fault}): write http://HOST:PORT/v1.")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"Not a server address ({parts.scheme or 'no scheme'}): write http://HOST:PORT/v1.")
    if "api-version" in parts.query or "/deployments/" in parts.path:
        raise ConfigError(
            "The address has Azure's old form, with deployment and api-version. Set base_url (--base-url "
            f"https://{parts.hostname}/openai/v1), and model (--model NAME) to the name of the deployment."
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"The address of {parts.hostname} contains more than host, port and path. Keys are read from the "
            "environment only: set key_env (--key-env NAME)."
        )
    return url.rstrip("/")


def address_fault(url: str) -> str:
    """Return why an address cannot be read; empty if it can.

    >>> address_fault("http://host:80/v1"), address_fault("http://host:port/v1")
    ('', 'its port is not a number up to 65,535')
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError as error:  # for unbalanced brackets
        return str(error)
    if any(sign.isspace() or sign in '\\"<>^`{|}' for sign in host):
        return "the host name is invalid"
    try:
        return "" if urlsplit(url).port != 0 else "its port is 0"
    except ValueError:
        return "its port is not a number up to 65,535"


def check_environment(url: str) -> None:
    """Check the environment's settings for a connection: the proxy and the certificate file.

    Raises: ConfigError: the value of a variable is unusable; the message names it.
    """
    if proxy := _proxy_of(url):
        kind, address = proxy
        shown = f"{kind.upper()}_PROXY is {address.rpartition('@')[2]!r}"
        bare = address if "://" in address else f"http://{address}"
        fault = address_fault(bare) or ("" if urlsplit(bare).hostname else "it names no host")
        if fault:
            raise ConfigError(f"{shown}: {fault}. Export http://HOST:PORT, or unset it.")
        if urlsplit(bare).scheme not in ("http", "https"):
            raise ConfigError(f"{shown}, and only proxies that speak HTTP are supported: export http://HOST:PORT.")
    if url.startswith("https:") and (file := os.environ.get("SSL_CERT_FILE")):
        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:  # also SSLError
            reason = "it contains no certificates in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
            raise ConfigError(
                f"SSL_CERT_FILE is {file!r}: {reason}. Point it to a file with certificates, or unset it."
            ) from None


def address_hint(url: str) -> str:
    """Suggest a path that an address may lack, or a suffix to remove.

    >>> address_hint("http://localhost:8000"), address_hint("http://localhost:8000/v1")
    (' Did you mean http://localhost:8000/v1?', '')
    >>> address_hint("https://openrouter.ai/v1"), address_hint("http://localhost:8000/v1/chat/completions")
    (' Did you mean https://openrouter.ai/api/v1?', ' Did you mean http://localhost:8000/v1?')
    """
    parts = urlsplit(url)
    path = next((path for host, path in VENDOR_PATHS.items() if (parts.hostname or "").endswith(host)), None)
    if path is None:
        path = parts.path.removesuffix("/chat/completions").rstrip("/") or "/v1"
    meant = parts._replace(path=path).geturl()
    return "" if meant == url.rstrip("/") else f" Did you mean {meant}?"


def https_hint(url: str) -> str:
    """Return advice for a server that does not speak plain HTTP, as the end of a sentence; empty for https addresses.

    >>> https_hint("http://host/v1"), https_hint("https://host/v1")
    ('. If it speaks HTTPS, write https:// in base_url (--base-url)', '')
    """
    return ". If it speaks HTTPS, write https:// in base_url (--base-url)" if url.startswith("http:") else ""


def proxy_for(url: str) -> str:
    """Return the proxy that the environment names for an address, and the variable; empty if there is none."""
    if (proxy := _proxy_of(url)) is None:
        return ""
    kind, address = proxy
    return f"the proxy {address.rpartition('@')[2]} ({kind.upper()}_PROXY)"  # without user and password


def _proxy_of(url: str) -> tuple[str, str] | None:
    """Return the scheme and the address of the proxy that the environment names for an address, or None."""
    parts, proxies = urlsplit(url), getproxies()
    kind = next((kind for kind in (parts.scheme, "all") if proxies.get(kind)), None)
    return None if kind is None or proxy_bypass(parts.hostname or "") else (kind, proxies[kind])


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine.

    >>> is_loopback("http://127.0.0.1:8000/v1"), is_loopback("https://example.org/v1")
    (True, False)
    """
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")


def is_openai(url: str) -> bool:
    """Return whether an address is OpenAI's own."""
    host = urlsplit(url).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")
