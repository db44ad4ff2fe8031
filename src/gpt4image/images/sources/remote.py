"""Sources at an address (S3, Google Cloud Storage, HTTP and everything that fsspec supports), downloaded once.

Training reads every image many times, so files are downloaded into the work directory and then used like any local
source. A killed download resumes; changed files are downloaded again, except images named one by one in a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from gpt4image.core.console import progress, say
from gpt4image.core.errors import ConfigError, DataError, MissingExtraError, first_line
from gpt4image.core.files import atomic_write, digest, read_json, write_json
from gpt4image.core.format import counted
from gpt4image.core.hub import HUB_PREFIX

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)(::[a-z][a-z0-9+.:-]*)*://", re.IGNORECASE)
DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
CHUNK = 1 << 20
CONNECTIONS = 16  # images of a table that are fetched at a time
MEGABYTE = 1e6


def is_address(source: str | Path) -> bool:
    """Whether a source is an address rather than a path or a name.

    >>> is_address("s3://bucket/photos"), is_address("hf:cifar10"), is_address("photos"), is_address("C:/photos")
    (True, False, False, False)
    """
    return ADDRESS.match(str(source)) is not None and not str(source).startswith(HUB_PREFIX)


def fetch_source(address: str, folder: Path) -> Path:
    """Fetch a folder or a file into a folder of its own below `folder`.

    Args:
        address: such as `s3://bucket/photos` or `https://host/photos.tar`. Keys and endpoints come from where the
            library of the service looks for them, such as AWS_ACCESS_KEY_ID, or from fsspec's configuration files.
        folder: keeps what is fetched.

    Returns:
        The path here, of a folder if the address is one.

    Raises:
        DataError: nothing is there, or the service does not answer.
        MissingExtraError: the library for the service is not installed.
    """
    system, root = open_system(address)
    target = folder / digest(address)[:16]
    try:
        found = dict(_list_files(system, root))
    except (OSError, ValueError) as error:  # ValueError: no bucket in the address
        raise DataError(f"{_shown(address)} cannot be listed: {first_line(error)}") from error
    if not found:
        raise DataError(f"{_shown(address)} does not exist or is empty, or its server does not answer.")
    is_file = list(found) == [""]
    on_web = root.startswith(("http://", "https://"))  # names are escaped in such addresses
    names = {name: unquote(name) if on_web else name for name in found}
    if is_file:
        names = {"": PurePosixPath(urlsplit(root).path if on_web else root).name}
    states = read_json(target / "fetched.json") if (target / "fetched.json").exists() else {}
    left = [name for name in found if not _is_here(target / "files" / names[name], found[name], states.get(name))]
    if left:
        size = sum(int(found[name].get("size") or 0) for name in left) / MEGABYTE
        amount = f", {size:,.1f} MB" if size else ""
        say(f"downloading {counted(len(left), 'file')} of {len(found):,}{amount}, from {_shown(address)}")
    try:
        with progress("Downloading files", len(found), done=len(found) - len(left)) as meter:
            for number, name in enumerate(left):
                _fetch(system, f"{root.rstrip('/')}/{name}" if name else root, target / "files" / names[name])
                states[name] = _state(found[name])
                if number % 100 == 0:
                    write_json(target / "fetched.json", states)
                meter.advance()
    finally:
        if left:
            write_json(target / "fetched.json", states)
    for path in [path for path in (target / "files").rglob("*") if path.is_file()]:  # removed at the source
        if path.relative_to(target / "files").as_posix() not in names.values():
            path.unlink()
    return target / "files" / names[""] if is_file else target / "files"


def fetch_file(address: str, target: Path) -> Path:
    """Fetch one file. DataError if it does not exist."""
    system, path = open_system(address)
    _fetch(system, path, target)
    return target


def fetch_images(addresses: Iterable[str], folder: Path) -> dict[str, str]:
    """Fetch images that a table names one by one, each once, into the places of `place_of`.

    Args:
        addresses: their addresses.
        folder: keeps what is fetched.

    Returns:
        Why images could not be fetched, by address. They are tried again the next time.

    Raises:
        ConfigError: nothing opens addresses of this kind.
        MissingExtraError: the library for the service is not installed.
    """
    wanted = {address: place_of(address_name(address), folder) for address in dict.fromkeys(addresses)}
    left = {address: place for address, place in wanted.items() if not place.is_file()}
    for address in {address.partition("://")[0]: address for address in left}.values():
        open_system(address)
    faults = {}
    if left:
        say(f"downloading {counted(len(left), 'image')} of {len(wanted):,}, {CONNECTIONS} at a time")
    with progress("Downloading images", len(wanted), done=len(wanted) - len(left)) as meter:
        threads = ThreadPoolExecutor(CONNECTIONS)
        try:
            fetches = {threads.submit(fetch_file, address, place): address for address, place in left.items()}
            for fetch in as_completed(fetches):
                if isinstance(error := fetch.exception(), DataError):
                    faults[fetches[fetch]] = str(error).partition(" cannot be fetched: ")[2] or str(error)
                elif error is not None:
                    raise error
                meter.advance()
        finally:
            threads.shutdown(cancel_futures=True)
    return faults


def place_of(name: str, folder: Path) -> Path:
    """Return where `fetch_images` puts the image of an `address_name`."""
    hashed = digest(name)
    return folder / hashed[:2] / hashed


def address_name(address: str) -> str:
    """Return an address without user and password, and with a hash in place of its query, which may hold a key.

    >>> address_name("https://me:secret@host/1.jpg?key=secret")
    'https://host/1.jpg?72b4c4c8'
    """
    query = address.partition("?")[2]
    return f"{_shown(address)}?{digest(query)[:8]}" if query else _shown(address)


def open_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    import fsspec

    protocol = address.partition("://")[0].casefold()
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError:
        driver = DRIVERS.get(protocol)
        raise MissingExtraError(
            driver or f"the library for {protocol}", driver and "cloud", f"Reading {protocol}://"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{_shown(address)}: {first_line(error)}. Did you mean a path?") from None
    return system, path


def _list_files(system: Any, root: str) -> Iterator[tuple[str, Mapping[str, Any]]]:  # noqa: ANN401 - fsspec has no types
    """Yield the name relative to the root, "" for the root itself, and what the service says of each file."""
    start = root.rstrip("/") + "/"
    details = system.find(root, detail=True)
    if list(details) in ([root], [root.rstrip("/")]):
        yield "", next(iter(details.values()))
        return
    for path, info in sorted(details.items()):
        name = path.removeprefix(start).partition("?")[0]
        inside = PurePosixPath(unquote(name))
        # a server's listing must not lead to files outside the folder
        if path.startswith(start) and name and not inside.is_absolute() and ".." not in inside.parts:
            yield name, info


def _fetch(system: Any, path: str, target: Path) -> None:  # noqa: ANN401 - fsspec has no types
    try:
        with system.open(path, "rb") as source, atomic_write(target) as file:
            while block := source.read(CHUNK):
                file.write(block)
    except (OSError, ValueError) as error:
        raise DataError(f"{_shown(path)} cannot be fetched: {first_line(error)}") from error


def _state(info: Mapping[str, Any]) -> list[str]:
    """Return what changes when a file does, as far as the service says it."""
    known = ("size", "ETag", "etag", "md5Hash", "crc32c", "LastModified", "mtime", "updated")
    return [f"{name}={info[name]}" for name in known if info.get(name) is not None]


def _is_here(path: Path, info: Mapping[str, Any], state: list[str] | None) -> bool:
    return path.is_file() and state == _state(info)


def _shown(address: str) -> str:
    """Return an address without user, password and query, which may hold a key."""
    return re.sub(r"//[^/@]*@", "//", address).partition("?")[0]
