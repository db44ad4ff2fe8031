import io
import struct
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from gpt4image.core.errors import ImageError
from gpt4image.images.decode import EncodedImage, check, decode
from gpt4image.images.headers import jpeg_header_size
from support.image_files import encode, noise, wide_png


def pixels(data, **options):
    image = decode(data, "x", **options)
    assert image.mode == "RGB" and image.info == {}
    check(data, "x", **options)
    return np.asarray(image).astype(int)


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, axis=2)


RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (6, 5), dtype=np.uint8)
ON_WHITE = 255 - (255 - RGB.astype(float)) * ALPHA[..., None] / 255


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000", "TGA", "GIF"])
def test_rgb_keeps_its_pixels(kind):
    flat = np.zeros((4, 4, 3), np.uint8)
    flat[:] = (10, 200, 90)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (pixels(encode(Image.fromarray(flat), kind, **options)) == flat).all()


def test_rgb_with_alpha_is_put_on_white():
    image = Image.fromarray(np.dstack([RGB, ALPHA]))
    assert np.abs(pixels(encode(image)) - ON_WHITE).max() <= 1
    assert np.abs(pixels(encode(image, "WEBP", lossless=True, exact=True)) - ON_WHITE).max() <= 1


def test_grey_with_alpha_is_put_on_white():
    image = Image.merge("LA", [Image.fromarray(RGB[..., 0]), Image.fromarray(ALPHA)])
    assert np.abs(pixels(encode(image)) - grey(ON_WHITE[..., 0])).max() <= 1


def test_palette():
    image = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]]])
    assert (pixels(encode(image)) == colours).all()
    colours[0, 1] = 255
    assert (pixels(encode(image, transparency=1)) == colours).all()
    half = pixels(encode(image, transparency=bytes([255, 0, 128, 255])))
    assert np.abs(half - [[[255, 0, 0], [255, 255, 255]], [[127, 127, 255], [9, 8, 7]]]).max() <= 1


def test_transparent_colour_of_rgb_and_grey():
    assert pixels(encode(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))).min() == 255
    assert pixels(encode(Image.new("L", (2, 2), 7), transparency=7)).min() == 255
    assert pixels(encode(Image.new("L", (2, 2), 7), transparency=8)).max() == 7


def test_one_bit_and_grey():
    bits = np.array([[0, 1], [1, 0]], bool)
    assert (pixels(encode(Image.fromarray(bits))) == grey(bits * 255)).all()
    assert (pixels(encode(Image.fromarray(ALPHA))) == grey(ALPHA)).all()


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 4096], [32896, 65278, 65535]], np.uint16)
    expected = grey(np.rint(values / 257))
    assert (pixels(encode(Image.fromarray(values))) == expected).all()
    assert (pixels(encode(Image.fromarray(values), "TIFF")) == expected).all()
    header = b"P5 3 2 65535\n" + values.astype(">u2").tobytes()
    assert (pixels(header) == expected).all()


