"""Tiny clips: coloured squares that move, as video files and as folders of frames, and some that are broken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE, LENGTH = 48, 12
CLASSES = {"down": (0, 1), "left": (-1, 0), "right": (1, 0)}
COLOURS = {"down": "crimson", "left": "seagreen", "right": "royalblue"}


def draw_clip(name: str, seed: int = 0, length: int = LENGTH) -> list[Image.Image]:
    """Draw a square of a class's colour that moves the way of its class."""
    generator = np.random.default_rng([seed, len(name)])
    x, y = generator.integers(14, 22, 2)
    frames = []
    for at in range(length):
        frame = Image.new("RGB", (SIZE, SIZE), (235, 235, 225))
        across, down = (start + step * at for start, step in zip((x, y), CLASSES[name], strict=True))
        ImageDraw.Draw(frame).rectangle((across, down, across + 10, down + 10), fill=COLOURS[name])
        frames.append(frame)
    return frames


def write_video(path: Path, frames: Sequence[Image.Image], codec: str = "mpeg4", **options: str) -> Path:
    """Write a video file, 25 frames a second."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, frames: Sequence[Image.Image]) -> Path:
    """Write a folder of frames, numbered without leading zeros."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        frame.save(folder / f"frame{number}.png")
    return folder


def write_clip_set(root: Path, each: int = 6) -> Path:
    """Write a folder of clips nobody prepared: files and folders of frames in class folders, three of them broken."""
    for name in CLASSES:
        for number in range(each):
            frames = draw_clip(name, number)
            if number % 3 == 2:
                write_frames(root / name / f"clip{number}", frames)
            else:
                write_video(root / name / f"{number}.{'mp4' if number % 3 else 'avi'}", frames)
    whole = (root / "left" / "1.mp4").read_bytes()
    (root / "left" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "right" / "empty.mp4").write_bytes(b"")
    (root / "down" / "nothing").mkdir()
    (root / "down" / "notes.txt").write_text("no clip")
    return root
