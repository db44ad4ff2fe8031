"""Everything that can go wrong in a way the user can mend, as one tree.

    Gpt4ImageError
    |-- ConfigError            a setting that does not exist or cannot be meant
    |-- DataError              the image set as a whole cannot be used
    |   |-- ImageError         one image cannot be used
    |   |-- DescriptionError   the descriptions do not fit the images
    |   `-- StoreError         something on disk does not fit what is asked of it
    |-- DescribeError          no description can be written: no server, wrong key, unknown model, budget
    |-- TrainingError          training cannot go on
    |-- ExportError            an exported model does not answer as the trained one
    |-- BusyError              another process is at work in the same place
    `-- MissingExtraError      an optional library is not installed

Every message names what was wrong (file, row, value) and what to do about it. Anything else that is
raised is a defect of this library.
"""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none.

    >>> first_line(FileNotFoundError())
    'FileNotFoundError'
    """
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class Gpt4ImageError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigError(Gpt4ImageError):
    """A setting that does not exist, or a value or combination that cannot be meant."""


class DataError(Gpt4ImageError):
    """The image set as a whole cannot be used."""


class ImageError(DataError):
    """One image cannot be read as a picture."""


class DescriptionError(DataError):
    """The descriptions do not fit the images."""


class StoreError(DataError):
    """Something stored on disk does not fit what is asked of it."""


class DescribeError(Gpt4ImageError):
    """No description can be written, whatever the image."""


class TrainingError(Gpt4ImageError):
    """Training cannot go on."""


class ExportError(Gpt4ImageError):
    """An exported model does not answer as the trained one does."""


class BusyError(Gpt4ImageError):
    """Another process is at work in the same place."""


class MissingExtraError(Gpt4ImageError):
    """An optional library is not installed; the message holds the command that installs it."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed. Install it: pip install 'gpt4image[{extra}]'"
        )
