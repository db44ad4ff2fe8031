import os

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt4image.core.errors import ConfigError, DataError
from gpt4image.images import decode, load_images
from support import CLIPART12
from support.image_files import class_folders, names_of, noise, reasons, split_sizes, write

CLIPART = CLIPART12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def columns(count=6, start=0, **more):
    return {
        "image": [{"bytes": noise(start + n), "path": f"{start + n}.png"} for n in range(count)],
        "label": [n % 2 for n in range(count)],
        "caption": [f"text {start + n}" for n in range(count)],
    } | more


FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"]), "caption": datasets.Value("string")}
)


def test_clipart12(tmp_path):
    table = load_images(CLIPART, work=tmp_path / "work")
    assert split_sizes(table) == [1204, 176, 450]
    assert ",".join(table.classes) == (
        "animals,buildings,clothing,electronics,food,music,office,people,plants,sports,tools,transportation"
    )
    assert table.reader.text_columns == ("description", "class_conditioned_description")
    assert table.rejected == () and table.image(0).size == (160, 160)
    held_out = pq.read_table(CLIPART / "test.parquet")
    assert held_out["image"][-1].as_py() == {"bytes": table.read(1829), "path": table.path(1829)}
    assert held_out["description"][-1].as_py() == table.texts("description")[1829]


def test_plain_parquet_with_binary_images(tmp_path):
    plain = {"photo": [noise(n) for n in range(6)] + [None, b"words"], "category": list("xyxyxyxy"), "n": range(8)}
    pq.write_table(pa.table({k: list(v) for k, v in plain.items()}), tmp_path / "images.parquet")
    table = load_images(tmp_path / "images.parquet")
    assert table.classes == ("x", "y") and len(table) == 6
    assert table.path(0) == "train/0" and table.read(3) == noise(3)
    assert reasons(table) == {
        "train/6": "row 6 has no image",
        "train/7": "not an image in a format that Pillow can read",
    }


def test_splits_of_file_names_and_different_texts(tmp_path):
    for name, start in (("data/train-00000-of-00002", 0), ("data/train-00001-of-00002", 6)):
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns(start=start)), tmp_path / f"{name}.parquet")
    held_out = columns(start=20)
    del held_out["caption"]
    pq.write_table(pa.table(held_out), tmp_path / "data/test-00000-of-00001.parquet")
    table = load_images(tmp_path)
    assert len(table.split("train")) + len(table.split("validation")) == 12 and len(table.split("test")) == 6
    captions = table.texts("caption")
    assert {captions[i] for i in table.split("test")} == {None}
    assert all(captions[i] == f"text {table.path(i)[:-4]}" for i in table.split("train"))


def test_names_that_look_like_patterns(tmp_path):
    folder = tmp_path / "set [1] a*b {x}"
    folder.mkdir()
    pq.write_table(pa.table(columns()), folder / "part [0].parquet")
    assert len(load_images(folder)) == len(load_images(folder / "part [0].parquet")) == 6


def test_split_column_is_read(tmp_path):
    splits = ["train"] * 4 + ["dev", "test"]
    pq.write_table(pa.table(columns(split=splits)), tmp_path / "a.parquet")
    assert split_sizes(load_images(tmp_path / "a.parquet")) == [4, 1, 1]
    pq.write_table(pa.table(columns(split=["train"] * 5 + ["more"])), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="row 5: 'more' is not a split"):
        load_images(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("is_test", [False] * 5 + [True]),
        ("is_train", [1] * 5 + [0]),
        ("subset", ["train"] * 5 + ["test"]),
    ],
)
def test_split_is_read_from_columns_of_flags_and_under_other_names(tmp_path, name, values):
    pq.write_table(pa.table(columns(**{name: values})), tmp_path / "images.parquet")
    assert split_sizes(load_images(tmp_path / "images.parquet", validation_share=0)) == [5, 0, 1]
    pq.write_table(pa.table(columns(**{name: ["a", "b"] * 3})), tmp_path / "images.parquet")
    assert split_sizes(load_images(tmp_path / "images.parquet", validation_share=0, test_share=0)) == [6, 0, 0]


def test_file_of_no_split_among_split_files_is_refused(tmp_path):
    for name in ("train", "test", "unsupervised"):
        pq.write_table(pa.table(columns()), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"unsupervised\.parquet.*Known names: train"):
        load_images(tmp_path)


