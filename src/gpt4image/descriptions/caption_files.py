"""Caption files of other tools: COCO, LLaVA, JSON mappings, and TextTeacher's lists.

All are keyed by the image's path or file name, which seldom has the same form as in the image set, so
`descriptions.readers` also joins them by the end of the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt4image.core.errors import DescriptionError
from gpt4image.core.files import read_brought_json
from gpt4image.core.tables import PATH_COLUMNS, TEXT_COLUMNS, Table, is_missing, pick_column

JSON_SUFFIX = ".json"
LISTED = re.compile(r"([^\t\r\n]+):\t(.*)")  # TextTeacher: name of the file, colon, tab, caption
ANSWERING = ("gpt", "assistant")  # who speaks the description in a conversation
CONVERSATIONS = ("conversations", "messages")

Caption = tuple[str, str]  # path of the image, text


def is_caption_file(path: Path) -> bool:
    """Whether a file holds captions in the form of another tool rather than a table."""
    if path.suffix.casefold() == JSON_SUFFIX:
        return True
    if path.suffix.casefold() in (".jsonl", ".ndjson"):
        return any(name in CONVERSATIONS for name in Table(path, DescriptionError).columns())
    if path.suffix.casefold() not in (".csv", ".tsv", ".txt"):
        return False
    with path.open("rb") as file:
        return LISTED.match(file.readline().decode("utf-8", "replace")) is not None


def read_captions(path: Path, text_column: str | None) -> Iterator[Caption]:
    """Yield (image path, text) from a caption file, with one pair per caption.

    - COCO captions: `images` with `id` and `file_name`, `annotations` with `image_id` and `caption`.
    - LLaVA: records with `image` and `conversations` (or `messages`), JSON or JSON Lines. The answers of a
      conversation are one text.
    - a mapping from path to a caption or a list of captions, or a list of records with a path and a text.
    - TextTeacher (arXiv 2605.22098): lines of file name, colon, tab and caption.

    Args:
        path: the file.
        text_column: key of the text in a record, if it is not called text, description or caption.

    Raises:
        DescriptionError: the file is broken or has an unknown form; the message names the record or line.
    """
    if path.suffix.casefold() == JSON_SUFFIX:
        yield from _from_json(path, read_brought_json(path, DescriptionError), text_column)
    elif path.suffix.casefold() in (".jsonl", ".ndjson"):
        table = Table(path, DescriptionError)
        for number, row in table.rows():
            yield from _from_record(row, table.where(number), text_column)
    else:
        with path.open(encoding="utf-8-sig", errors="strict") as file:
            for number, line in enumerate(file, 1):
                found = LISTED.match(line)
                if found is not None:
                    yield found[1], found[2]
                elif line.strip():
                    raise DescriptionError(
                        f"{path}, line {number}: expected a file name, a colon, a tab and a caption."
                    )


def _from_json(path: Path, found: Any, text_column: str | None) -> Iterator[Caption]:  # noqa: ANN401 - any JSON
    match found:
        case {"images": list(), "annotations": list()}:
            yield from _from_coco(path, found)
        case list():
            for number, record in enumerate(found, 1):
                yield from _from_record(record, f"{path}, record {number}", text_column)
        case dict():
            for name, texts in found.items():
                for text in texts if isinstance(texts, list) else [texts]:
                    if not isinstance(text, str):
                        raise DescriptionError(f"{path}, {name!r}: a caption must be text, not {type(text).__name__}.")
                    yield name, text
        case _:
            raise DescriptionError(f"{path} holds {type(found).__name__}, not captions.")


def _from_coco(path: Path, found: Mapping[str, list[dict[str, Any]]]) -> Iterator[Caption]:
    try:
        names = {image["id"]: str(image["file_name"]) for image in found["images"]}
        for number, annotation in enumerate(found["annotations"], 1):
            if "caption" not in annotation:
                raise DescriptionError(
                    f"{path}, annotation {number} has no caption: it has {', '.join(annotation)}. COCO's captions are "
                    "in separate files, such as captions_train2017.json."
                )
            yield names[annotation["image_id"]], str(annotation["caption"])
    except (KeyError, TypeError) as error:
        raise DescriptionError(f"{path} is not a COCO caption file: {error!r} is missing.") from None


def _from_record(record: object, where: str, text_column: str | None) -> Iterator[Caption]:
    if not isinstance(record, dict):
        raise DescriptionError(f"{where} is not an object but {type(record).__name__}.")
    names = list(record)
    key = pick_column(names, None, PATH_COLUMNS) or pick_column(names, None, ("images",))
    image = record[key] if key is not None else None
    if isinstance(image, list) and len(image) == 1:
        (image,) = image
    if isinstance(image, list) or image is None:
        return  # a record with several images, or with none
    talk = pick_column(names, None, CONVERSATIONS) if text_column is None else None
    column = talk or pick_column(names, text_column, TEXT_COLUMNS, "text_column (--text-column)")
    if column is None or not isinstance(image, str):
        raise DescriptionError(
            f"{where}: needs the path of an image ({', '.join(PATH_COLUMNS)}) and a text ({', '.join(TEXT_COLUMNS)}) "
            f"or {' or '.join(CONVERSATIONS)}; it has {', '.join(names)}."
        )
    texts = record[column]
    if talk:
        texts = " ".join(_answers(texts, where))
    for text in texts if isinstance(texts, list) else [texts]:
        yield image, "" if is_missing(text) else str(text)


def _answers(turns: object, where: str) -> Iterator[str]:
    for turn in turns if isinstance(turns, list) else [turns]:
        if not isinstance(turn, dict):
            raise DescriptionError(f"{where}: a turn of a conversation is not an object.")
        if turn.get("from", turn.get("role")) in ANSWERING:
            said = turn.get("value", turn.get("content"))
            parts = said if isinstance(said, list) else [{"text": said}]
            yield from (str(part["text"]).strip() for part in parts if isinstance(part, dict) and part.get("text"))
