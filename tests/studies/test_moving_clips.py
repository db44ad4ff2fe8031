"""The moving clips: every move is one of frames in an order, and what is broken is left out by name."""

from __future__ import annotations

import json

import moving_clips
import numpy as np
import pytest

from gpt4image import load_images
from support.drawings import COLOURS, draw
from support.image_files import encode


class Drawings:
    """Shapes of three colours on white."""

    classes = tuple(sorted(COLOURS))

    def split(self, name):
        return np.arange(6)

    def label_of(self, row):
        return self.classes[row % 3]

    def read(self, row):
        return encode(draw(COLOURS[self.label_of(row)], "disc", row), "PNG")


def test_clips_are_read_and_told_of(tmp_path):
    folder = moving_clips.build(Drawings(), tmp_path / "clips", 36, 48, 6, 0)
    images = load_images(folder, frames=6)
    assert images.classes == tuple(moving_clips.MOVES)
    told = {line["path"]: line["text"] for line in map(json.loads, (folder / "descriptions.jsonl").open())}
    assert set(images.rows["path"].to_pylist()) == set(told)
    assert len(images.rejected) == 3 * 3
    assert all(moving_clips.MOVES[images.label_of(row)] in told[images.path(row)] for row in range(len(images)))


@pytest.mark.parametrize(("one", "other"), [("left", "right"), ("rises", "falls"), ("shrinks", "grows")])
def test_opposite_moves_end_where_the_other_begins(one, other):
    made = [moving_clips.animate(Drawings().read(0), move, 48, 5, np.random.default_rng(1)) for move in (one, other)]
    first, last = (np.asarray(made[0][at]).astype(int) for at in (0, -1))
    end = np.asarray(made[1][-1]).astype(int)
    assert np.abs(first - end).mean() < np.abs(last - end).mean()