@pytest.mark.parametrize("names", [("training", "testing"), ("trainset", "testset")])
def test_files_of_splits_under_other_names_are_not_all_train(tmp_path, names):
    for name in names:
        pq.write_table(pa.table(columns()), tmp_path / f"{name}.parquet")
    if names[0] == "training":
        assert split_sizes(load_images(tmp_path, validation_share=0)) == [6, 0, 6]
    else:
        with pytest.raises(DataError, match=r"testset\.parquet.*Known names: train"):
            load_images(tmp_path)
    assert len(load_images(tmp_path / f"{names[0]}.parquet")) == 6


def test_arrow_files(tmp_path):
    made = datasets.Dataset.from_dict(columns(), features=FEATURES)
    made.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").unlink()
    table = load_images(tmp_path / "saved")
    assert table.classes == ("dog", "cat") and len(table) == 6


def test_saved_dataset(tmp_path):
    made = datasets.Dataset.from_dict(columns(), features=FEATURES).select([5, 4, 3, 2, 1, 0])
    made.save_to_disk(tmp_path / "one")
    table = load_images(tmp_path / "one")
    assert [table.read(i) for i in range(6)] == [noise(n) for n in (5, 4, 3, 2, 1, 0)]
    assert table.texts("caption")[0] == "text 5"
    other = datasets.Dataset.from_dict(columns(start=10), features=FEATURES)
    datasets.DatasetDict(train=made, validation=other, test=other).save_to_disk(tmp_path / "three")
    assert split_sizes(load_images(tmp_path / "three")) == [6, 6, 6]
    datasets.DatasetDict(train=made, unsupervised=other).save_to_disk(tmp_path / "odd")
    with pytest.raises(DataError, match="'unsupervised' is not a split"):
        load_images(tmp_path / "odd")


def test_images_by_path_beside_the_file(tmp_path):
    class_folders(tmp_path / "pictures", {"": 4})
    rows = {
        "image": [{"bytes": None, "path": f"pictures/00{n}.png"} for n in range(5)],
        "label": ["a", "b"] * 2 + ["a"],
    }
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.string()})
    pq.write_table(pa.table(rows, schema=schema), tmp_path / "set.parquet")
    table = load_images(tmp_path / "set.parquet")
    assert len(table) == 4 and "cannot be read" in reasons(table)["pictures/004.png"]


def test_unlabelled_rows_and_splits(tmp_path):
    train = datasets.Dataset.from_dict(columns(label=[0, 1, 0, 1, -1, None]), features=FEATURES)
    hollow = datasets.Dataset.from_dict(columns(start=10, label=[-1] * 6), features=FEATURES)
    datasets.DatasetDict(train=train, test=hollow).save_to_disk(tmp_path / "set")
    table = load_images(tmp_path / "set", validation_share=0, test_share=0)
    assert split_sizes(table) == [6, 0, 0] and sorted(table.labels) == [-1, -1, 0, 0, 1, 1]
    assert reasons(table)["10.png"] == "its split has no labels"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"image": [1] * 6}, {}, "no image column. Columns: image, label, caption"),
        (
            {"image": ["a"] * 6},
            {},
            r"6 images .* can be used\.\n  a: the file does not exist \(a\.parquet row 1\)",
        ),
        ({"second": [noise(n) for n in range(6)]}, {"image_column": "caption"}, "not images"),
        ({"label": [1.5] * 6}, {}, "label 1.5 is not a class"),
        ({"label": [[[1, 2]]] * 6}, {}, "supported are numbers or names, or lists of them"),
        ({}, {"label_column": "nothing"}, "label_column 'nothing' does not exist"),
    ],
)
def test_unusable_columns_are_named(tmp_path, change, options, message):
    pq.write_table(pa.table(columns() | change), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "a.parquet", **options)


def test_two_declared_label_columns(tmp_path):
    names = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"img": datasets.Image(), "coarse": names, "fine": names})
    images = columns()["image"]
    made = datasets.Dataset.from_dict({"img": images, "coarse": [0, 1] * 3, "fine": [1, 0] * 3}, features=features)
    made.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"2 label columns \(coarse, fine\)"):
        load_images(tmp_path / "a.parquet")
    table = load_images(tmp_path / "a.parquet", label_column="fine", validation_share=0, test_share=0)
    assert table.labels.tolist() == [1, 0] * 3


