"""The built set of images with several labels: what is pasted is what the labels and texts say."""

import json

import numpy as np
import pytest
import several_labels

from gpt4image import load_images
from support.drawings import draw


class Drawings:
    """Six pictures of three classes."""

    classes, labels = ("blue", "green", "red"), np.array([0, 0, 1, 1, 2, 2])

    def texts(self, column):
        return [f"A {self.classes[label]} disc." for label in self.labels]

    def split(self, name):
        return np.arange(6)

    def read(self, row):
        import io

        from support.drawings import COLOURS

        file = io.BytesIO()
        draw(COLOURS[self.classes[self.labels[row]]], "disc", row).save(file, "PNG")
        return file.getvalue()


@pytest.mark.parametrize("unknown", [0.0, 0.4])
def test_labels_and_texts_are_those_of_the_pasted_pictures(tmp_path, monkeypatch, unknown):
    monkeypatch.setattr(several_labels, "load_images", lambda _: Drawings())
    monkeypatch.setattr(several_labels, "example_images", lambda: None)
    source = several_labels.build(tmp_path / "built", 20, unknown, 0)
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    images = load_images(source, label_columns=Drawings.classes if unknown else ())
    assert images.task == "multi-label"
    for row, marks in zip(rows, images.label_matrix.tolist(), strict=True):
        told = [name in row["description"] for name in images.classes]
        assert all(mark == said for mark, said in zip(marks, told, strict=True) if mark >= 0)
        assert any(told) and (unknown or -1 not in marks)
    known = images.label_matrix[images.split("train")] >= 0
    assert 1 - known.mean() == pytest.approx(unknown, abs=0.15)
    assert (images.label_matrix[images.split("test")] >= 0).all()