@pytest.mark.parametrize(("bits", "wider"), [(8, 10), (10, 12), (12, 14), (14, 16)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_fewer_bits_in_sixteen_are_scaled_by_their_range(bits, wider, kind):
    values = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16).reshape(16, 16)
    found = pixels(encode(Image.fromarray(values), kind))
    assert (found == grey(np.rint(values * (255 / (2**bits - 1))))).all()
    assert len(np.unique(found)) == 256
    values[-1, -1] += 1  # needs another bit, so the next range counts
    assert pixels(encode(Image.fromarray(values), kind)).max() == round(2**bits * 255 / (2**wider - 1))


def test_transparent_value_of_sixteen_bit_grey_is_put_on_white():
    values = np.array([[0, 3000], [4095, 20]], np.uint16)
    shown = pixels(encode(Image.fromarray(values), transparency=0))
    assert (shown == grey([[255, 187], [255, 1]])).all()


@pytest.mark.parametrize("bits", [12, 16])
def test_grey_of_sixteen_bits_whose_zero_is_white_is_inverted(bits):
    values = np.linspace(0, 2**bits - 1, 64).round().astype(int).reshape(8, 8, 1)
    shown = np.rint(values * (255 / (2**bits - 1)))
    assert (pixels(wide_tiff(values, "<", packed=False, meaning=1)) == shown).all()
    assert (
        pixels(wide_tiff(values, "<", packed=True, meaning=0)) == np.rint(255 - values * (255 / (2**bits - 1)))
    ).all()


def test_transparent_value_does_not_widen_the_range_of_the_others():
    values = np.array([[65535, 3000], [4095, 20]], np.uint16)
    shown = pixels(encode(Image.fromarray(values), transparency=65535))
    assert (shown == grey([[255, 187], [255, 1]])).all()


def test_wide_integers_and_floats_are_scaled_by_their_range():
    integers = np.array([[-1000, 0], [0, 1000]], np.int32)
    assert (pixels(encode(Image.fromarray(integers), "TIFF")) == grey([[0, 128], [128, 255]])).all()
    floats = np.array([[0, 0.5], [np.nan, 1]], np.float32)
    assert (pixels(encode(Image.fromarray(floats), "TIFF")) == grey([[0, 128], [0, 255]])).all()
    assert (pixels(encode(Image.fromarray(floats * 255), "TIFF")) == grey([[0, 128], [0, 255]])).all()
    flat = np.full((2, 2), -3.0, np.float32)
    assert (pixels(encode(Image.fromarray(flat), "TIFF")) == 0).all()


CMYK = (40, 90, 160, 30)
CMYK_AS_RGB = [(255 - c) * (255 - CMYK[3]) / 255 for c in CMYK[:3]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_without_profile(kind):
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encode(Image.new("CMYK", (16, 16), CMYK), kind, **options)
    assert (b"Adobe" in data) == (kind == "JPEG")
    assert np.abs(pixels(data) - CMYK_AS_RGB).max() <= 3


def test_adobe_ycck_jpeg():
    y, cb, cr = Image.new("RGB", (1, 1), CMYK[:3]).convert("YCbCr").getpixel((0, 0))
    stored = Image.new("CMYK", (16, 16), (255 - y, 255 - cb, 255 - cr, CMYK[3]))
    data = bytearray(encode(stored, "JPEG", quality=100, subsampling=0))
    place = data.index(b"Adobe") + 11
    assert data[place] == 0
    data[place] = 2  # the Adobe segment's transform flag: YCCK
    assert np.abs(pixels(bytes(data)) - CMYK_AS_RGB).max() <= 4


def cmyk_profile():
    """A CMYK profile of two grid points an axis: white without ink, black with K, red with any other."""
    grid = [(255, 128, 128)] + [(0, 128, 128), (136, 208, 195)] * 7 + [(0, 128, 128)]
    tables = bytes(range(256)) * 4, bytes(v for point in grid for v in point), bytes(range(256)) * 3
    identity = [65536, 0, 0, 0, 65536, 0, 0, 0, 65536]
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *identity) + b"".join(tables)
    header = struct.pack(">I4sI4s4s4s", 0, bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ") + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    body = header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut
    return struct.pack(">I", len(body)) + body[4:]


def test_cmyk_with_profile_is_coloured_by_it():
    image = Image.new("CMYK", (16, 16), (255, 255, 255, 0))
    red, green, blue = pixels(encode(image, "TIFF", icc_profile=cmyk_profile()))[0, 0]
    assert red > 200 and green < 60 and blue < 80
    assert pixels(encode(image, "TIFF")).max() == 0
    assert pixels(encode(image, "TIFF", icc_profile=b"damaged")).max() == 0


def test_lab():
    colour = (180, 60, 90)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.new("RGB", (8, 8), colour), to_lab)
    assert np.abs(pixels(encode(lab, "TIFF")) - colour).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8, :16] = 255
    turned = {  # how a camera stores the upright picture, by the definition of the EXIF tag
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[::-1],
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[:, ::-1],
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif)
    shown = pixels(data)
    assert shown.shape == upright.shape
    assert np.abs(shown - upright).max() < 60


