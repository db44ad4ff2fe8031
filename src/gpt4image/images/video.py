"""Frames of video files, read by PyAV.

Frames are found by their time, for which a file is first read without being decoded; what lies between them is only
decoded from the key frame before. A file whose times do not lead to its frames is decoded from its start.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt4image.core.errors import ImageError, MissingExtraError
from gpt4image.images.clips import FrameChoice, cut, middles
from gpt4image.images.decode import MAX_PIXELS, check_size

if TYPE_CHECKING:
    from PIL import Image

_SUFFIXES = (
    "mp4 m4v mov qt avi mkv webm mpg mpeg m1v m2v mp2v mpv ts m2ts mts m2t wmv asf flv f4v 3gp 3g2 ogv ogm vob mxf "
    "y4m dv divx rm rmvb nut amv mjpg mjpeg h264 h265 hevc ivf gif"
)
VIDEO_SUFFIXES = frozenset("." + suffix for suffix in _SUFFIXES.split())
ALONE = {"protocol_whitelist": "none"}  # a playlist with the name of a clip must not open other files or addresses
CUT_OFF = 0.9  # share of the frames or seconds announced by a file, below which it counts as truncated
# Formats whose files state their seconds. FFmpeg guesses those of most others from the data that it finds.
TIMED_FORMATS = frozenset({"matroska,webm", "flv"})
GREY_SIDE = 32  # side of the frames whose differences reveal scene changes


def read_clip(file: Path, name: str, choice: FrameChoice, max_pixels: int = MAX_PIXELS) -> list[Image.Image]:
    """Return the chosen frames of a video file as a person would see them: upright, 8-bit RGB.

    Args:
        file: the file.
        name: what messages call it.
        choice: which frames.
        max_pixels: the largest width x height of a frame that is decoded.

    Raises:
        ImageError: names the clip and says why it cannot be read.
        MissingExtraError: PyAV is not installed.
    """
    with _open(file, name) as (_, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        for shown in (width, math.ceil(width * float(stream.sample_aspect_ratio or 1))):
            check_size(shown, max(1, height), name, max_pixels)
    times = frame_times(file, name)
    if choice.rule == "even" and times.all:
        wanted = [times.all[position] for position in choice.positions(len(times.all))]
        with suppress(ImageError):  # the times may be wrong, or seeking may be impossible: decode everything
            return find_frames(file, name, wanted, times.keys, choice.side)
    changes = measure_changes(file, name)
    by_cuts = choice.rule == "scene"
    wanted = middles(cut(changes, choice.count)) if by_cuts else choice.positions(len(changes) + 1)
    with _open(file, name) as (container, stream):
        numbered = enumerate(container.decode(stream))
        chosen = {number: _picture(frame, stream, choice.side) for number, frame in _until(numbered, wanted)}
    return [chosen[number] for number in wanted]


class FrameTimes:
    """Times of the frames of a file, in its own units.

    Attributes:
        all: those of all frames in order; empty if the file does not tell.
        keys: those of key frames, from which decoding can start.
    """

    def __init__(self, packets: Sequence[tuple[int | None, bool]]) -> None:
        times = [time for time, _ in packets if time is not None]
        complete = len(set(times)) == len(packets)
        self.all = sorted(times) if complete else []
        self.keys = sorted(time for time, key in packets if key and time is not None)


def frame_times(file: Path, name: str) -> FrameTimes:
    """Return the times of a file's frames, which is read but not decoded. ImageError if it is seen to be cut off."""
    packets, end = [], 0.0
    with _open(file, name) as (container, stream):
        for packet in container.demux():  # including sound, which may last longer
            if packet.size and packet.stream_index == stream.index:
                packets.append((packet.pts, packet.is_keyframe))
            if packet.size and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        announced, kind = stream.frames, container.format.name
        seconds = (container.duration or 0) / 1e6 if kind in TIMED_FORMATS else 0.0
        last = float(1 / stream.average_rate) if kind == "flv" and stream.average_rate else 0.0  # FLV does not state it
    if kind == "gif" and is_cut_gif(file):
        raise ImageError(f"{name}: the file is cut off: it ends inside a frame")
    if len(packets) < CUT_OFF * announced:
        raise ImageError(f"{name}: the file is cut off: it has {len(packets):,} of {announced:,} frames")
    if end + last < CUT_OFF * seconds:
        raise ImageError(f"{name}: the file is cut off: {end:.1f} of {seconds:.1f} seconds are there")
    return FrameTimes(packets)


