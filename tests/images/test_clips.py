"""Frames of clips: which are chosen, and how they are kept."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.images.clips import FrameChoice, contact_sheet, cut, middles, pack_frames, spread, unpack_frames


@pytest.mark.parametrize(("size", "count"), [(100, 8), (9, 4), (8, 8), (3, 8), (1, 1)])
def test_even_frames_are_the_middles_of_equal_stretches(size, count):
    found = FrameChoice(count).positions(size)
    kept = min(size, count)
    assert found == [int((number + 0.5) * size / kept) for number in range(kept)]
    assert len(set(found)) == kept


def test_scenes_are_cut_at_the_largest_changes_and_long_stretches_are_halved():
    changes = np.zeros(99)
    changes[[9, 29, 59]] = 80, 200, 90
    assert cut(changes, 3) == [0, 30, 60, 100]
    assert cut(changes, 4) == [0, 10, 30, 60, 100]
    assert cut(changes, 5) == [0, 10, 30, 60, 80, 100]
    assert middles(cut(changes, 4)) == [5, 20, 45, 80]


def test_slow_changes_are_no_cuts_and_short_clips_give_all_frames():
    assert cut(np.full(7, 26.9), 2) == [0, 4, 8]
    assert cut(np.full(3, 255.0), 9) == [0, 1, 2, 3, 4]
    assert cut(np.empty(0), 4) == [0, 1]


def test_few_frames_are_repeated_in_a_row():
    assert spread([1, 2, 3], 7) == [1, 1, 2, 2, 2, 3, 3]


def test_choices_have_names_that_lead_back_to_them():
    for choice in (FrameChoice(), FrameChoice(3, "scene", 0)):
        assert FrameChoice.from_name(choice.name) == choice
    for values in ((0,), (1, "random"), (1, "even", -1)):
        with pytest.raises(ConfigError, match="frame"):
            FrameChoice(*values)


def test_kept_frames_come_back_and_damage_is_noticed():
    data = pack_frames("ab", [b"first\n", b"second"])
    assert unpack_frames(data, "clip") == ("ab", [b"first\n", b"second"])
    for damaged in (data[:-1], data + b".", b"", b"\xff\xd8\xff", b"[]\n1"):
        with pytest.raises(ImageError, match="clip: its stored frames are damaged"):
            unpack_frames(damaged, "clip")


def test_contact_sheet_shows_frames_in_rows():
    frames = [Image.new("RGB", (40, 30), (number * 60, 0, 0)) for number in range(4)]
    sheet = contact_sheet(frames)
    assert sheet.size == (80, 60)
    assert [sheet.getpixel(at)[0] for at in ((5, 5), (45, 5), (5, 35), (45, 35))] == [0, 60, 120, 180]
    assert contact_sheet(frames * 5).size == (120, 90)
