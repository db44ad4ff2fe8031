"""Exact copies are found, and dropped from the side that learns."""

import pytest

from gpt4image.images import drop_leaks, find_duplicates, load_images
from support.image_files import class_folders, noise, split_sizes, write


@pytest.fixture
def leaky(tmp_path):
    class_folders(tmp_path, {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in ("a", "b")})
    for path in ("train/a/x", "train/a/y", "train/b/z"):  # a repetition within train, under two labels
        write(tmp_path / f"{path}.png", noise(100))
    for path in ("train/a/v", "val/a/v"):
        write(tmp_path / f"{path}.png", noise(101))
    for path in ("train/a/t", "val/a/t", "test/a/t"):
        write(tmp_path / f"{path}.png", noise(102))
    return load_images(tmp_path)


def test_copies_leaks_and_conflicting_labels_are_found(leaky):
    report = find_duplicates(leaky)
    assert (report.groups, report.surplus) == (3, 5)
    assert sorted(map(len, report.copies.values())) == [2, 3, 3]
    assert ("train/a/v.png", "val/a/v.png") in report.copies.values()
    assert sorted(map(dict, report.leaked.values()), key=len) == [
        {"train": ("train/a/v.png",), "validation": ("val/a/v.png",)},
        {"train": ("train/a/t.png",), "validation": ("val/a/t.png",), "test": ("test/a/t.png",)},
    ]
    (places,) = report.conflicting.values()
    assert places == {"a": ("train/a/x.png", "train/a/y.png"), "b": ("train/b/z.png",)}


def test_leaks_are_dropped_from_the_training_side(leaky):
    clean = drop_leaks(leaky)
    assert split_sizes(leaky) == [11, 8, 7] and split_sizes(clean) == [9, 7, 7]
    assert find_duplicates(clean).leaked == {}
    assert {image.path: image.reason for image in clean.rejected} == {
        "train/a/t.png": "the same image is in the test split",
        "val/a/t.png": "the same image is in the test split",
        "train/a/v.png": "the same image is in the validation split",
    }
    assert clean.read(len(clean) - 1) == leaky.read(len(leaky) - 1)
    assert clean.ids.tolist() == clean.rows["id"].cast("binary").to_pylist()


def test_set_without_copies_has_no_duplicates(tmp_path):
    table = load_images(class_folders(tmp_path, {"a": 5, "b": 5}))
    assert find_duplicates(table).groups == 0
    assert drop_leaks(table).rows.equals(table.rows)


def test_made_splits_do_not_divide_copies(tmp_path):
    for number in range(30):
        for copy in "xy":
            write(tmp_path / "ab"[number % 2] / f"{number}{copy}.png", noise(number))
    report = find_duplicates(load_images(tmp_path))
    assert report.groups == 30 and not report.leaked