def is_cut_gif(file: Path) -> bool:
    """Whether a GIF ends inside a block. Its frames say how long they last, and nothing how many there are."""

    def skip_table(flags: int) -> None:
        opened.seek(3 << (flags & 7) + 1 if flags & 0x80 else 0, os.SEEK_CUR)

    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(13)  # signature, size of the screen, and flags that say whether a colour table follows
        if len(head) < 13:
            return True
        skip_table(head[10])
        while (kind := opened.read(1)) in (b"!", b","):
            head = opened.read(1 if kind == b"!" else 9)  # label of an extension; place, size and flags of a frame
            if kind == b"," and len(head) == 9:
                skip_table(head[8])
                opened.seek(1, os.SEEK_CUR)  # width of the codes
            while length := opened.read(1):
                if length == b"\0":
                    break
                opened.seek(length[0], os.SEEK_CUR)
            else:
                return True
        return opened.tell() > size


def find_frames(file: Path, name: str, wanted: Sequence[int], keys: Sequence[int], side: int) -> list[Image.Image]:
    """Return the frames of some times, in their order, decoding from the key frame before each.

    Raises:
        ImageError: one is not found there.
    """
    found: list[Image.Image] = []
    with _open(file, name) as (container, stream):
        frames, at = container.decode(stream), None
        for time in wanted:
            before = bisect_right(keys, time) - 1
            key = keys[before] if before > 0 else None
            if key is not None and (at is None or key > at):
                container.seek(key, stream=stream)
                frames = container.decode(stream)
            for frame in frames:
                at = frame.pts
                if at is None or at >= time:
                    break
            if at != time:
                raise ImageError(f"{name}: has no frame at time {time} (in its own units)")
            found.append(_picture(frame, stream, side))
    return found


def measure_changes(file: Path, name: str) -> np.ndarray:
    """Return the mean absolute difference of grey between each frame and the one before it, from 0 to 255, [N - 1]."""
    changes, before = [], None
    with _open(file, name) as (container, stream):
        for frame in container.decode(stream):
            grey = frame.to_ndarray(format="gray", width=GREY_SIDE, height=GREY_SIDE).astype(np.float32)
            if before is not None:
                changes.append(float(np.abs(grey - before).mean()))
            before = grey
    if before is None:
        raise ImageError(f"{name}: has no decodable frame")
    return np.array(changes)


def _until(numbered: Iterator[tuple[int, Any]], wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield those of numbered frames that are wanted, and decode none after the last."""
    chosen = set(wanted)
    for number, frame in numbered:
        if number in chosen:
            yield number, frame
            chosen.remove(number)
        if not chosen:
            return


def _picture(frame: Any, stream: Any, side: int) -> Image.Image:  # noqa: ANN401 - of an optional library
    """Return a frame as a picture, no larger than it needs to be."""
    width, height = frame.width * float(stream.sample_aspect_ratio or 1), frame.height
    scale = min(1.0, side / max(width, height)) if side else 1.0
    size = {"width": max(1, round(width * scale)), "height": max(1, round(height * scale))}
    picture: Image.Image = frame.to_image(**size, interpolation="BICUBIC")
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


@contextmanager
def _open(file: Path, name: str) -> Iterator[tuple[Any, Any]]:
    """Open a file's container and its first video stream; whatever PyAV raises meanwhile becomes an ImageError."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "Reading clips") from None
    try:
        if not file.stat().st_size:
            raise ImageError(f"{name}: the file is empty (0 bytes)")
        with file.open("rb") as opened, av.open(opened, options=ALONE) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise ImageError(f"{name}: cannot be decoded: it has no video, or is incomplete")
            yield container, stream
    except ImageError:
        raise
    except (av.FFmpegError, OSError, ValueError, EOFError, ArithmeticError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name}: cannot be decoded: {reason}") from error
