"""Pixels of more than 8 bits a channel, or with a sign, scaled to the 8 bits that a person sees and a model takes."""

from __future__ import annotations

import io
import re
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageFile

# The largest values of 8 to 16 bits: cameras and scanners keep 10, 12 or 14 bits in a 16-bit file without scaling them.
_FULL_SCALES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_DARK = 63  # the largest upper byte of 14 bits
_OVERSHOOT = 0.1  # share of the full scale by which resampled floats may exceed it
_OUTLIERS = 0.01  # share of the distinct values at either end that may be outliers
_LEVELS = 16  # of 256 levels; if outliers leave fewer for the other values, they are ignored
_SAMPLE = 1_000_000  # values that are searched for outliers

# Tags of TIFF.
_BITS, _STRIPS, _STRIP_SIZES, _PLANES, _SIGN, _NO_DATA = 258, 273, 279, 284, 339, 42113
_UNSIGNED, _SIGNED = 1, 2
_SIGN_NOTE = "sign of its values"  # key in an image's info, which rotation preserves


def brighten_wide_colour(image: Image.Image, data: bytes) -> None:
    """Scale colour of 8 to 14 bits in a 16-bit file, of which Pillow keeps the upper, nearly black bytes.

    A colour of 16 bits that stands for transparent becomes white; Pillow would look for its lower bytes.
    """
    from PIL import Image, ImageFile

    if not isinstance(image, ImageFile.ImageFile) or (read := _wide_colour_reader(image)) is None:
        return
    planes = _read_planes(image, data)
    image.load()
    high = np.asarray(image) if planes is None else (planes >> 8).astype(np.uint8)
    transparent = image.info.pop("transparency", None)
    if planes is None and transparent is None and (high[..., :3] > _DARK).mean() > _OUTLIERS:
        return
    values = read(data, high) if planes is None else planes[..., :3]
    shown = np.ones(high.shape[:2], dtype=bool) if transparent is None else (values != transparent).any(axis=2)
    colour = high[..., :3]
    if (full := _range(values[shown])[1]) < _FULL_SCALES[-1]:
        colour = np.rint(values * (255 / full)).clip(0, 255).astype(np.uint8)
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
    in_planes = image.format == "TIFF" and _tag(image, _PLANES) == 2
    if in_planes and _tag(image, _BITS) == 16:
        return _refuse_planes
    if match := re.fullmatch(r"(RGB[AX]?);16([BLN])", str(mode)):
        return partial(_read_low_bytes, kind=str(image.format), mode=match[1], order=match[2])
    if mode == "LA;16B":
        return _read_grey_with_alpha
    if tile.codec_name in ("ppm", "ppm_plain") and more == [2**16 - 1]:
        return partial(_read_ppm, offset=tile.offset, plain=tile.codec_name == "ppm_plain")
    return None


def _tag(image: Image.Image, tag: int) -> Any:  # noqa: ANN401 - of any type
    """Return the first value of a tag of TIFF, None without it."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value


def _read_planes(image: ImageFile.ImageFile, data: bytes) -> np.ndarray | None:
    """Return the channels of 16 bits that a TIFF stores one after another, [H, W, C]; None for any other file.

    Pillow takes the bytes of such channels for pixels, unless they are compressed.
    """
    if image.tile[0].codec_name != "raw" or _tag(image, _PLANES) != 2 or _tag(image, _BITS) != 16:
        return None
    tags: Any = image.tag_v2  # type: ignore[attr-defined] # of TIFF
    if _STRIPS not in tags:
        _refuse_planes(data)
    strips = (data[start : start + size] for start, size in zip(tags[_STRIPS], tags[_STRIP_SIZES], strict=True))
    values = np.frombuffer(b"".join(strips), ">u2" if data[:2] == b"MM" else "<u2").astype(np.uint16)
    return values.reshape(-1, image.height, image.width).transpose(1, 2, 0)


def _refuse_planes(_data: bytes, _high: np.ndarray | None = None) -> np.ndarray:
    raise ValueError("it stores 16-bit channels in separate planes, of which Pillow keeps 8 bits: save it as PNG")


def _read_low_bytes(data: bytes, high: np.ndarray, *, kind: str, mode: str, order: str) -> np.ndarray:
    from PIL import Image

    # In the wrong byte order, the lower bytes are read as the upper ones.
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


def note_tags(image: Image.Image) -> None:
    """Keep in an image's info, which outlives turning, what a TIFF's tags say about its grey values."""
    if image.format != "TIFF" or image.mode not in ("L", "I", "F", "I;16", "I;16B"):
        return
    image.info[_SIGN_NOTE] = _tag(image, _SIGN) or _UNSIGNED
    if image.mode != "L":
        with suppress(ValueError):  # usually there is none
            image.info["transparency"] = float(str(_tag(image, _NO_DATA)).strip("\0 "))


def wide_grey(image: Image.Image) -> np.ndarray | None:
    """Return grey values that 8 bits do not hold, [H, W], as their file means them; None of other pictures.

    Pillow reads 32 bits as if they had a sign, and 8 as if they had none.
    """
    sign = image.info.get(_SIGN_NOTE)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        return values.view(np.uint32) if sign == _UNSIGNED and values.dtype == np.int32 else values
    return np.asarray(image).view(np.int8) if sign == _SIGNED and image.mode == "L" else None


def grey_to_rgb(values: np.ndarray, transparent: float | None, *, white_is_zero: bool = False) -> Image.Image:
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
    low, high = _extremes(finite)
    are_floats = values.dtype.kind == "f"
    room = _OVERSHOOT if are_floats else 0.0
    if are_floats and low >= 0 and 1 + room < high < _LEVELS and (finite % 1).any():
        return 0.0, high
    for top in (1.0, *_FULL_SCALES) if are_floats else _FULL_SCALES:
        if high <= top * (1 + room) and (low >= 0 or (low >= -room * top and high > top / 2)):
            return 0.0, top
    return low, high if high > low else low + 1


def _extremes(finite: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest value, without the outliers that leave the others hardly any levels.

    Those are hot pixels, lamps, and numbers that stand for "no data", however many pixels have them.
    """
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    distinct = np.unique(finite.ravel()[:: 1 + finite.size // _SAMPLE]).astype(np.float64)
    cut = 1 + int(len(distinct) * _OUTLIERS)
    inner = distinct[cut:-cut]
    if len(inner) < _LEVELS or (span := inner[-1] - inner[0]) * _LEVELS > high - low:
        return low, high
    return (
        low if inner[0] - low <= span else float(inner[0]),
        high if high - inner[-1] <= span else float(inner[-1]),
    )