def test_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        shown = pixels(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert np.abs(shown - [255, 0, 0]).max() <= 2


def test_empty_file_is_named():
    with pytest.raises(ImageError, match=r"^cat\.png: .*empty"):
        decode(b"", "cat.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_file_is_found(kind, share):
    data = noise(0, 64, kind)
    for function in (decode, check):
        with pytest.raises(ImageError, match=r"^cat: ."):
            function(data[: int(len(data) * share)], "cat")


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_without_its_last_bytes_is_found_at_reduced_size(progressive):
    data = noise(0, 256, "JPEG", progressive=progressive)
    with pytest.raises(ImageError, match="cut off"):
        check(data[:-100], "cat")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just words", "not an image"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run git lfs pull"),
        (b"<svg xmlns='x'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PostScript file: convert it"),
        (b"\0\0\0\x18ftypmif1", "HEIC: convert it"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL: convert it"),
        (bytes(128) + b"DICM", "DICOM: convert it"),
        (b"#?RADIANCE\n", "Radiance HDR: convert it"),
        (b"II*\0\x10\0\0\0CR\2\0", "a kind of TIFF that Pillow does not support: convert it"),
        (b"\x89PNG\r\n\x1a\n" + b"rubbish" * 9, "x: "),
    ],
)
def test_other_files_are_refused_with_a_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data, "x")


def png_claiming(width, height):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 9_000)])
def test_decompression_bomb_is_refused(size):
    with pytest.raises(ImageError, match="max_pixels"):
        decode(png_claiming(*size), "x")


def test_max_pixels():
    data = noise(0, 20)
    assert pixels(data, max_pixels=400).shape == (20, 20, 3)
    with pytest.raises(ImageError, match="20 x 20"):
        decode(data, "x", max_pixels=399)


@pytest.mark.parametrize("size", [(1, 501), (501, 1), (1, 5_000_000), (3, 1501)])
def test_extremely_narrow_pictures_are_refused(size):
    for function in (decode, check):
        with pytest.raises(
            ImageError, match=r"x: \d+ x \d+ pixels: one side is more than 500 times the other .cut it up"
        ):
            function(encode(Image.new("L", size)), "x")
    assert pixels(encode(Image.new("L", (500, 1)))).shape == (1, 500, 3)


def test_a_larger_limit_than_pillows_is_kept(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert pixels(noise(0, 20), max_pixels=400).shape == (20, 20, 3)


def test_pillow_warnings_stay_inside_and_others_do_not():
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00" + b"\x12\x01\x03\x00\x09\x00\x00\x00\xff\xff\xff\xff"
    data = encode(Image.new("RGB", (8, 8)), "JPEG", exif=exif)
    with warnings.catch_warnings(record=True) as raw:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).getexif()
    assert raw
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=decode, args=(data, "x")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        decode(data, "x")
        decode(png_claiming(1, 1)[:-12] + b"", "x")
        assert not caught
        warnings.warn("mine", stacklevel=1)
        assert len(caught) == 1


def whole(data):
    image = EncodedImage(data, "x")
    return image.region((0, 0, *image.size), at_least=image.size)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
@pytest.mark.parametrize("at_least", [(1000, 1000), (60, 50), (30, 20), (2, 2)])
def test_both_decoders_of_jpegs_give_the_same_pixels(mode, options, at_least, monkeypatch):
    pytest.importorskip("simplejpeg")
    data = encode(Image.open(io.BytesIO(noise(1, 131))).convert(mode), "JPEG", quality=80, **options)
    box = (3, 1, 128, 110)
    fast = EncodedImage(data, "x").region(box, at_least)
    monkeypatch.setattr(sys.modules[decode.__module__], "simplejpeg", None)
    assert np.array_equal(EncodedImage(data, "x").region(box, at_least), fast)
    assert fast.shape[0] >= min(at_least[1], 109) and fast.shape[1] >= min(at_least[0], 125)


