import os
import unicodedata

import pytest

from gpt4image.core.errors import ConfigError, DataError
from gpt4image.images import load_images
from support.image_files import class_folders, names_of, noise, reasons, split_sizes, write


def test_class_folders_as_torchvision_orders_them(tmp_path):
    class_folders(tmp_path, {"b": 3, "B": 3, "a-c": 3, "a": 2, "a/c": 2, "a/c-d": 1, "a/c/e": 1, "10": 3, "9": 3})
    table = load_images(tmp_path)
    expected = [  # the loops of torchvision.datasets.folder.make_dataset
        (os.path.relpath(f"{root}/{name}", tmp_path), label)
        for label, folder in enumerate(sorted(entry.name for entry in os.scandir(tmp_path)))
        for root, _, names in sorted(os.walk(tmp_path / folder, followlinks=True))
        for name in sorted(names)
    ]
    assert [(table.path(i), int(table.labels[i])) for i in range(len(table))] == expected
    assert table.classes == ("10", "9", "B", "a", "a-c", "b")
    assert table.read(0) == (tmp_path / table.path(0)).read_bytes()
    assert table.rejected == ()


def test_split_folders_under_usual_names(tmp_path):
    class_folders(tmp_path, {f"{split}/{name}": 2 for split in ("Train", "valid", "test") for name in ("cat", "dog")})
    table = load_images(tmp_path)
    assert split_sizes(table) == [4, 4, 4]
    assert names_of(table, "validation")["valid/cat/000.png"] == "cat"


def test_a_class_may_be_called_train(tmp_path):
    class_folders(tmp_path, {"car": 5, "plane": 5, "train": 5})
    assert load_images(tmp_path).classes == ("car", "plane", "train")
    class_folders(tmp_path, {f"{name}/{view}": 2 for name in ("car", "plane", "train") for view in ("front", "side")})
    assert load_images(tmp_path, unusual_labels="keep").classes == ("car", "plane", "train")


def test_folder_of_an_unknown_split_is_refused(tmp_path):
    class_folders(tmp_path, {"train/cat": 1, "test/cat": 1, "unsupervised": 1})
    with pytest.raises(DataError, match=r"'unsupervised' is not a split.*validation"):
        load_images(tmp_path)


def test_every_file_is_accounted_for(tmp_path):
    class_folders(tmp_path, {"cat": 5, "dog": 5, "notes": 0})
    write(tmp_path / "loose.png", noise(1))
    write(tmp_path / "cat" / "readme.txt", b"words")
    write(tmp_path / "cat" / "fake.jpg", b"words")
    write(tmp_path / "cat" / "suffixless", noise(2))
    write(tmp_path / "dog" / "UPPER.PNG", noise(3))
    write(tmp_path / "notes" / "a.md", b"words")
    for hidden in (".DS_Store", "Thumbs.db", "._000.png"):
        write(tmp_path / "cat" / hidden, b"system")
    write(tmp_path / ".git" / "x" / "y.png", noise(4))
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    (tmp_path / os.fsdecode(b"dog/\xff.png")).write_bytes(noise(5))
    table = load_images(tmp_path)
    assert table.classes == ("cat", "dog") and len(table) == 12
    assert reasons(table) == {
        "loose.png": "is not in a class folder",
        "cat/readme.txt": "not an image (suffix .txt)",
        "cat/fake.jpg": "not an image in a format that Pillow can read",
        "notes/a.md": "not an image (suffix .md)",
        "dog/gone.png": "a broken link",
        "dog/pipe.png": "not a regular file",
        "dog/�.png": "the file name is not valid UTF-8: rename the file",
    }


def test_links_are_followed_and_loops_are_not(tmp_path):
    class_folders(tmp_path / "store", {"x": 3})
    class_folders(tmp_path / "set", {"cat": 3})
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "set" / "cat" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "cat" / "one.png").symlink_to(tmp_path / "store" / "x" / "000.png")
    table = load_images(tmp_path / "set")
    assert table.classes == ("cat", "dog") and len(table) == 7


def test_unlabelled_test_folder_is_listed(tmp_path):
    class_folders(tmp_path, {"train/cat": 9, "train/dog": 9, "val/cat": 2, "val/dog": 2, "test": 3})
    table = load_images(tmp_path)
    assert len(table.split("test")) == 4 and len(table.split("validation")) == 4
    assert reasons(table)["test/000.png"] == "is not in a class folder"


def test_folder_without_classes_is_refused(tmp_path):
    class_folders(tmp_path, {"": 3})
    write(tmp_path / "labels.csv", b"x,y\n")
    with pytest.raises(DataError, match=r"has no class folders.*give that file as the source"):
        load_images(tmp_path)


def test_one_class_is_not_enough(tmp_path):
    class_folders(tmp_path, {"cat": 3})
    write(tmp_path / "dog" / "1.png", b"")
    with pytest.raises(DataError, match=r"1 class \(cat\)"):
        load_images(tmp_path)


def test_class_folders_have_no_columns(tmp_path):
    class_folders(tmp_path, {"cat": 3, "dog": 3})
    for named in ({"label_column": "label"}, {"image_column": "path"}, {"label_separator": ";"}):
        with pytest.raises(ConfigError, match="no columns: leave out image_column, label_column, label_separator and"):
            load_images(tmp_path, **named)


