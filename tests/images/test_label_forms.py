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
        ([value / 2 for value in range(2, 11)] * 20, "regression.*9 different ones.*such as '1.0', '1.5', '2.0'"),
        (list(range(1987, 2001)) * 20, "regression.*14 different ones"),
        (["2019-05", "2019-06", "2020-01"] * 5, "regression"),
        ([f"{value / 4:.2f}".replace(".", ",") for value in range(60)], r"regression.*such as .0,00., .0,25."),
        ([f"{value * 3} %" for value in range(60)], "regression"),
        ([f"{value * 3} years" for value in range(30)] * 2, "regression"),
        ([f"${value * 70:,}.50" for value in range(30)] * 2, "regression"),
        ([f"{value * 1.1e-3:.3e}" for value in range(30)] * 2, "regression"),
        ([f"{value * 1.5 - 3} \u00b0C" for value in range(30)] * 2, "regression"),
        ([f"{value % 12 + 1}/{value + 1}/2026" for value in range(20)] * 3, "regression"),
        ([f"2026-01-01 10:{value:02d}:00" for value in range(20)] * 3, "regression"),
        ([f"{value + 1} January 2026" for value in range(20)] * 3, "regression"),
        ([f"{value % 9 + 1}:{value:02d}" for value in range(20)] * 3, "regression"),
        (["cat", "dog", "cat dog"] * 5, "several labels.*such as 'cat dog'"),
        (["cat", "dog", "cat+dog", "dog / cat"] * 5, "several labels"),
        (["animals", "food", "animals,food", "animals"] * 5, "several labels.*such as 'animals,food'"),
        (["a; b", "b; c", "a; c"] * 5, "several labels"),
        (["cat|dog", "cat", "dog"] * 5, "several labels"),
        (["['cat', 'dog']", "['cat']"] * 5, "several labels"),
        ([f"a photo of thing {number}" for number in range(30)], "names or texts of individual images"),
        (["Cat", "cat", "dog"] * 5, "one class in several spellings.*such as 'Cat', 'cat'"),
        (["sea lion", "sea\u00a0lion", "otter"] * 5, "one class in several spellings"),
        (["cat", "cat\u200b", "dog"] * 5, r"one class in several spellings.*'cat\\u200b'"),
        (["T-shirt", "T\u2010shirt", "sock"] * 5, r"one class in several spellings.*'T-shirt', 'T\\u2010shirt'"),
        (["on - off", "on \u2212 off", "sock"] * 5, "one class in several spellings"),
        (["lady's slipper", "lady\u2019s slipper", "sock"] * 5, "one class in several spellings"),
        (['12" pipe', "12\u2033 pipe", "sock"] * 5, "one class in several spellings"),
        (["red\u3164fox", "red fox", "sock"] * 5, "one class in several spellings"),
        (["1", "1.00e+00", "2"] * 5, "one class in several spellings"),
        (["01", "1", "2"] * 5, "one class in several spellings"),
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
        ["sea lion", "mountain lion", "sea snake", "lion"] * 5,
        [f"{colour} {shape}" for colour in ("red", "green", "blue") for shape in ("dot", "star")] * 5,
        ["1950s", "1960s", "new"] * 5,
        ["1990", "2000"] * 5,
        ["+", "-", "?", "a"] * 5,
    ],
)
def test_class_names_with_numbers_and_commas_are_taken(tmp_path, labels):
    found = load_images(table(tmp_path, labels), validation_share=0, test_share=0)
    assert set(found.classes) == {str(label) for label in labels}


def test_folders_with_numbers_for_names_are_classes(tmp_path):
    sizes = {str(number): 2 for number in NUMBERS.choice(5000, 30, replace=False).tolist()}
    assert set(load_images(class_folders(tmp_path, sizes)).classes) == set(sizes)


@pytest.mark.parametrize("missing", ["?", "-", "--", "...", "\\N", "null", "NaN", "#N/A", "(null)"])
def test_cells_that_stand_for_a_missing_label_are_no_class(tmp_path, missing, capsys):
    found = load_images(table(tmp_path, ["cat", "dog", missing] * 5), validation_share=0, test_share=0)
    assert found.classes == ("cat", "dog") and (found.labels < 0).sum() == 5
    if missing in "?--...":
        assert f"no label: 5 images with '{missing}' instead of a class" in capsys.readouterr().err


