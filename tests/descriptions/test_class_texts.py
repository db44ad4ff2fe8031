"""Texts of the classes: files, order and vectors."""

import numpy as np
import pytest

from gpt4image.core.errors import ConfigError
from gpt4image.soft_labels import ClassTexts
from support.labelling_parts import WordEncoder


def test_plain_file_has_a_name_per_line(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("fire truck\n\n  bus \nbus\n")
    found = ClassTexts.read(path)
    assert found.names == ("fire truck", "bus")
    assert found.texts == (("a picture of fire truck",), ("a picture of bus",))


def test_table_may_give_a_class_several_texts(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("class,text\nbus,long vehicle\ncar,\nbus,has many seats\n")
    found = ClassTexts.read(path)
    assert dict(zip(found.names, found.texts, strict=True)) == {
        "bus": ("long vehicle", "has many seats"),
        "car": ("a picture of car",),
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "bus\n", "names 1 class,"),
        ("a.csv", "text\nlong vehicle\n", "no column 'class' or 'label'"),
        ("a.csv", "class,text\nbus,x\n,y\n", "line 3: the class has no name"),
    ],
)
def test_errors_name_file_and_row(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        ClassTexts.read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(ConfigError, match="does not exist"):
        ClassTexts.read(tmp_path / "other.txt")


def test_texts_follow_the_order_of_the_images_classes():
    texts = ClassTexts.of_names(["bus", "car"])
    assert texts.in_order(["car", "bus"], "photos").texts == (("a picture of car",), ("a picture of bus",))
    with pytest.raises(ConfigError, match="lacks 'van'"):
        texts.in_order(["car", "bus", "van"], "photos")
    with pytest.raises(ConfigError, match="has 'bus', but no image"):
        texts.in_order(["car"], "photos")


def test_names_match_in_composed_and_decomposed_characters():
    texts = ClassTexts.of_names(["caf\u00e9", "bus"])
    assert texts.in_order(["bus", "cafe\u0301"], "photos").texts == (("a picture of bus",), ("a picture of caf\u00e9",))


def test_vectors_of_several_encoders_lie_side_by_side():
    encoders = [WordEncoder(width=8), WordEncoder("two", width=4)]
    vectors, labels = ClassTexts(("bus", "car"), (("red bus", "blue bus"), ("car",))).embed(encoders)
    assert vectors.shape == (3, 12)
    assert labels.tolist() == [0, 0, 1]
    np.testing.assert_allclose(vectors[2, 8:], encoders[1].encode(["car"])[0])
