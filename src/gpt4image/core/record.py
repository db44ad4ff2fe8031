"""Records: state and results stored as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write, read_json


class Record(BaseModel):
    """Base of immutable records. A file with an unknown or missing field is rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record from JSON. StoreError names the file and the invalid field."""
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise StoreError(
                f"{path}: field {where!r} does not match this version ({error.errors()[0]['msg']})."
            ) from None

    def save(self, path: Path) -> None:
        """Write the record as JSON, atomically."""
        with atomic_write(path) as file:
            file.write((self.model_dump_json(indent=2) + "\n").encode())


class ShareEstimate(Record):
    """An estimated share with its 95% confidence interval, each from 0 to 1."""

    mean: float
    low: float
    high: float
