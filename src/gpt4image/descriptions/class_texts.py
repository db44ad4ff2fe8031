"""Texts for classes, which a text encoder compares with descriptions and from which a model picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gpt4image.core.errors import ConfigError
from gpt4image.core.format import counted
from gpt4image.core.tables import LABEL_COLUMNS, TEXT_COLUMNS, Table, compose, is_missing, is_table, pick_column

if TYPE_CHECKING:
    from gpt4image.images import ImageTable

TEMPLATE = "a picture of {}"  # of a class without texts


class Encodes(Protocol):
    """Anything that turns texts into vectors, such as a text encoder."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts, float32 [N, D]."""
        ...


@dataclass(frozen=True)
class ClassTexts:
    """Texts that describe the classes.

    Attributes:
        names: names of the C classes.
        texts: texts of each class, at least one.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    @classmethod
    def of_names(cls, names: Sequence[str]) -> ClassTexts:
        """Describe classes by their names alone.

        >>> ClassTexts.of_names(["fire_truck"]).texts
        (('a picture of fire truck',),)
        """
        return cls(tuple(names), tuple((TEMPLATE.format(name.replace("_", " ")),) for name in names))

    @classmethod
    def read(cls, path: Path) -> ClassTexts:
        """Read a file of classes.

        A table (CSV, TSV, JSON Lines, Parquet) has a column `class` or `label`, and may have a column `text` or
        `description`; several rows of a class give it several texts. Any other file holds one name per line.

        Raises:
            ConfigError: the file cannot be read, or names fewer than two classes.
            DataError: a row of a table cannot be read.
        """
        found: dict[str, list[str]] = {}
        for name, text in _rows(path):
            own = found.setdefault(name, [])
            if text and text not in own:
                own.append(text)
        if len(found) < 2:
            raise ConfigError(
                f"{path} names {counted(len(found), 'class')}, and labelling needs two: one name per line."
            )
        named = cls.of_names(list(found))
        texts = (tuple(own) or default for own, default in zip(found.values(), named.texts, strict=True))
        return cls(named.names, tuple(texts))

    def in_order(self, classes: Sequence[str], source: str) -> ClassTexts:
        """Return the texts in the order of the images' classes. ConfigError if the classes differ."""
        by_name, wanted = dict(zip(map(compose, self.names), self.texts, strict=True)), list(map(compose, classes))
        missing, unknown = sorted(set(wanted) - by_name.keys()), sorted(by_name.keys() - set(wanted))
        if missing or unknown:
            wrong = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, but no image has this label"
            raise ConfigError(
                f"The file of classes {wrong}. Classes of {source}: {', '.join(classes[:20])}. Use the same names."
            )
        return ClassTexts(tuple(classes), tuple(by_name[name] for name in wanted))

    def written(self, name: str) -> tuple[str, ...]:
        """Return the texts of a class besides its name."""
        own = dict(zip(self.names, self.texts, strict=True))[name]
        return () if own == self.of_names([name]).texts[0] else own

    def embed(self, encoders: Sequence[Encodes]) -> tuple[np.ndarray, np.ndarray]:
        """Embed the texts.

        Returns:
            The unit vectors of several encoders side by side, float32 [K, D], and the class of each, int64 [K].
        """
        texts = [text for own in self.texts for text in own]
        vectors = np.concatenate([encoder.encode(texts) for encoder in encoders], axis=1)
        return vectors.astype(np.float32), np.repeat(np.arange(len(self.names)), [len(own) for own in self.texts])


def with_named_classes(images: ImageTable, file: Path | None) -> ImageTable:
    """Return images with the classes that a file names, if fewer than two classes have labelled images.

    Raises:
        ConfigError: there are fewer than two, and no file.
        DataError: an image has a label that the file lacks.
    """
    if images.has_label_sets or len(images.classes) > 1:
        return images
    if file is None:
        raise ConfigError(
            f"{images.source} has labelled images of {counted(len(images.classes), 'class')}: name all classes in a "
            "file with classes (--classes FILE), one per line."
        )
    return images.with_classes(ClassTexts.read(file).names)


def _rows(path: Path) -> list[tuple[str, str | None]]:
    """Return name and text of each row of a file of classes."""
    if not path.is_file():
        raise ConfigError(f"The file of classes {path} does not exist.")
    if not is_table(path):
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from None
        return [(line.strip(), None) for line in lines if line.strip()]
    table = Table(path)
    columns = table.columns()
    name, text = pick_column(columns, None, LABEL_COLUMNS), pick_column(columns, None, TEXT_COLUMNS)
    if name is None:
        raise ConfigError(f"{path} has no column 'class' or 'label'. Columns: {', '.join(columns) or 'none'}.")
    rows = []
    for number, row in table.rows():
        if is_missing(row.get(name)):
            raise ConfigError(f"{table.where(number)}: the class has no name.")
        said = None if text is None or is_missing(row.get(text)) else str(row[text]).strip()
        rows.append((str(row[name]).strip(), said))
    return rows
