"""Errors the user can fix, as one tree.

    Gpt4ImageError
    |-- ConfigError            an invalid setting or combination of settings
    |   `-- WeightsError       pretrained weights are not available here
    |-- DataError              the image set cannot be used
    |   |-- ImageError         one image cannot be used
    |   |-- DescriptionError   the descriptions do not fit the images
    |   `-- StoreError         a file on disk is missing, broken or made with different settings
    |-- DescribeError          no image can be described: no server, wrong key, unknown model, budget
    |-- TrainingError          training cannot continue
    |-- ExportError            an exported model's outputs differ from the trained one's
    |-- PushError              a push to the Hugging Face Hub failed
    |-- BusyError              another process uses the same files
    `-- MissingExtraError      an optional library is not installed

Every message names what is wrong (file, row, value) and what to do about it. Any other exception is a bug.
"""

from collections.abc import Iterator

from gpt4image.core.invocation import in_users_words, install_command


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none.

    >>> first_line(FileNotFoundError())
    'FileNotFoundError'
    """
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its chain of causes."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or cause.__context__


class Gpt4ImageError(Exception):
    """Base of every error this library raises on purpose."""

    def __str__(self) -> str:
        return in_users_words(super().__str__())


class ConfigError(Gpt4ImageError):
    """An invalid setting or combination of settings."""


class WeightsError(ConfigError):
    """Pretrained weights are not available here."""


class DataError(Gpt4ImageError):
    """The image set cannot be used."""


class ImageError(DataError):
    """One image cannot be read."""


class DescriptionError(DataError):
    """The descriptions do not fit the images."""


class StoreError(DataError):
    """A file on disk is missing, broken or was created with different settings."""


class DescribeError(Gpt4ImageError):
    """No image can be described."""


class TrainingError(Gpt4ImageError):
    """Training cannot continue."""


class ExportError(Gpt4ImageError):
    """An exported model's outputs differ from those of the trained model."""


class PushError(Gpt4ImageError):
    """A push to the Hugging Face Hub failed."""


class BusyError(Gpt4ImageError):
    """Another process uses the same files."""


class MissingExtraError(Gpt4ImageError):
    """An optional library is not installed; the message contains the command to install it."""

    def __init__(self, library: str, extra: str | None, purpose: str) -> None:
        command = install_command(f"gpt4image[{extra}]" if extra else library)
        super().__init__(f"{purpose} needs {library}, which is not installed. Install it: {command}")
