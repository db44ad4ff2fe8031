"""Clips in class folders: video files, and folders of numbered frames; with or without split folders above them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt4image.core.console import say
from gpt4image.core.errors import DataError, ImageError
from gpt4image.core.files import digest
from gpt4image.images.clips import FrameChoice, cut, encode_frame, middles, pack_frames, unpack_frames
from gpt4image.images.decode import IMAGE_SUFFIXES, MAX_PIXELS, decode
from gpt4image.images.sources.folders import (
    FoundFile,
    holds_images,
    is_hidden,
    refuse_splits_as_classes,
    split_folders,
    subfolders,
    walk,
)
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder, is_unlabelled, key_of
from gpt4image.images.splits import UNLABELLED
from gpt4image.images.video import GREY_SIDE, VIDEO_SUFFIXES, read_clip

if TYPE_CHECKING:
    from PIL import Image

KEPT = "clips"  # folder of stored frames, inside the images folder of a work directory


class FoundClip(NamedTuple):
    """A video file or a folder of frames.

    Attributes:
        path: relative to the root, with slashes.
        key: changes when it does.
        fault: why it cannot be read, if that is known.
        is_clip: whether it is a clip; `fault` says what else it is.
    """

    path: str
    key: bytes
    fault: str = ""
    is_clip: bool = True


def holds_clips_only(root: Path) -> bool:
    """Whether a folder holds video files and no images."""
    if holds_images(root):  # in a set of images, the first file shows it
        return False
    return any(is_video(found.path) and not found.path.endswith(".gif") for found in walk(root))


def is_video(path: str) -> bool:
    """Whether a file's name is that of a video."""
    return Path(path).suffix.casefold() in VIDEO_SUFFIXES


def list_clips(root: Path, _files: Sequence[Path], columns: ColumnNames, kept: Path | None) -> Listing:
    """List a folder of class folders with clips.

    Raises:
        DataError: there are no clips in class folders.
    """
    choice = columns.frames or FrameChoice()
    divisions = (split_folders(root) or {"": "train"}) if columns.labelled else {"": UNLABELLED}
    if divisions.get("") == "train":
        refuse_splits_as_classes(root)
    builder = ListingBuilder()
    for folder, split in divisions.items():
        clips = find_clips(root, folder, in_classes=split != UNLABELLED)
        for name, found in sorted((_class_of(found.path, folder), found) for found in clips):
            if not found.is_clip:
                builder.ignore(found.path, found.fault)
            elif found.fault:
                builder.reject(found.path, found.fault)
            elif not name and split != UNLABELLED:
                builder.ignore(found.path, "is not in a class folder")
            else:
                builder.add(found.path, name, split, len(builder.images), found.key)
    if not builder.images:
        raise DataError(
            f"{root} has no clips in class folders. Put the clips of each class into its own folder (jump/1.mp4, "
            "run/2.mp4; or of frames: jump/1/001.jpg), inside train/, val/ and test/ if there are splits."
        )
    keys = {path: key.hex() for path, _, _, _, key in builder.images}
    reader = ClipReader(
        root,
        choice,
        keys,
        None if kept is None else kept / KEPT / choice.name.replace(" ", "-"),
        max_pixels=columns.max_pixels,
    )
    listing = replace(builder.listing(reader, by_number=False), folders=True, frames=choice)
    folders = {name for folder, split in divisions.items() if split != UNLABELLED for name in subfolders(root / folder)}
    if empty := {name for name in folders - set(listing.classes) if columns.labelled and not is_unlabelled(name)}:
        say(f"Folders without a clip are not used as classes: {', '.join(sorted(empty))}.")
    return listing


def _class_of(path: str, folder: str) -> str:
    """Return the class folder that a clip lies in, below a split folder; empty if it lies in none."""
    inner = path.removeprefix(folder).removeprefix("/")
    return inner.partition("/")[0] if "/" in inner else ""


def find_clips(root: Path, below: str = "", *, in_classes: bool = True) -> Iterator[FoundClip]:
    """Yield the clips below `root / below`, and with a fault what is none.

    A folder with images is one clip, and one without anything inside is an empty clip; but not `root / below` itself,
    nor with `in_classes` the folders in it, which are those of classes.
    """

    def is_inside(folder: str) -> bool:
        inner = folder.removeprefix(below).removeprefix("/")
        return "/" in inner if in_classes else inner not in ("", ".")

    folders: dict[str, list[FoundFile]] = {}
    for found in walk(root, below):
        suffix = Path(found.path).suffix.casefold()
        if suffix in VIDEO_SUFFIXES:
            yield FoundClip(found.path, found.key, found.fault)
        elif suffix in IMAGE_SUFFIXES:
            folders.setdefault(found.path.rpartition("/")[0], []).append(found)
        else:
            yield FoundClip(found.path, b"", f"not a clip (suffix {suffix or 'none'})", is_clip=False)
    for folder, frames in folders.items():
        if is_inside(folder):
            yield frame_folder(root, folder, frames)
        else:
            for found in frames:
                yield FoundClip(found.path, b"", "a picture outside any folder of frames", is_clip=False)
    for place, inner, files in os.walk(root / below):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        path = Path(place).relative_to(root).as_posix()
        if not inner and all(map(is_hidden, files)) and is_inside(path):
            yield FoundClip(path, b"", "an empty folder without frames")