def test_decomposed_and_composed_folder_names_are_one_class(tmp_path):
    names = [unicodedata.normalize(form, "Käse") for form in ("NFD", "NFC")]
    class_folders(tmp_path, {f"train/{names[0]}": 3, "train/dog": 3, f"test/{names[1]}": 2, "test/dog": 2})
    table = load_images(tmp_path)
    assert table.classes == (names[1], "dog")
    assert set(names_of(table, "test").values()) == {names[1], "dog"}


def test_names_in_one_spelling_stay_as_they_are(tmp_path):
    name = unicodedata.normalize("NFD", "Käse")
    assert load_images(class_folders(tmp_path, {name: 3, "1.0": 3})).classes == ("1.0", name)


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "testing")])
def test_training_and_testing_are_splits(tmp_path, names):
    class_folders(tmp_path, {f"{split}/{name}": 3 for split in names for name in ("cat", "dog", "fox")})
    table = load_images(tmp_path, validation_share=0)
    assert table.classes == ("cat", "dog", "fox") and split_sizes(table) == [9, 0, 9]


@pytest.mark.parametrize(
    "names", [("train_images", "test_images"), ("trainset", "holdout"), ("a", "myTest"), ("train", "eval", "extra")]
)
def test_splits_under_other_names_are_not_taken_for_classes(tmp_path, names):
    class_folders(tmp_path, {f"{split}/{name}": 3 for split in names for name in ("cat", "dog", "fox")})
    with pytest.raises(DataError, match=rf"{', '.join(sorted(names))} look like splits.*train, validation .* and test"):
        load_images(tmp_path)


def test_split_folders_inside_class_folders_are_refused(tmp_path):
    class_folders(tmp_path, {f"{name}/{split}": 3 for split in ("train", "test") for name in ("cat", "dog")})
    with pytest.raises(DataError, match="every class folder contains the split folders test, train"):
        load_images(tmp_path)


def test_split_words_inside_class_names_are_no_splits(tmp_path):
    class_folders(tmp_path, {"contest": 3, "trainer": 3, "test tube": 3, "valley": 3})
    assert len(load_images(tmp_path).classes) == 4


@pytest.mark.parametrize("above", ["", "train/"])
def test_equal_folders_inside_all_classes_are_refused(tmp_path, above):
    names = ("Lernen", "Pruefen", "Rest")
    class_folders(tmp_path, {f"{above}{name}/{inner}": 3 for name in names for inner in ("cat", "dog")})
    with pytest.raises(DataError, match=r"parts of the set, which contain the folders cat, dog"):
        load_images(tmp_path)
    assert load_images(tmp_path, unusual_labels="keep").classes == names


def test_some_equal_folders_inside_classes_are_taken(tmp_path):
    class_folders(tmp_path, {"cat/2019": 3, "cat/2020": 3, "dog/2020": 3, "dog/2021": 3, "dog/2022": 3})
    assert load_images(tmp_path).classes == ("cat", "dog")


def test_class_folders_two_levels_down_are_named(tmp_path):
    with pytest.raises(DataError, match=r"one folder only, a\. Did you mean .*a/b\?"):
        load_images(class_folders(tmp_path, {"a/b/cat": 3, "a/b/dog": 3}))


def test_class_folders_one_level_below_the_splits_are_named(tmp_path):
    sizes = {f"{split}/images/{name}": 3 for split in ("train", "test") for name in ("cat", "dog")}
    with pytest.raises(DataError, match="If cat, dog are the classes, move them from images into train"):
        load_images(class_folders(tmp_path, sizes))


def test_composed_folder_names_make_no_empty_class(tmp_path, capfd):
    decomposed, composed = "e\u0301te\u0301", "\u00e9t\u00e9"
    load_images(class_folders(tmp_path, {f"train/{decomposed}": 3, "train/b": 3, f"test/{composed}": 1, "test/b": 1}))
    assert "are not used as classes" not in capfd.readouterr().err


@pytest.mark.parametrize("inner", ["photos/cat", "photos/train/cat"])
def test_a_folder_too_high_names_the_one_below(tmp_path, inner):
    class_folders(tmp_path, {inner: 3, inner.replace("cat", "dog"): 3, inner.replace("train", "test"): 1})
    with pytest.raises(DataError, match=r"in one folder only, photos\. Did you mean .*photos\?"):
        load_images(tmp_path)


@pytest.mark.parametrize("name", ["unlabelled", "_unlabelled", "Unlabeled"])
def test_folder_of_unlabelled_images_is_no_class(tmp_path, name, capfd):
    table = load_images(class_folders(tmp_path, {"cat": 4, "dog": 4, name: 3, f"{name}/inner": 1}))
    assert table.classes == ("cat", "dog")
    assert table.class_counts()[-1].tolist() == [4, 0, 0]
    assert "are not used as classes" not in capfd.readouterr().err


def test_folder_of_unlabelled_images_beside_split_folders(tmp_path):
    sizes = {"train/cat": 3, "train/dog": 3, "test/cat": 1, "test/dog": 1, "unlabelled": 4, "unlabelled/owl": 2}
    table = load_images(class_folders(tmp_path, sizes), validation_share=0)
    assert table.classes == ("cat", "dog")
    assert table.class_counts()[-1].tolist() == [6, 0, 0]
    assert split_sizes(table) == [12, 0, 2]


def test_labelled_and_unlabelled_folders_are_parts_of_one_set(tmp_path):
    table = load_images(class_folders(tmp_path, {"labelled/cat": 5, "labelled/dog": 5, "unlabelled": 2}))
    assert table.classes == ("cat", "dog")
    assert table.class_counts().sum(axis=1).tolist() == [5, 5, 2]
