"""What is reported about an image set before anything is spent on it."""

import pytest
from PIL import Image

from gpt4image.__main__ import main
from support.image_files import class_folders, encode, noise, write


@pytest.fixture
def images_command(tmp_path, capsys):
    """Run `gpt4image images` and return its findings and its report, on one line."""

    def run(source, *words):
        assert main(["images", str(source), "--work", str(tmp_path / "work"), *words]) == 0
        printed = capsys.readouterr()
        return [line.split("\t") for line in printed.out.splitlines()], " ".join(printed.err.split())

    return run


def test_images_of_each_class_and_split_are_listed(tmp_path, images_command):
    sizes = {"train/cat": 5, "train/dog": 4, "val/cat": 2, "val/dog": 1, "test/cat": 3, "test/dog": 2}
    found, report = images_command(class_folders(tmp_path / "set", sizes))
    assert found == [
        ["class", "cat", "train 5", "validation 2", "test 3"],
        ["class", "dog", "train 4", "validation 1", "test 2"],
    ]
    assert "images: 17 in 2 classes (train 9, validation 3, test 5)" in report
    assert "without a label" not in report and "too small" not in report


def test_copies_count_alike_where_splits_are_made_and_where_they_are_listed(tmp_path, images_command):
    folder = class_folders(tmp_path / "set", {"cat": 12, "dog": 12})
    for path in sorted(folder.rglob("*.png")):  # all copies of an image fall into one split
        write(path.with_name(f"again {path.name}"), path.read_bytes())
    for found, report in (images_command(folder), images_command(folder)):
        held = [sum(int(row[number].split()[1]) for row in found if row[0] == "class") for number in (3, 4)]
        assert f"{held[1]} for test and {held[0]} for validation out of train" in report and sum(held) % 2 == 0
    for number in range(90, 94):
        write(folder / "cat" / f"{number}.png", noise(number))
        write(folder / "cat" / f"again {number}.png", noise(number))
    assert "8 new images added: " in images_command(folder)[1]


def test_images_without_a_label_are_counted(tmp_path, images_command):
    for n in range(72):
        write(tmp_path / f"{n}.png", noise(n))
    labels = ["cat", "dog", "fox"] * 18 + ["cat", "dog"] + ["", "nan"] * 8
    rows = ["path,label", *(f"{n}.png,{label}" for n, label in enumerate(labels))]
    file = write(tmp_path / "set.csv", "\n".join(rows).encode())
    found, report = images_command(file)
    assert [line[1] for line in found if line[0] == "class"] == ["cat", "dog", "fox"]
    assert ["no label", "", "train 16", "validation 0", "test 0"] in found
    assert "without a label: 16 training images, used with soft labels, texts or teachers" in report


def test_classes_with_a_single_image_are_named(tmp_path, images_command):
    sizes = {"cat": 20, "dog": 20, **{f"rare {n}": 1 for n in range(7)}}
    _, report = images_command(class_folders(tmp_path / "set", sizes))
    assert "too small: 7 classes with a single image" in report
    assert "rare 0, rare 1, rare 2, rare 3, rare 4, ..." in report


def test_classes_without_a_test_image_are_named(tmp_path, images_command):
    root = class_folders(tmp_path / "set", {"train/cat": 6, "train/dog": 6, "train/fox": 6, "test/cat": 3})
    _, report = images_command(root)
    assert "not tested: 2 classes without a test image: dog, fox" in report


def test_extremely_narrow_pictures_are_left_out_before_training(tmp_path, images_command):
    root = class_folders(tmp_path / "set", {"cat": 5, "dog": 5})
    write(root / "cat" / "line.png", encode(Image.new("L", (5_000_000, 1))))
    found, _ = images_command(root)
    assert [
        "left out",
        "cat/line.png",
        "5000000 x 1 pixels: one side is more than 500 times the other (cut it up)",
    ] in found