def frame_folder(root: Path, folder: str, frames: Sequence[FoundFile]) -> FoundClip:
    """Return a folder of frames as a clip."""
    for found in frames:
        if found.fault:
            return FoundClip(folder, b"", f"{found.path.removeprefix(folder + '/')}: {found.fault}")
    return FoundClip(folder, key_of(str(root.resolve()), *sorted(found.key.hex() for found in frames)))


def frame_order(name: str) -> list[tuple[bool, int, str]]:
    """Return the key by which frames are sorted: numbers in their names by value.

    >>> sorted(["f10.png", "f9.png", "f9b.png"], key=frame_order)
    ['f9.png', 'f9b.png', 'f10.png']
    """
    parts = re.split(r"(\d+)", Path(name).stem)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def frame_files(folder: Path) -> list[Path]:
    """Return the frames of a folder in the order of time; a GIF next to them is a clip of its own."""
    suffixes = IMAGE_SUFFIXES - VIDEO_SUFFIXES
    files = (file for file in folder.iterdir() if file.suffix.casefold() in suffixes and not is_hidden(file.name))
    return sorted(files, key=lambda file: (frame_order(file.name), file.name))


def make_frames(place: Path, name: str, choice: FrameChoice, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the chosen frames of a clip in one piece (`pack_frames`), with its id.

    Args:
        place: a video file or a folder of frames.
        name: what messages call it.
        choice: which frames.
        max_pixels: the largest width x height of a frame that is decoded.

    Raises:
        ImageError: names the clip and says why it cannot be read.
        MissingExtraError: it is a video file, and PyAV is not installed.
    """
    try:
        if not place.is_dir():
            with place.open("rb") as file:
                clip_id = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            pictures = read_clip(place, name, choice, max_pixels)
        else:
            files = frame_files(place)
            if not files:
                raise ImageError(f"{name}: an empty folder without frames")
            clip_id = digest(*(hashlib.blake2b(file.read_bytes()).digest() for file in files))
            pictures = [_read_frame(file, name, max_pixels) for file in _chosen(files, name, choice, max_pixels)]
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror or error})") from error
    return pack_frames(clip_id, [encode_frame(picture, choice.side) for picture in pictures])


def _chosen(files: Sequence[Path], name: str, choice: FrameChoice, max_pixels: int) -> list[Path]:
    """Return the chosen ones of a folder's frames."""
    if choice.rule == "even":
        return [files[position] for position in choice.positions(len(files))]
    small = (_read_frame(file, name, max_pixels).convert("L").resize((GREY_SIDE, GREY_SIDE)) for file in files)
    pairs = pairwise(np.asarray(grey, np.float32) for grey in small)
    changes = np.array([np.abs(after - before).mean() for before, after in pairs])
    return [files[position] for position in middles(cut(changes, choice.count))]


def _read_frame(file: Path, name: str, max_pixels: int) -> Image.Image:
    return decode(file.read_bytes(), f"{name}/{file.name}", max_pixels)


@dataclass(frozen=True)
class ClipReader:
    """Reads the chosen frames of clips below a folder, which are made once and then kept.

    Attributes:
        root: the folder.
        choice: which frames.
        keys: for each clip what changes when it does, 32 hex digits.
        kept: folder of kept frames; None makes them anew each time.
        max_pixels: the largest width x height of a frame that is decoded.
    """

    root: Path
    choice: FrameChoice
    keys: Mapping[str, str]
    kept: Path | None = None
    max_pixels: int = MAX_PIXELS
    text_columns: tuple[str, ...] = ()

    def read(self, path: str, row: int) -> bytes:
        """Return the chosen frames of a clip (`pack_frames`). ImageError names the clip if they cannot be read."""
        if self.kept is None:
            return make_frames(self.root / path, path, self.choice, self.max_pixels)
        key = self.keys[path]
        file = self.kept / key[:2] / f"{key}.frames"
        try:
            data = file.read_bytes()
            unpack_frames(data, path)  # complete, unless the machine crashed: writing does not wait for the disk
        except (FileNotFoundError, ImageError):
            data = make_frames(self.root / path, path, self.choice, self.max_pixels)
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
            draft.write_bytes(data)
            draft.replace(file)
        return data

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """Return a text column; folders of clips have none."""
        raise KeyError(column)
