"""Pictures go to a model unchanged where a server can take them, and are encoded again elsewhere."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gpt4image.llm.picture import prepare_picture
from support.image_files import noise, wide_png


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