@pytest.mark.parametrize("unclear", ["unknown", "<missing>", "none", "None of these", "Missing", "-1"])
def test_a_class_that_may_be_a_missing_label_is_pointed_out(tmp_path, unclear, capsys):
    names = ["0", "1"] if unclear == "-1" else ["cat", "dog"]
    found = load_images(table(tmp_path, [*names, unclear] * 5), validation_share=0, test_share=0)
    assert set(found.classes) == {*names, unclear}
    said = " ".join(capsys.readouterr().err.split())
    assert (f"'{unclear}' is used as a class, with 5 images. If it means that the label is missing" in said) == (
        "of these" not in unclear
    )
    load_images(tmp_path / "set.jsonl", validation_share=0, test_share=0, unusual_labels="keep")
    assert "is used as a class" not in capsys.readouterr().err


@pytest.mark.parametrize("joined", ["cat and dog", "dog_cat", "cat-dog"])
def test_a_class_that_joins_the_names_of_others_is_pointed_out(tmp_path, joined, capsys):
    found = load_images(table(tmp_path, ["cat", "dog", joined, "2 stars"] * 5), validation_share=0, test_share=0)
    assert set(found.classes) == {"cat", "dog", joined, "2 stars"}
    assert f"some class names combine others ('{joined}')" in " ".join(capsys.readouterr().err.split())


def test_folders_of_years_above_the_classes_are_refused(tmp_path):
    class_folders(tmp_path / "2019", {"cat": 3, "dog": 3})
    class_folders(tmp_path / "2020", {"cat": 3, "fox": 3}, seed=1)
    with pytest.raises(DataError, match="look like parts of the set, which contain the folders cat, dog, fox"):
        load_images(tmp_path)


@pytest.mark.parametrize(
    "folders",
    [
        ["batch1/cat", "batch1/dog", "batch1/fox", "batch1/owl", "batch2/cat", "batch2/dog"],
        ["part_a/cat", "part_a/dog", "part_b/cat", "part_b/fox", "part_c/dog", "part_c/fox"],
        ["Set 1/cat", "Set 1/dog", "Set 2/dog", "Set 2/fox", "Set 3/cat", "Set 3/fox", "Set 3/owl"],
    ],
)
def test_numbered_folders_above_the_classes_are_refused(tmp_path, folders):
    class_folders(tmp_path, dict.fromkeys(folders, 2))
    with pytest.raises(DataError, match="look like parts of the set, which contain the folders cat, dog"):
        load_images(tmp_path)
    assert load_images(tmp_path, unusual_labels="keep", validation_share=0, test_share=0).classes[0][-1] in "1a"


def test_classes_that_hold_in_part_the_same_folders_are_pointed_out(tmp_path, capsys):
    class_folders(tmp_path, dict.fromkeys(["london/cat", "london/dog", "paris/cat", "paris/fox", "rome/fox"], 2))
    assert load_images(tmp_path, validation_share=0, test_share=0).classes == ("london", "paris", "rome")
    said = " ".join(capsys.readouterr().err.split())
    assert "the classes london, paris, rome contain some of the same folders (cat, fox)" in said


@pytest.mark.parametrize(
    "folders",
    [
        ["cat/site1", "cat/site2", "dog/site1", "dog/site3", "fox/site2", "fox/site3"],
        ["cat/2019-05", "cat/2020-01", "dog/2019-05", "dog/2021-07", "fox/2020-01"],
        ["type1/indoor", "type2/outdoor", "type2/night", "type3/indoor", "type3/snow"],
        ["cat/images", "cat/more", "dog/images", "dog/rest"],
        ["batch1/cat", "batch1/dog", "batch2/fox", "batch2/owl"],
        ["cat/persian", "cat/siamese", "dog/poodle", "dog/beagle", "dog/persian"],
    ],
)
def test_folders_within_classes_are_left_alone(tmp_path, folders, capsys):
    class_folders(tmp_path, dict.fromkeys(folders, 2))
    names = sorted({folder.partition("/")[0] for folder in folders})
    assert list(load_images(tmp_path, validation_share=0, test_share=0).classes) == names
    assert "same folders" not in capsys.readouterr().err


def test_folders_of_years_that_hold_images_are_classes(tmp_path):
    assert load_images(class_folders(tmp_path, {"2019": 3, "2020": 3, "2021/images": 3})).classes[0] == "2019"


def test_folders_of_several_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match="several labels of an image in one"):
        load_images(class_folders(tmp_path, {"cat": 4, "dog": 4, "cat,dog": 4}))


@pytest.mark.parametrize("labels", [["0.0", "1.0", ""] * 5, [0.0, 1.0, None] * 5])
def test_whole_numbers_that_pandas_made_floats_are_whole_again(tmp_path, labels):
    assert load_images(table(tmp_path, labels)).classes == ("0", "1")