def test_region_is_part_of_the_picture_in_every_mode():
    images = [Image.fromarray(RGB), Image.fromarray(np.dstack([RGB, ALPHA])), Image.fromarray(ALPHA)]
    files = [encode(image) for image in images]
    files += [encode(Image.new("CMYK", (16, 16), CMYK), "JPEG", quality=100, subsampling=0)]
    files += [encode(Image.fromarray(RGB[..., 0].astype(np.uint16) * 257))]
    files += [encode(Image.new("RGB", (6, 6), (1, 2, 3)), transparency=(1, 2, 3)), noise(0, 40, "JPEG")]
    for data in files:
        image = EncodedImage(data, "x")
        assert np.array_equal(image.region((1, 2, 4, 6), at_least=(9, 9)), pixels(data)[2:6, 1:4])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_region_is_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.open(io.BytesIO(noise(0, 40))).crop((0, 0, 40, 24)), kind, exif=exif)
    image = EncodedImage(data, "x")
    assert image.size == decode(data, "x").size == ((40, 24) if orientation < 5 else (24, 40))
    assert np.array_equal(image.region((2, 3, 20, 22), at_least=(18, 19)), pixels(data)[3:22, 2:20])


@pytest.mark.parametrize("before", [b"\xff\xfe\x00\x06\xff\xda\xff\xda", b"\xff\xff\xff", b"\xff\xfe\x00\x03a\x00\x00"])
def test_orientation_is_found_behind_other_segments_fill_bytes_and_junk(before):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.open(io.BytesIO(noise(0, 40))).crop((0, 0, 40, 24)), "JPEG", exif=exif)
    data = data[:2] + before + data[2:]
    assert EncodedImage(data, "x").size == decode(data, "x").size == (24, 40)


def test_pixels_that_look_like_a_tag_turn_nothing():
    data = encode(Image.open(io.BytesIO(noise(0, 40))), "JPEG")
    assert jpeg_header_size(data) == data.index(b"\xff\xda")
    image = EncodedImage(data[:-2] + b"Exif" + data[-2:], "x")
    assert image.size == (40, 40) and np.array_equal(image.region((0, 0, 40, 40), (40, 40)), pixels(data))


def test_limits_hold_for_regions():
    for kind in ("JPEG", "PNG"):
        with pytest.raises(ImageError, match="x: 20 x 20"):
            EncodedImage(noise(0, 20, kind), "x", max_pixels=399)
        with pytest.raises(ImageError, match="x: 501 x 1 pixels: one side"):
            EncodedImage(encode(Image.new("L", (501, 1)), kind), "x")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_jpeg_is_found_in_any_region(share):
    data = noise(0, 64, "JPEG")
    part = data[: int(len(data) * share)]
    with pytest.raises(ImageError, match=r"^x: .*cut off"):
        whole(part)


def test_damage_that_pillow_forgives_is_forgiven():
    data = noise(0, 64, "JPEG")
    damaged = data[:-2] + b"\0\0\0" + data[-2:]
    assert np.array_equal(whole(damaged), pixels(damaged))


def test_result_does_not_keep_the_file_open():
    image = decode(noise(0, kind="JPEG"), "x")
    assert type(image) is Image.Image


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_fewer_bits_in_a_wider_file_keep_their_levels(bits, kind):
    values = np.linspace(0, 2**bits - 1, 4096).reshape(64, 64).astype(kind)
    found = pixels(encode(Image.fromarray(values), "TIFF"))
    assert len(np.unique(found)) == 256 and found.min() == 0 and found.max() == 255