def test_whole_floats_are_labels(tmp_path):
    pq.write_table(pa.table(columns(label=[10.0, 9.0, 10.0, 9.0, 9.0, None])), tmp_path / "a.parquet")
    table = load_images(tmp_path / "a.parquet")
    assert table.classes == ("9", "10") and np.sum(table.labels < 0) == 1


def test_integers_and_floats_in_different_splits_are_the_same_classes(tmp_path):
    pq.write_table(pa.table(columns(label=[1, 2] * 3)), tmp_path / "train.parquet")
    pq.write_table(pa.table(columns(start=10, label=[1.0, 2.0, 1.0, 2.0, 1.0, 2.0])), tmp_path / "test.parquet")
    pq.write_table(pa.table(columns(start=20, label=["1", "2"] * 3)), tmp_path / "validation.parquet")
    table = load_images(tmp_path)
    assert table.classes == ("1", "2")
    assert [(table.labels[table.split(name)] == 0).sum() for name in ("train", "validation", "test")] == [3, 3, 3]


def test_missing_values_in_words_and_numbers_make_no_class(tmp_path):
    for name, label in (("a", ["x", "y", "nan", "x", "y", "None"]), ("b", [1.0, 2.0, float("nan"), 1.0, 2.0, None])):
        pq.write_table(pa.table(columns(label=label)), tmp_path / f"{name}.parquet")
        table = load_images(tmp_path / f"{name}.parquet", validation_share=0, test_share=0)
        assert len(table.classes) == 2 and np.sum(table.labels < 0) == 2


def test_damaged_parquet_is_named(tmp_path):
    write(tmp_path / "a.parquet", b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read"):
        load_images(tmp_path / "a.parquet")


def test_name_that_is_neither_here_nor_on_the_hub(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'nobody/nothing' is neither a file or folder here .* Hugging Face hub"):
        load_images("nobody/nothing")


def test_no_progress_bars_of_datasets(tmp_path, capfd):
    pq.write_table(pa.table(columns()), tmp_path / "a.parquet")
    table = load_images(tmp_path / "a.parquet")
    assert "Generating" not in capfd.readouterr().err
    assert datasets.are_progress_bars_disabled() == bool(int(os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS", "0")))
    assert decode(table.read(0), "x").size == (8, 8)
    assert names_of(table, "train")


def rows_with_labels(count):
    for number in range(count):
        yield {"image": {"bytes": noise(number), "path": None}, "label": number % 2, "caption": f"text {number}"}


def typed_features():
    names = datasets.ClassLabel(names=["cat", "dog"])
    return datasets.Features({"image": datasets.Image(), "label": names, "caption": datasets.Value("string")})


def test_datasets_in_memory_are_image_sources():
    data = datasets.Dataset.from_list(list(rows_with_labels(8)), features=typed_features())
    found = load_images(data, validation_share=0, test_share=0)
    assert found.classes == ("cat", "dog") and len(found) == 8
    assert found.texts("caption")[3] == "text 3"
    both = load_images(datasets.DatasetDict(train=data.select(range(6)), test=data.select([6, 7])), validation_share=0)
    assert split_sizes(both) == [6, 0, 2]
    assert set(both.rows["id"].to_pylist()) == set(found.rows["id"].to_pylist())


def test_stream_is_read_once_into_the_work_directory(tmp_path):
    stream = datasets.IterableDataset.from_generator(
        rows_with_labels, gen_kwargs={"count": 8}, features=typed_features()
    )
    # By dill 0.3 the hash of a generator changes when its libraries are first used.
    load_images(stream, work=tmp_path / "first", validation_share=0, test_share=0)
    found = load_images(stream, work=tmp_path / "work", validation_share=0, test_share=0)
    assert len(found) == 8 and found.read(0) == noise(0) and found.texts("caption")[7] == "text 7"
    files = set((tmp_path / "work").rglob("*.arrow"))
    again = load_images(stream, work=tmp_path / "work", validation_share=0, test_share=0)
    assert again.rows.equals(found.rows) and set((tmp_path / "work").rglob("*.arrow")) == files
    with pytest.raises(ConfigError, match="stored in the work directory"):
        load_images(stream)
