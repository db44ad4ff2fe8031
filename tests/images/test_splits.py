import collections

import numpy as np
import pytest

from gpt4image.cli.main import main
from gpt4image.core.errors import DataError
from gpt4image.images import load_images
from gpt4image.images.splits import complete_splits, split_of_file
from support.image_files import class_folders


def make(ids, labels, splits="train", **options):
    splits = np.array([splits] * len(ids) if isinstance(splits, str) else splits)
    options = {"validation_share": 0.1, "test_share": 0.2, "seed": 0} | options
    return complete_splits(splits, np.array(ids, "S32"), np.array(labels, np.int32), **options)


def many(count, classes):
    return [f"{number:032x}" for number in range(count)], [number % classes for number in range(count)]


def test_splits_are_stratified():
    ids, labels = many(1000, 5)
    splits = make(ids, labels)
    counted = collections.Counter(zip(labels, splits.tolist(), strict=True))
    for label in range(5):
        assert [counted[label, name] for name in ("train", "validation", "test")] == [140, 20, 40]


def test_shares_are_right_in_total_where_classes_are_tiny():
    ids, labels = many(300, 100)
    counted = collections.Counter(make(ids, labels).tolist())
    assert counted == {"train": 210, "validation": 30, "test": 60}
    by_label = collections.Counter(zip(labels, make(ids, labels).tolist(), strict=True))
    assert all(by_label[label, "train"] >= 1 for label in range(100))


def test_choice_depends_on_seed_and_ids_alone():
    ids, labels = many(200, 4)
    first = dict(zip(ids, make(ids, labels).tolist(), strict=True))
    order = np.random.default_rng(0).permutation(200)
    shuffled = [ids[i] for i in order], [labels[i] for i in order]
    assert dict(zip(shuffled[0], make(*shuffled).tolist(), strict=True)) == first
    assert dict(zip(ids, make(ids, labels, seed=1).tolist(), strict=True)) != first


def test_copies_stay_together():
    ids, labels = many(100, 4)
    splits = make(ids * 3, labels * 3)
    assert (splits.reshape(3, 100) == splits[:100]).all()
    conflicting = make(ids * 2, labels + [0] * 100)
    assert (conflicting[:100] == conflicting[100:]).all()


def test_small_classes_and_unlabelled_images_stay_in_train():
    ids, labels = many(40, 2)
    splits = make([*ids, "f" * 32, "e" * 32, "d" * 32], [*labels, 2, -1, -1])
    assert splits[40:].tolist() == ["train"] * 3
    assert make(ids[:4], [0, 0, 1, 1]).tolist().count("train") == 2


def test_given_splits_are_kept():
    ids, labels = many(90, 3)
    given = ["train"] * 30 + ["validation"] * 30 + ["test"] * 30
    assert make(ids, labels, given).tolist() == given
    without_validation = make(ids, labels, ["train"] * 60 + ["test"] * 30)
    assert collections.Counter(without_validation.tolist()) == {"train": 54, "validation": 6, "test": 30}
    without_test = make(ids, labels, ["train"] * 60 + ["validation"] * 30)
    assert collections.Counter(without_test.tolist()) == {"train": 48, "validation": 30, "test": 12}
    assert set(make(ids, labels, validation_share=0, test_share=0).tolist()) == {"train"}


def test_command_names_its_option_where_images_are_too_few_to_split(tmp_path, capsys):
    assert main(["images", str(class_folders(tmp_path, {"cat": 1, "dog": 1})), "--work", str(tmp_path / "work")]) == 1
    assert "--test-share" in capsys.readouterr().err


def test_too_few_images_to_split_are_refused():
    with pytest.raises(DataError, match="too few distinct images for a test split"):
        make(["a", "b"], [0, 1])
    with pytest.raises(DataError, match="no images to train on"):
        make(["a", "b"], [0, 1], "test")


def test_making_a_split_is_reported(tmp_path, capfd):
    load_images(class_folders(tmp_path, {"train/a": 9, "train/b": 9, "val/a": 2, "val/b": 2}))
    assert "only train, validation: set aside 4 for test out of train" in capfd.readouterr().err


def test_classes_without_training_images_are_reported(tmp_path, capfd):
    load_images(class_folders(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "test/c": 1}))
    assert "cannot be learned: c" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00003.parquet", "train"),
        ("imagenet_val_00.tar", "validation"),
        ("dev/0000.parquet", "validation"),
        ("test2017.tar", "test"),
        ("contest.tar", None),
        ("data/0.tar", None),
    ],
)
def test_splits_of_file_names(name, split):
    assert split_of_file(name) == split


def test_file_name_with_two_splits_is_refused():
    with pytest.raises(DataError, match="more than one split"):
        split_of_file("train-test.tar")
