"""Clips: which frames represent a clip, and how the frames are stored.

A clip is a row of an image table. Its id is the hash of the file (or of the files of a frame folder), so descriptions
and labels stay with it whichever frames are used; its bytes are the chosen frames, as JPEG, in the order of time.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from gpt4image.core.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from PIL import Image

FrameRule = Literal["even", "scene"]
FRAMES = 8
"""Default number of frames of a clip."""
FRAME_SIDE = 768
"""Default longest side of a frame in pixels, the same as for pictures that are described."""
SCENE_CHANGE = 27.0
"""Minimum change of grey (0 to 255) between two frames at a cut: the default of PySceneDetect's detector."""

_QUALITY = 95  # of the frames as JPEG
_SHEET_SIDE = 256  # longest side of a frame on a contact sheet
_MOST_ON_SHEET = 9

T = TypeVar("T")


@dataclass(frozen=True)
class FrameChoice:
    """Which frames represent a clip, and their size.

    Attributes:
        count: number of frames T.
        rule: `even`, the middle frames of T stretches of equal length (as in the evaluation of Temporal Segment
            Networks, Wang et al., arXiv 1608.00859); or `scene`, those of the stretches between cuts, see `cut`.
        side: longest side in pixels, larger frames are scaled down; 0 for any size.

    Raises:
        ConfigError: fewer than one frame, an unknown rule or a negative size.
    """

    count: int = FRAMES
    rule: FrameRule = "even"
    side: int = FRAME_SIDE

    def __post_init__(self) -> None:
        if self.count < 1 or self.side < 0:
            raise ConfigError(
                f"frames (--frames) must be at least 1 and frame_side (--frame-side) 0 or more, not {self.count} and "
                f"{self.side}."
            )
        if self.rule not in ("even", "scene"):
            raise ConfigError(f"frame_rule (--frame-rule) must be even or scene, not {self.rule!r}.")

    @property
    def name(self) -> str:
        """Identifies the choice in keys and settings, such as `8 even 768`."""
        return f"{self.count} {self.rule} {self.side}"

    @classmethod
    def from_name(cls, name: str) -> FrameChoice:
        """Return the choice of a `name`.

        >>> FrameChoice.from_name("8 even 768") == FrameChoice()
        True
        """
        count, rule, side = name.split()
        return cls(int(count), rule, int(side))  # type: ignore[arg-type] # it is checked

    @property
    def words(self) -> str:
        """The choice in words.

        >>> FrameChoice(4, "scene").words
        '4 frames each, by scene change, up to 768 pixels'
        """
        frames = f"{self.count} frame{'s' if self.count > 1 else ''} each"
        size = f"up to {self.side} pixels" if self.side else "original size"
        return f"{frames}, {'evenly spaced' if self.rule == 'even' else 'by scene change'}, {size}"

    def positions(self, size: int) -> list[int]:
        """Return the positions of the chosen ones among frames that are evenly spaced; all of a short clip.

        >>> FrameChoice(3).positions(12), FrameChoice(3).positions(2)
        ([2, 6, 10], [0, 1])
        """
        return spread(range(size), min(self.count, size))


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return so many of some items, evenly spaced: the middles of equal stretches.

    Of fewer items, some come several times in a row.

    >>> spread("abcdef", 2), spread("ab", 4)
    (['b', 'e'], ['a', 'a', 'b', 'b'])
    """
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


def middles(cuts: Sequence[int]) -> list[int]:
    """Return the middle frame of each stretch between cuts."""
    return [(first + after) // 2 for first, after in pairwise(cuts)]


def cut(changes: np.ndarray, count: int) -> list[int]:
    """Cut a clip into `count` stretches: first at its largest scene changes, then its longest stretches in half.

    Args:
        changes: mean absolute difference of grey between each frame and the one before it, from 0 to 255, [N - 1].
        count: number of stretches; a shorter clip has one per frame.

    Returns:
        The first frame of each stretch, and N.

    >>> cut(np.array([0, 0, 99, 0, 0, 0, 0]), 3)
    [0, 3, 5, 8]
    """
    size = len(changes) + 1
    largest = np.argsort(-changes, kind="stable")[: count - 1]
    cuts = [0, *sorted(int(at) + 1 for at in largest if changes[at] >= SCENE_CHANGE), size]
    while len(cuts) <= min(count, size):
        longest = max(range(1, len(cuts)), key=lambda at: cuts[at] - cuts[at - 1])
        cuts.insert(longest, (cuts[longest - 1] + cuts[longest]) // 2)
    return cuts


def encode_frame(picture: Image.Image, side: int) -> bytes:
    """Return a frame, 8-bit RGB, as JPEG; one that is larger than `side` pixels is shrunk in place."""
    from PIL import Image

    if side and max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def pack_frames(clip_id: str, frames: Sequence[bytes]) -> bytes:
    """Pack frames into one piece: a line of JSON with the id of their clip and their sizes, then the frames."""
    head = json.dumps({"id": clip_id, "sizes": [len(frame) for frame in frames]})
    return b"".join((head.encode(), b"\n", *frames))


def unpack_frames(data: bytes, name: str) -> tuple[str, list[bytes]]:
    """Return the id of a clip and its frames. ImageError if the data holds none."""
    try:
        line, _, body = data.partition(b"\n")
        head = json.loads(line)
        ends = [0, *accumulate(head["sizes"])]
        if not ends[-1] or ends[-1] != len(body):
            raise ValueError("the sizes are not those of the frames")
        return str(head["id"]), [body[first:after] for first, after in pairwise(ends)]
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"{name}: its stored frames are damaged ({error})") from None


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return frames side by side in rows, on white, at most nine of them."""
    from PIL import Image

    shown = [picture.copy() for picture in spread(pictures, min(len(pictures), _MOST_ON_SHEET))]
    for picture in shown:
        picture.thumbnail((_SHEET_SIDE, _SHEET_SIDE))
    width, height = (max(picture.size[axis] for picture in shown) for axis in (0, 1))
    across = math.ceil(math.sqrt(len(shown)))
    sheet = Image.new("RGB", (across * width, math.ceil(len(shown) / across) * height), "white")
    for number, picture in enumerate(shown):
        sheet.paste(picture, (number % across * width, number // across * height))
    return sheet
