"""Pictures go to a model with unchanged pixels where a server can take them, and are encoded again elsewhere.

Whatever tells more than the pixels stays here.
"""

from __future__ import annotations

import base64
import io
import random

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from gpt4image.core.errors import ImageError
from gpt4image.images.decode import EncodedImage, decode
from gpt4image.images.thumbnails import thumbnail
from gpt4image.llm.picture import prepare_picture
from support.image_files import encode, noise, wide_png

SECRET = b"48 deg 12 min north"


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_colour_in_a_16_bit_file_is_sent_as_a_person_sees_it(bits):
    values = np.linspace(0, 2**bits - 1, 32 * 32 * 3).reshape(32, 32, 3)
    data = wide_png(np.rint(values))
    sent = prepare_picture(data, "x.png", 768)
    assert sent.data != data and sent.media_type == "image/jpeg"
    with Image.open(io.BytesIO(sent.data)) as image:
        assert np.asarray(image).max() > 240


def test_plain_file_of_8_bits_is_sent_unchanged():
    data = noise(1, 32)
    assert prepare_picture(data, "x.png", 768).data == data


def private(kind, *, orientation=1, **options):
    """An image whose file tells of its place in every way that its format has."""
    down, right = np.mgrid[:32, :48]
    pixels = np.stack([down * 8, right * 5, down * 2 + right], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, SECRET.decode()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 0.0)})
    xmp = b"<x:xmpmeta><dc:description>" + SECRET + b"</dc:description></x:xmpmeta>"
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Comment", SECRET.decode())
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    else:
        options["xmp"] = xmp
    if kind == "JPEG":
        options["comment"] = SECRET
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encode(Image.fromarray(pixels), kind, exif=exif, icc_profile=profile, **options) + SECRET, profile


def with_jfif_thumbnail(data):
    """A JPEG whose JFIF header holds a thumbnail of 1 x 6 pixels, that is our secret; and fill bytes before markers."""
    assert data[2:4] == b"\xff\xe0" and data[18:20] != b""
    thumbnail = SECRET[:18]
    return data[:4] + (34).to_bytes(2) + data[6:18] + b"\1\6" + thumbnail + b"\xff\xff" + data[20:]


FORMS = {
    "JPEG": {},
    "JPEG, progressive": {"progressive": True},
    "JPEG, restart markers": {"restart_marker_rows": 1},
    "JPEG, optimised": {"optimize": True, "subsampling": 0},
    "PNG": {},
    "WEBP": {},
    "WEBP, lossless": {"lossless": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_place_in_a_file_is_not_sent_and_pixels_and_profile_are(form):
    kind = form.partition(",")[0]
    data, profile = private(kind, **FORMS[form])
    sent = prepare_picture(data, "x", None).data
    assert SECRET in data and SECRET not in sent and b"Exif" not in sent and b"xmp" not in sent.lower()
    with Image.open(io.BytesIO(sent)) as image, Image.open(io.BytesIO(data)) as before:
        assert image.format == kind
        assert image.info["icc_profile"] == profile and not dict(image.getexif())
        assert np.array_equal(np.asarray(image), np.asarray(before))
    assert np.array_equal(np.asarray(decode(sent, "x")), np.asarray(decode(data, "x")))
    assert prepare_picture(sent, "x", None).data == sent


def test_thumbnail_in_the_header_of_a_jpeg_is_not_sent():
    data = noise(1, 32, "JPEG")
    hidden = with_jfif_thumbnail(data)
    assert decode(hidden, "x").tobytes() == decode(data, "x").tobytes()
    sent = prepare_picture(hidden, "x", None).data
    assert SECRET[:8] not in sent and decode(sent, "x").tobytes() == decode(data, "x").tobytes()
    assert sent == data


def test_grey_jpeg_is_sent_without_its_metadata():
    data = encode(Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)), "JPEG", comment=SECRET)
    sent = prepare_picture(data, "x", None)
    assert SECRET not in sent.data and sent.data != data
    assert decode(sent.data, "x").tobytes() == decode(data, "x").tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_picture_is_sent_upright_and_without_metadata(kind, orientation):
    data, _ = private(kind, orientation=orientation)
    sent = prepare_picture(data, "x", None)
    assert SECRET not in sent.data and (sent.width, sent.height) == EncodedImage(data, "x").size
    shown, meant = (np.asarray(decode(each, "x"), float) for each in (sent.data, data))
    assert np.abs(shown - meant).mean() < 10 < np.abs(shown - meant[::-1, ::-1]).mean()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_file_is_never_sent_with_its_metadata(kind):
    data, _ = private(kind)
    random.seed(0)
    for _ in range(300):
        place, value = random.randrange(len(data) - len(SECRET)), random.randrange(256)
        broken = data[:place] + bytes([value]) + data[place + 1 :]
        try:
            sent = prepare_picture(broken[: random.choice([len(data), place])], "x", None)
        except ImageError:
            continue
        assert SECRET not in sent.data


def in_mode(mode):
    """A smooth picture, half of it transparent where the mode knows that, as a file of that mode."""
    down, right = np.mgrid[:64, :96]
    colour = np.stack([down * 4, right * 2.5, 255 - down * 2 - right], axis=2).astype(np.uint8)
    alpha = np.where(down > 32, 255, 64 * (right > 48)).astype(np.uint8)
    if mode in ("LA;16", "RGBA;16"):
        planes = colour[..., :1] if mode == "LA;16" else colour
        return wide_png(np.concatenate([planes, alpha[..., None]], axis=2).astype(np.uint16) * 257)
    picture = Image.fromarray(colour)
    if mode in ("LA", "RGBA"):
        picture = picture.convert(mode)
        picture.putalpha(Image.fromarray(alpha))
    elif mode == "PA":
        picture = picture.quantize(32).convert("PA")
        picture.putalpha(Image.fromarray(alpha))
        return encode(picture, "TIFF")
    elif mode == "I;16":
        picture = Image.fromarray(colour[..., 0].astype(np.uint16) * 16)
    elif mode == "P":
        return encode(picture.quantize(32), "PNG", transparency=bytes(range(0, 256, 8)))
    else:
        picture = picture.convert(mode)
    return encode(picture, "JPEG" if mode == "CMYK" else "PNG")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I;16", "LA;16", "RGBA;16"])
def test_model_and_pages_see_what_training_sees(mode):
    data = in_mode(mode)
    trained = EncodedImage(data, "x")
    seen = trained.region((0, 0, *trained.size), trained.size).astype(float)
    for shown in (prepare_picture(data, "x", None).data_url, thumbnail(trained.decode())):
        with Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))) as image:
            assert np.abs(np.asarray(image.convert("RGB")) - seen).mean() < 6  # of the JPEG
