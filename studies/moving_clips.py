"""Build clips whose class is how something moves: cut-outs of clip art on varied backgrounds.

    python studies/moving_clips.py CLIPART OUT [--clips 360] [--size 96] [--frames 16] [--seed 0]
    gpt4image compare OUT --frames 8 --text OUT/descriptions.jsonl --backbone video:r3d_18 --image-size 64

CLIPART is an image set with classes, such as the examples of this package (`examples/clipart12`). In each clip one of
its pictures crosses the scene to the left or the right, falls, rises, grows or shrinks; what it shows says nothing of
the class, and the mean over frames does not tell left from right: their order does. OUT gets

- `SPLIT/MOVE/N.mp4`, every fourth as a folder of frames, and in each split a file that is cut off, an empty one and an
  empty folder, as sets have them that nobody prepared;
- `descriptions.jsonl`: for each clip what moves, and how.

Nothing is shown on these clips but that the method works.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from built_scenes import SHARES, background, cut_out
from PIL import Image

from gpt4image import ImageTable, load_images

MOVES = {
    "falls": "falls from the top to the bottom",
    "grows": "comes nearer and grows",
    "left": "crosses the picture to the left",
    "right": "crosses the picture to the right",
    "rises": "rises from the bottom to the top",
    "shrinks": "goes away and shrinks",
}
FOLDERS = 4  # every n-th clip is a folder of frames
SIDE = 0.4  # of what moves, in shares of the scene's
SIZES = (0.25, 0.7)  # of what grows or shrinks
RATE = 10  # frames a second


def build(source: ImageTable, out: Path, count: int, size: int, frames: int, seed: int) -> Path:
    """Write the clips.

    Args:
        source: images with classes.
        out: a new folder.
        count: number of clips.
        size: their height and width in pixels.
        frames: frames of a clip.
        seed: seed of all draws.
    """
    lines = []
    for at, (split, share) in enumerate(SHARES.items()):
        generator = np.random.default_rng([seed, at])
        rows = source.split(split)
        for number in range(round(share * count)):
            move = tuple(MOVES)[number % len(MOVES)]
            row = int(generator.choice(rows))
            made = animate(source.read(row), move, size, frames, generator)
            place = out / split / move / (f"{number:05}" if number // len(MOVES) % FOLDERS == 3 else f"{number:05}.mp4")
            (write_video if place.suffix else write_frames)(place, made)
            name = (source.label_of(row) or "thing").replace("_", " ")
            path = place.relative_to(out).as_posix()
            lines.append({"path": path, "text": f"A {name} {MOVES[move]}, on a patterned background."})
        spoil(out / split)
    (out / "descriptions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def animate(data: bytes, move: str, size: int, frames: int, generator: np.random.Generator) -> list[Image.Image]:
    """Return the frames of a clip in which a picture moves, with a little noise in its path."""
    scene, made = background(size, generator), []
    across = generator.uniform(0.15, 0.55)  # where the path lies
    for along in np.linspace(0, 1, frames):
        done = along if move in ("right", "falls", "grows") else 1 - along
        scaled = move in ("grows", "shrinks")
        side = SIZES[0] + (SIZES[1] - SIZES[0]) * done if scaled else SIDE
        picture, shape = cut_out(data, round(size * side))
        place = round(done * (size - round(size * SIDE)) + generator.normal(0, 1))
        left, top = (place, round(across * size)) if move in ("left", "right") else (round(across * size), place)
        if scaled:
            left, top = ((size - extent) // 2 for extent in picture.size)
        frame = scene.copy()
        frame.paste(picture, (left, top), Image.fromarray(shape.astype(np.uint8) * 255))
        made.append(frame)
    return made


def write_video(path: Path, frames: list[Image.Image]) -> None:
    """Write an MP4 file (MPEG-4)."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def write_frames(folder: Path, frames: list[Image.Image]) -> None:
    """Write a folder of frames."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        frame.save(folder / f"frame{number}.jpg", quality=95)


def spoil(split: Path) -> None:
    """Add what cannot be read to a split."""
    whole = min(split.glob("*/*.mp4"))
    whole.with_name("cut-off.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.with_name("empty.mp4").write_bytes(b"")
    whole.with_name("nothing").mkdir()


def main() -> None:
    """Build the clips, and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clipart", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=360)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    source = load_images(chosen.clipart)
    print(build(source, chosen.out, chosen.clips, chosen.size, chosen.frames, chosen.seed))


if __name__ == "__main__":
    main()
