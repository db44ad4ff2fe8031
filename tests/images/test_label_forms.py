"""Labels that are no classes are refused with what they look like; class names of every other kind are taken."""

import json

import numpy as np
import pytest

from gpt4image.core.errors import DataError
from gpt4image.images import load_images
from support.image_files import class_folders, noise, write


def table(folder, labels):
    for number in range(len(labels)):
        write(folder / f"{number}.png", noise(number))
    rows = [{"path": f"{number}.png", "label": label} for number, label in enumerate(labels)]
    return write(folder / "set.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


NUMBERS = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("labels", "looks"),
    [
        (
            [round(value, 2) for value in NUMBERS.normal(5, 2, 60).tolist()],
            r"regression.*56 different ones of 60 images",
        ),
        (NUMBERS.integers(18, 400, 60).tolist(), "regression"),
        ([1.5, 2.5, 3.5] * 4, "regression.*3 different ones of 12 images, such as '1.5', '2.5', '3.5'"),
        (["animals", "food", "animals,food", "animals"] * 5, "several labels.*such as 'animals,food'"),
        (["a; b", "b; c", "a; c"] * 5, "several labels"),
        (["cat|dog", "cat", "dog"] * 5, "several labels"),
        (["['cat', 'dog']", "['cat']"] * 5, "several labels"),
        ([f"a photo of thing {number}" for number in range(30)], "names or texts of single images"),
        (["Cat", "cat", "dog"] * 5, "one class written in several ways.*such as 'Cat', 'cat'"),
        (["sea lion", "sea\u00a0lion", "otter"] * 5, "one class written in several ways"),
        (["01", "1", "2"] * 5, "one class written in several ways"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, looks):
    file = table(tmp_path, labels)
    with pytest.raises(DataError, match=rf"(?s){looks}.*set unusual_labels to keep"):
        load_images(file)
    kept = load_images(file, unusual_labels="keep", validation_share=0, test_share=0)
    assert len(kept.classes) == len({str(label) for label in labels})


@pytest.mark.parametrize(
    "labels",
    [
        [number % 25 for number in range(50)],
        [7, 1000, 12] * 5,
        ["tench, Tinca tinca", "crane", "maillot", "maillot, tank suit"] * 5,
        ["salt and pepper", "salt", "pepper", "fish/chips", "fish"] * 4,
        ["1.5", "2"] * 20,
        ["a", "A", "b", "B"] * 4,
        ["New York, NY", "Albany, NY"] * 10,
    ],
)
def test_class_names_with_numbers_and_commas_are_taken(tmp_path, labels):
    found = load_images(table(tmp_path, labels), validation_share=0, test_share=0)
    assert set(found.classes) == {str(label) for label in labels}


def test_folders_with_numbers_for_names_are_classes(tmp_path):
    sizes = {str(number): 2 for number in NUMBERS.choice(5000, 30, replace=False).tolist()}
    assert set(load_images(class_folders(tmp_path, sizes)).classes) == set(sizes)


def test_folders_of_several_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match="several labels of an image in one"):
        load_images(class_folders(tmp_path, {"cat": 4, "dog": 4, "cat,dog": 4}))


@pytest.mark.parametrize("labels", [["0.0", "1.0", ""] * 5, [0.0, 1.0, None] * 5])
def test_whole_numbers_that_pandas_made_floats_are_whole_again(tmp_path, labels):
    assert load_images(table(tmp_path, labels)).classes == ("0", "1")
