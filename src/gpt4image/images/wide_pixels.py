"""Pixels of more than 8 bits a channel, scaled to the 8 that a person sees and a model takes."""

from __future__ import annotations

import io
import re
import sys
import zlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageFile

# The largest values of 8 to 16 bits: cameras and scanners keep 10, 12 or 14 bits in a 16-bit file without scaling them.
_FULL_SCALES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_DARK = 63  # the largest upper byte of 14 bits


def brighten_wide_colour(image: Image.Image, data: bytes) -> None:
    """Scale colour of 8 to 14 bits in a 16-bit file, of which Pillow keeps the upper, nearly black bytes.

    A colour of 16 bits that stands for transparent becomes white; Pillow would look for its lower bytes.
    """
    from PIL import Image, ImageFile

    if not isinstance(image, ImageFile.ImageFile) or (read := _wide_colour_reader(image)) is None:
        return
    image.load()
    high = np.asarray(image)
    transparent = image.info.pop("transparency", None)
    if transparent is None and high[..., :3].max() > _DARK:
        return
    values = read(data, high)
    shown = np.ones(high.shape[:2], dtype=bool) if transparent is None else (values != transparent).any(axis=2)
    colour = high[..., :3]
    if colour[shown].max(initial=0) <= _DARK:
        colour = np.rint(values * (255 / _range(values[shown])[1])).clip(0, 255).astype(np.uint8)
    pixels = np.concatenate([np.where(shown[..., None], colour, np.uint8(255)), high[..., 3:]], axis=2)
    image.paste(Image.fromarray(pixels))


def _wide_colour_reader(image: ImageFile.ImageFile) -> Callable[[bytes, np.ndarray], np.ndarray] | None:
    """Return what reads colour of 16 bits, [H, W, 3], from a file that Pillow reads as 8; None for any other file.

    It takes the file and what Pillow read. An image has tiles only until it is loaded.
    """
    if not image.tile or image.mode not in ("RGB", "RGBA"):
        return None
    tile = image.tile[0]
    mode, *more = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    if match := re.fullmatch(r"(RGB[AX]?);16([BLN])", str(mode)):
        return partial(_read_low_bytes, kind=str(image.format), mode=match[1], order=match[2])
    if mode == "LA;16B":
        return _read_grey_with_alpha
    if tile.codec_name in ("ppm", "ppm_plain") and more == [2**16 - 1]:
        return partial(_read_ppm, offset=tile.offset, plain=tile.codec_name == "ppm_plain")
    return None


def _read_low_bytes(data: bytes, high: np.ndarray, *, kind: str, mode: str, order: str) -> np.ndarray:
    from PIL import Image

    # Read in the other byte order, the lower bytes are the upper ones.
    native = "L" if sys.byteorder == "little" else "B"
    other = f"{mode};16{ {'B': 'L', 'L': 'B'}[order.replace('N', native)] }"
    with Image.open(io.BytesIO(data), formats=[kind]) as again:
        file: Any = again
        file.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other) for tile in file.tile
        ]
        low = np.asarray(again)[..., :3]
    values: np.ndarray = high[..., :3].astype(np.uint16) << 8 | low
    return values


def _read_grey_with_alpha(data: bytes, _high: np.ndarray) -> np.ndarray:
    """Read a PNG of 16-bit grey and alpha as if it were RGBA of 8 bits, whose pixels have as many bytes."""
    from PIL import Image

    header = data[12:24] + bytes([8, 6]) + data[26:29]  # the bytes behind "IHDR": size, depth, type of colour
    relabelled = data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    with Image.open(io.BytesIO(relabelled), formats=["PNG"]) as again:
        grey = np.asarray(again)[..., :2].astype(np.uint16)
    return np.repeat(grey[..., :1] << 8 | grey[..., 1:], 3, axis=2)


def _read_ppm(data: bytes, high: np.ndarray, *, offset: int, plain: bool) -> np.ndarray:
    if plain:
        values = np.array(re.sub(rb"#[^\r\n]*", b"", data[offset:]).split()[: high.size], np.uint16)
    else:
        values = np.frombuffer(data, ">u2", high.size, offset)
    return values.reshape(high.shape)


def grey_to_rgb(values: np.ndarray, transparent: int | None, *, white_is_zero: bool = False) -> Image.Image:
    """Scale grey values of more than 8 bits, shape [H, W], to 8-bit RGB; one value may stand for transparent."""
    from PIL import Image

    low, high = _range(values if transparent is None else values[values != transparent])
    scaled = (np.clip(np.nan_to_num(values.astype(np.float64), nan=low), low, high) - low) * (255 / (high - low))
    if white_is_zero:
        scaled = 255 - scaled
    if transparent is not None:
        scaled[values == transparent] = 255
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the values that stand for black and white: those of the encoding, else the extremes."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    for top in _FULL_SCALES:
        if low >= 0 and high < top + 1:
            return 0.0, top
    return low, high if high > low else low + 1
