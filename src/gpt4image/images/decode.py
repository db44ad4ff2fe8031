"""Decode images: from encoded bytes to the RGB picture that a person would see."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt4image.core.errors import ImageError
from gpt4image.images.headers import jpeg_header_size, looks_like, without_large_texts
from gpt4image.images.wide_pixels import brighten_wide_colour, grey_to_rgb, note_tags, wide_grey

try:
    import simplejpeg
except ImportError:  # some platforms have no wheel
    simplejpeg = None

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

MAX_PIXELS = 178_956_970 // 2  # above this Pillow warns of a decompression bomb, and it refuses twice as many

# Models enlarge the shorter side to a few hundred pixels; with a larger ratio, the longer side would fill the memory.
MAX_RATIO = 500

# Formats that Pillow decodes itself. EPS and WMF are left out: they start other programs.
_FORMATS = "JPEG PNG GIF BMP DIB WEBP TIFF AVIF PPM JPEG2000 MPO ICO ICNS TGA PCX SGI DDS QOI PSD"

_SUFFIXES = (
    "jpg jpeg jpe jfif png apng gif bmp dib webp tif tiff avif avifs ppm pgm pbm pnm pfm jp2 j2k jpx jpf mpo ico icns "
    "tga pcx sgi dds qoi psd heic heif jxl"
)
IMAGE_SUFFIXES = frozenset("." + suffix for suffix in _SUFFIXES.split())

# How to rotate an image upright, by the EXIF tag Orientation.
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_SIDEWAYS = (5, 6, 7, 8)
_EXTRA_SAMPLES_TAG = 0x0152  # TIFF tag that says what the fourth channel is
_PHOTOMETRIC_TAG = 0x0106  # TIFF tag: 0 if the value 0 is white
_WHITE_IS_ZERO = "white is zero"  # key in an image's info, which rotation preserves
_LOOSE_ALPHA = "alpha of zero throughout is a filler"  # likewise
_LOOSE_FORMATS = ("BMP", "DIB", "TGA", "TIFF", "ICO")  # formats whose writers may leave the fourth channel unused
_JPEG_MARKS = (b"Exif", b"tiff:Orientation", b"MPF")  # marks of files that may be rotated or hold several images


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image of any mode to what a person would see: upright, 8-bit RGB, transparent parts on white.

    An animation gives its first frame. Grey of more than 8 bits is scaled by the smallest full range that holds it (8,
    12 or 16 bits; for floats 1, 8 or 16 bits); values beyond that are scaled by their extremes, ignoring a few
    outliers.

    Args:
        data: the encoded file.
        name: name of the image in messages.
        max_pixels: the largest width x height that is decoded.

    Raises:
        ImageError: names the image and says why it cannot be used.
    """
    return EncodedImage(data, name, max_pixels).decode()