def wide_tiff(values, order, packed, meaning=2, planes=False):
    """Encode values of 16 bits, [H, W, 1 or 3], as one strip in a byte order ("<" or ">"), or one for each channel.

    `meaning` 2 is colour; of grey, 0 and 1 say which of white and black the value 0 is.
    """
    height, width, channels = values.shape
    data = (values.transpose(2, 0, 1) if planes else values).astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if packed else data
    after = 8 + 2 + 10 * 12 + 4  # where the directory of ten entries ends: three depths follow, then the pixels
    longs = {256: width, 257: height, 273: after + 6, 278: height, 279: len(data)}
    shorts = {259: 8 if packed else 1, 262: meaning, 277: channels, 284: 2 if planes else 1}
    entries = {tag: struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in longs.items()}
    entries |= {tag: struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    entries[258] = struct.pack(f"{order}HHII", 258, 3, 3, after)
    strips = b""
    if planes:
        starts = (after + 6 + 24 + at * len(data) // 3 for at in range(3))
        strips = struct.pack(f"{order}6I", *starts, *[len(data) // 3] * 3)
        entries[273] = struct.pack(f"{order}HHII", 273, 4, 3, after + 6)
        entries[279] = struct.pack(f"{order}HHII", 279, 4, 3, after + 18)
    if channels == 1:
        entries[258] = struct.pack(f"{order}HHIHH", 258, 3, 1, 16, 0)
    start = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}IH", 8, len(entries))
    directory = b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return start + directory + struct.pack(f"{order}3H", 16, 16, 16) + strips + data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_colour_of_twelve_bits_in_tiff_keeps_its_levels(order, packed):
    values = np.random.default_rng(1).integers(0, 4096, (32, 32, 3))
    values[0, 0] = 4095
    assert (pixels(wide_tiff(values, order, packed)) == np.rint(values * (255 / 4095))).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [12, 16])
def test_channels_of_sixteen_bits_one_after_another_are_read(order, bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, (32, 32, 3))
    values[0, 0] = 2**bits - 1
    expected = values >> 8 if bits == 16 else np.rint(values * (255 / 4095))
    assert (pixels(wide_tiff(values, order, packed=False, planes=True)) == expected).all()


def test_dark_packed_channels_of_sixteen_bits_one_after_another_are_refused():
    channel = Image.fromarray(np.full((8, 8), 4095, np.uint16))
    tags = {258: (16, 16, 16), 259: 8, 262: 2, 277: 3, 284: 2, 339: (1, 1, 1)}
    strips = [zlib.compress(np.asarray(channel).tobytes()) for _ in range(3)]
    with pytest.raises(ImageError, match="in separate planes, of which Pillow keeps 8 bits: save it as PNG"):
        decode(directory_tiff(8, 8, tags, strips), "x")


def directory_tiff(width, height, tags, strips):
    """Encode a little-endian TIFF from its tags, whose values are shorts, and its strips."""
    tags = {256: width, 257: height, 278: height, **tags}
    values = {tag: value if isinstance(value, tuple) else (value,) for tag, value in tags.items()}
    after = 8 + 2 + 12 * (len(tags) + 2) + 4
    behind, entries = b"", {}
    for tag, numbers in values.items():
        packed = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(packed) > 4:
            entries[tag] = struct.pack("<HHII", tag, 3, len(numbers), after + len(behind))
            behind += packed
        else:
            entries[tag] = struct.pack("<HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    many = len(strips) > 1
    start = after + len(behind) + 8 * len(strips) * many
    starts = [start + sum(map(len, strips[:at])) for at in range(len(strips))]
    for tag, numbers in ((273, starts), (279, [len(strip) for strip in strips])):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        entries[tag] = struct.pack("<HHI", tag, 4, len(numbers))
        entries[tag] += struct.pack("<I", after + len(behind)) if many else packed
        behind += packed if many else b""
    directory = b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + behind + b"".join(strips)


@pytest.mark.parametrize(("kind", "sign"), [("u4", 1), ("i4", 2), ("i2", 2), ("i1", 2)])
def test_sign_of_grey_values_is_as_the_file_says(kind, sign):
    bits = 8 * np.dtype(kind).itemsize
    lowest = -(2 ** (bits - 1)) if sign == 2 else 0
    values = np.linspace(lowest, lowest + 2**bits - 1, 64).astype(kind).reshape(8, 8)
    data = directory_tiff(8, 8, {258: bits, 259: 1, 262: 1, 277: 1, 339: sign}, [values.astype(f"<{kind}").tobytes()])
    assert np.abs(pixels(data) - grey(np.linspace(0, 255, 64).reshape(8, 8))).max() <= 1


def float_tiff(values, **options):
    return encode(Image.fromarray(np.asarray(values, np.float32)), "TIFF", **options)


@pytest.mark.parametrize("top", [1, 255, 4095])
@pytest.mark.parametrize("beyond", [0, 0.02, 0.09])
def test_floats_that_resampling_took_over_the_edge_are_clipped(top, beyond):
    values = np.linspace(-0.02, 1 + beyond, 256).reshape(16, 16)
    expected = grey(np.rint(values.astype(np.float32).clip(0, 1) * 255))
    assert np.abs(pixels(float_tiff(values * top)) - expected).max() <= 1


@pytest.mark.parametrize("top", [1.5, 3.7, 12.5])
def test_floats_of_an_open_range_keep_their_levels(top):
    assert len(np.unique(pixels(float_tiff(np.linspace(0, top, 256).reshape(16, 16))))) == 256


@pytest.mark.parametrize("odd", [-9999, -3.4028235e38, 1e6, np.inf, np.nan])
@pytest.mark.parametrize("share", [1, 0.3])
def test_values_that_stand_for_no_data_leave_the_others_their_levels(odd, share):
    values = np.linspace(0, 1, 1024).reshape(32, 32)
    values[np.random.default_rng(0).random((32, 32)) < (0.3 if share < 1 else 0.001)] = odd
    assert len(np.unique(pixels(float_tiff(values)))) > 160


def test_hot_pixels_leave_twelve_bits_their_levels():
    values = np.random.default_rng(0).integers(0, 4096, (64, 64))
    values[3, 3] = 65535
    assert len(np.unique(pixels(encode(Image.fromarray(values.astype(np.uint16)))))) > 250
    assert len(np.unique(pixels(wide_png(values[..., None].repeat(3, axis=2))))) > 250


def test_the_named_value_of_no_data_is_put_on_white():
    values = np.linspace(0, 1, 64).reshape(8, 8)
    values[2, 2] = -5
    shown = pixels(float_tiff(values, tiffinfo={42113: "-5"}))
    assert (shown[2, 2] == 255).all() and shown[0, 0].max() == 0 and len(np.unique(shown)) > 60


@pytest.mark.parametrize("kind", ["BMP", "TGA", "TIFF"])
def test_a_fourth_channel_that_nobody_filled_hides_nothing(kind):
    data = encode(Image.fromarray(np.dstack([RGB, ALPHA * 0])), kind)
    if kind == "TIFF":
        data = data.replace(struct.pack("<HH", 338, 3), struct.pack("<HH", 337, 3))  # its ExtraSamples are not said
    assert (pixels(data) == RGB).all()
    assert (pixels(encode(Image.fromarray(np.dstack([RGB, ALPHA * 0])))) == 255).all()


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_large_text_in_a_png_is_left_out(name):
    start = {b"zTXt": b"Comment\0\0", b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0", b"iCCP": b"p\0\0"}[name]
    body = start + zlib.compress(bytes(3_000_000))
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    whole_file = encode(Image.fromarray(RGB))
    for place in (33, len(whole_file) - 12):  # before the pixels, and behind them
        assert (pixels(whole_file[:place] + chunk + whole_file[place:]) == RGB).all()


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_colour_of_fewer_bits_in_sixteen_keeps_its_levels(bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, (32, 32, 3))
    values[0, 0] = 2**bits - 1
    expected = np.rint(values * (255 / (2**bits - 1)))
    assert (pixels(wide_png(values)) == expected).all()
    opaque = np.concatenate([values, np.full((32, 32, 1), 65535)], axis=2)
    assert (pixels(wide_png(opaque)) == expected).all()


@pytest.mark.parametrize("bits", [12, 16])
def test_transparent_colour_of_sixteen_bits_is_put_on_white(bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, (16, 16, 3))
    values[0, 0] = 2**bits - 1
    expected = values >> 8 if bits == 16 else np.rint(values * (255 / (2**bits - 1)))
    for transparent in (values[5, 5].copy(), np.array([65535, 65535, 0])):  # the latter lies beyond 12 bits
        values[5, 5], expected[5, 5] = transparent, 255
        assert (pixels(wide_png(values, transparent)) == expected).all()
    assert (pixels(wide_png(values[:1] * 0, (0, 0, 0))) == 255).all()


def test_grey_of_twelve_bits_beside_alpha_keeps_its_levels():
    grey_values = np.random.default_rng(2).integers(0, 4096, (32, 32, 1))
    grey_values[0, 0] = 4095
    clear = np.full((32, 32, 1), 65535)
    clear[5, 5] = 0
    expected = np.rint(grey_values * (255 / 4095)).repeat(3, axis=2)
    expected[5, 5] = 255  # transparent, so it is white
    assert (pixels(wide_png(np.concatenate([grey_values, clear], axis=2))) == expected).all()
    bright = grey_values * 16
    assert (pixels(wide_png(np.concatenate([bright, clear], axis=2)))[:4] == (bright >> 8)[:4]).all()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_portable_maps_of_twelve_bits_in_sixteen_keep_their_levels(plain, channels):
    values = np.random.default_rng(3).integers(0, 4096, (8, 8, channels))
    values[0, 0] = 4095
    magic = {(False, 1): "P5", (False, 3): "P6", (True, 1): "P2", (True, 3): "P3"}[plain, channels]
    packed = values.astype(">u2").tobytes()
    written = ("# a comment of 3 words\n" + "\n".join(map(str, values.ravel()))).encode()
    data = f"{magic}\n8 8\n65535\n".encode() + (written if plain else packed)
    assert (pixels(data) == np.rint(values * (255 / 4095))).all()


def test_colour_of_sixteen_bits_is_as_pillow_reads_it():
    values = np.random.default_rng(0).integers(0, 2**16, (8, 8, 3))
    assert (pixels(wide_png(values)) == values >> 8).all()
    assert (pixels(wide_png(values * 0)) == 0).all()


def test_scikit_learn_copies_the_warning_filters_into_its_threads():
    from sklearn.utils.parallel import Parallel, delayed

    decode(encode(Image.fromarray(RGB)), "x")
    assert Parallel(n_jobs=2, backend="threading")(delayed(abs)(-1) for _ in range(2)) == [1, 1]


@pytest.mark.parametrize("shape", [(6, 8), (33, 41)])
@pytest.mark.parametrize("blocks", [None, (1, 1), (2, 1), (2, 2), (4, 2)])
def test_uncompressed_tiff_of_brightness_and_colour_is_read(shape, blocks):
    """Blocks of pixels share two colour values; two by two is what the format means by default."""
    across, down = blocks or (2, 2)
    rows, columns = (-(-side // step) for side, step in zip(shape, (down, across), strict=True))
    light = np.arange(rows * down * columns * across, dtype=np.uint8).reshape(rows * down, columns * across)
    units = light.reshape(rows, down, columns, across).swapaxes(1, 2).reshape(rows, columns, -1)
    data = np.concatenate([units, np.full((rows, columns, 2), (90, 160), np.uint8)], axis=2).tobytes()
    bits = 8 + 2 + 12 * 11 + 4
    entries = [
        *((256, shape[1]), (257, shape[0]), (258, bits), (259, 1), (262, 6), (273, bits + 6), (277, 3)),
        *((278, shape[0]), (279, len(data)), (284, 1), (530, across | down << 16)),
    ]
    entries = entries if blocks else [*entries[:-1], (65000, 0)]
    counts = {258: 3, 530: 2}
    listed = b"".join(struct.pack("<HHII", tag, 3 if tag in counts else 4, counts.get(tag, 1), v) for tag, v in entries)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    tiff = head + listed + bytes(4) + struct.pack("<3H", 8, 8, 8) + data
    brightness = light[: shape[0], : shape[1]]
    stored = np.stack([brightness, np.full_like(brightness, 90), np.full_like(brightness, 160)], axis=2)
    expected = np.asarray(Image.fromarray(stored, "YCbCr").convert("RGB")).astype(int)
    assert abs(pixels(tiff) - expected).max() <= 1
    whole = EncodedImage(tiff, "a.tif").region((0, 0, 4, 4), (4, 4)).astype(int)
    assert abs(whole - expected[:4, :4]).max() <= 1


def test_tiff_as_pillow_writes_brightness_and_colour_is_read():
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8))
    assert abs(pixels(encode(colours.convert("YCbCr"), "TIFF")).astype(int) - np.asarray(colours)).max() <= 3