class EncodedImage:
    """An image whose size is known before it is decoded in whole or in part. It is decoded once.

    Args:
        data: the encoded file.
        name: name of the image in messages.
        max_pixels: the largest width x height that is decoded.

    Attributes:
        size: width and height of the picture that a person would see.

    Raises:
        ImageError: names the image and says why it cannot be used.
    """

    def __init__(self, data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> None:
        self._data, self._name, self._max_pixels = data, name, max_pixels
        self._orientation, self._reducible = 1, True
        size = _size_of_plain_jpeg(data)
        if size is not None:
            check_size(*size, name, max_pixels)
            self.size = size
            return
        with pillow_errors(name):
            self._reducible = _reducible(self._image)
            if not self._reducible:
                self._image.load()
            self._orientation = _orientation(self._image)
        width, height = self._image.size
        self.size = (height, width) if self._orientation in _SIDEWAYS else (width, height)

    @cached_property
    def _image(self) -> Image.Image:
        return _open(self._data, self._name, self._max_pixels)

    def decode(self) -> Image.Image:
        """Decode the whole picture, see `decode`."""
        with pillow_errors(self._name), self._image as image:
            image.load()
            rgb = _to_rgb(self._upright(image))
            rgb.info = {}  # otherwise the EXIF orientation and the colour profile would be applied again
            return rgb

    def region(self, box: tuple[int, int, int, int], at_least: tuple[int, int]) -> np.ndarray:
        """Decode a rectangle of the picture. For a JPEG, it may be scaled to a half, quarter or eighth.

        libjpeg then computes fewer pixels from each block of 8 x 8.

        Args:
            box: left, top, right and bottom in pixels of the picture.
            at_least: width and height that the rectangle keeps, up to a pixel, unless it is smaller.

        Returns:
            8-bit RGB, shape [h, w, 3].

        Raises:
            ImageError: names the image and says why it cannot be decoded.
        """
        reduction = 1
        if self._reducible:
            fitting = min((box[2] - box[0]) // at_least[0], (box[3] - box[1]) // at_least[1])
            reduction = max(factor for factor in (1, 2, 4, 8) if factor <= max(1, fitting))
        left, top, right, bottom = (round(edge / reduction) for edge in box)
        pixels = self._decode_jpeg(reduction)
        if pixels is not None:
            return pixels[top:bottom, left:right]
        with pillow_errors(self._name), self._image as image:
            if reduction > 1:
                image.draft(None, (image.width // reduction, image.height // reduction))
            image.load()
            picture = self._upright(image)
            if picture.mode != "RGB" or picture.has_transparency_data:
                picture = _to_rgb(picture)
            return np.array(picture.crop((left, top, right, bottom)))

    def _decode_jpeg(self, reduction: int) -> np.ndarray | None:
        """Decode an upright JPEG as Pillow does, but faster, to [h, w, 3]; None if only Pillow can."""
        if simplejpeg is None or not self._reducible or self._orientation != 1:
            return None
        width, height = (-(-side // reduction) if reduction > 1 else 0 for side in self.size)
        try:
            pixels: np.ndarray = simplejpeg.decode_jpeg(
                self._data, min_height=height, min_width=width, min_factor=reduction
            )
        except ValueError:  # damaged: Pillow may still read it, or gives a clear error
            return None
        return pixels

    def _upright(self, image: Image.Image) -> Image.Image:
        from PIL.Image import Transpose

        turn = _TURNS.get(self._orientation)
        return image if turn is None else image.transpose(Transpose[turn])


def check(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Raise the errors of `decode` at the lowest cost.

    A JPEG is decoded at an eighth of its size; that still reads every byte of it, so a truncated one is found.
    """
    with pillow_errors(name), _open(data, name, max_pixels) as image:
        if _reducible(image):
            image.draft(None, (1, 1))
        image.load()
        _to_rgb(image)


def open_stored(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return an image in its stored mode, for files whose pixels are numbers rather than colours.

    Raises:
        ImageError: names the image and says why it cannot be used.
    """
    with pillow_errors(name):
        image = _open(data, name, max_pixels)
        image.load()
        return image


def picture_size(file: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return width and height of a picture as a person sees it, and as the file stores it, from its header alone.

    Raises:
        ImageError: it is no image that Pillow can read.
        OSError: the file cannot be read.
    """
    from PIL import Image

    with pillow_errors(str(file)), Image.open(file, formats=_supported_formats()) as image:
        stored, turned = image.size, _orientation(image) in _SIDEWAYS
    return (stored[1], stored[0]) if turned else stored, stored


def _reducible(image: Image.Image) -> bool:
    """Whether libjpeg can decode the image at a fraction of its size."""
    return image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes)")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and max_pixels > limit:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow's own limit would refuse what the caller allows
    try:
        image = Image.open(io.BytesIO(without_large_texts(data)), formats=_supported_formats())
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in a format that Pillow can read{looks_like(data)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more than the {max_pixels:,} pixels that max_pixels (--max-pixels) allows") from None
    check_size(*image.size, name, max_pixels)
    if image.format == "TIFF" and image.tile and image.tile[0].codec_name == "raw":
        _unpack_colours(image)
    brighten_wide_colour(image, data)
    note_tags(image)
    declared = _EXTRA_SAMPLES_TAG in getattr(image, "tag_v2", {})
    image.info[_LOOSE_ALPHA] = image.format in _LOOSE_FORMATS and not declared
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == 0:
        image.info[_WHITE_IS_ZERO] = True  # Pillow inverts grey of up to 8 bits only
    return image


def _unpack_colours(image: Any) -> None:  # noqa: ANN401 - of Pillow's class for TIFF
    """Have libtiff read uncompressed YCbCr, whose blocks of pixels share their colour: Pillow takes them for RGBX."""
    if image.tag_v2.get(_PHOTOMETRIC_TAG) == 6:
        offset = image.tag_v2.offset
        image.tile = [
            image.tile[0]._replace(
                codec_name="libtiff", extents=(0, 0, *image.size), offset=0, args=("RGBX", "raw", False, offset)
            )
        ]
        image.use_load_libtiff = True


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raise ImageError if a picture is too large, or too long for its width."""
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the {max_pixels:,} that max_pixels (--max-pixels) allows"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageError(
            f"{name}: {width} x {height} pixels: one side is more than {MAX_RATIO} times the other (cut it up)"
        )


def _size_of_plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG that needs no turning, None if only Pillow knows."""
    if simplejpeg is None or data[:2] != b"\xff\xd8":
        return None
    header = data[: jpeg_header_size(data)]
    if any(mark in header for mark in _JPEG_MARKS):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (width, height) if colours in ("YCbCr", "Gray") else None


@cache
def _supported_formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS.split() if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, that is, upright, if it is missing or unreadable."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        return orientation if orientation in _TURNS else 1
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if (values := wide_grey(image)) is not None:
        inverted = image.info.get(_WHITE_IS_ZERO, False)
        return grey_to_rgb(values, image.info.get("transparency"), white_is_zero=inverted)
    if image.mode in ("CMYK", "LAB"):
        return _profiled_to_rgb(image)
    if image.mode == "La":  # premultiplied alpha, which Pillow converts to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        from PIL import Image

        image = image.convert("RGBA")
        if image.info.get(_LOOSE_ALPHA) and image.getchannel("A").getextrema() == (0, 0):
            return image.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _profiled_to_rgb(image: Image.Image) -> Image.Image:
    """Convert CMYK or LAB through its embedded profile; without a usable one CMYK by formula, LAB as CIE D50."""
    from PIL import ImageCms

    profiles: list[Any] = []
    with suppress(Exception):  # a damaged profile is ignored
        profiles.append(ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])))
    if image.mode == "LAB":
        profiles.append(ImageCms.createProfile("LAB"))
    for profile in profiles:
        with suppress(ImageCms.PyCMSError):
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


@contextmanager
def pillow_errors(name: str) -> Iterator[None]:
    """Turn all of Pillow's errors into an ImageError, and silence its warnings."""
    if _filter not in warnings.filters:
        warnings.filters.insert(0, _filter)  # type: ignore[attr-defined] # tests and libraries may have reset them
    _decoding.active = True
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # damaged files make Pillow's parsers raise nearly everything
        said = " ".join(str(error).split())
        reason = said or f"the file is damaged, or of an unusual kind: convert it to PNG ({type(error).__name__})"
        if "truncated" in said.lower():
            reason = f"the file is cut off ({reason})"
        raise ImageError(f"{name}: cannot be decoded: {reason}") from error
    finally:
        _decoding.active = False


class _Decoding(threading.local):
    """Takes the place of the pattern in a warnings filter: matches while this thread decodes.

    `warnings.catch_warnings` swaps the filters of the whole process, so threads would undo each other's.
    """

    active = False
    pattern = "(?!)"  # a pattern that matches nothing: scikit-learn copies filters into its threads by pattern

    def match(self, _text: str, _position: int = 0) -> bool:
        return self.active


_decoding = _Decoding()
_filter: Any = ("ignore", _decoding, Warning, None, 0)
