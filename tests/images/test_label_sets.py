"""Image sets with several labels an image, from every form that says so."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt4image import load_images
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.images.sources.label_sets import rarest_present

LABELS = ("blue", "disc", "green", "square")


@pytest.fixture
def photos(image_set, tmp_path):
    """Twelve images, named by number."""
    files = sorted(image_set.rglob("*.png"))[:12]
    for number, file in enumerate(files):
        shutil.copy(file, tmp_path / f"{number:02}.png")
    return tmp_path


def labels_of(number):
    """Labels of an image; every fourth has none."""
    return [] if number % 4 == 3 else [LABELS[number % 3], LABELS[3]] if number % 2 else [LABELS[number % 3]]


def split_of(number):
    return ("train", "train", "validation", "test")[number % 4]


def write_jsonl(folder, changes=None):
    rows = [{"path": f"{n:02}.png", "labels": labels_of(n), "split": split_of(n)} for n in range(12)]
    for number, value in (changes or {}).items():
        rows[number]["labels"] = value
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "images.jsonl"


def matrix(known=lambda number, name: True):
    return [[(1 if name in labels_of(n) else 0) if known(n, name) else -1 for name in LABELS] for n in range(12)]


def test_lists_are_several_labels_and_an_empty_one_means_none(photos):
    images = load_images(write_jsonl(photos, {5: None, 1: None}))
    assert images.task == "multi-label"
    assert images.classes == LABELS
    assert images.label_matrix.tolist() == matrix(lambda number, _: number not in (1, 5))
    assert np.flatnonzero(~images.is_labelled).tolist() == [1, 5]
    assert [images.label_of(row) for row in (0, 1, 3, 7)] == ["blue", None, "none", "none"]
    counts = images.class_counts()
    assert counts[:-1].sum(axis=1).tolist() == [(images.label_matrix[:, at] > 0).sum() for at in range(4)]
    assert counts[-1].tolist() == [2, 0, 0]


def test_parquet_lists_are_several_labels(photos):
    rows = [{"path": f"{n:02}.png", "labels": labels_of(n), "split": split_of(n)} for n in range(12)]
    pq.write_table(pa.Table.from_pylist(rows), photos / "images.parquet")
    assert load_images(photos / "images.parquet").label_matrix.tolist() == matrix()


@pytest.mark.parametrize("declared", [False, True])
def test_lists_beside_images_in_a_file_are_several_labels(photos, declared):
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": (photos / f"{n:02}.png").read_bytes(), "path": f"{n:02}.png"} for n in range(12)]
    lists = [None if n == 4 else [LABELS.index(name) if declared else name for name in labels_of(n)] for n in range(12)]
    element = datasets.ClassLabel(names=list(LABELS)) if declared else datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.Sequence(element)})
    rows = datasets.Dataset.from_dict({"image": images, "labels": lists}, features=features)
    rows.to_parquet(photos / "train.parquet")
    found = load_images(photos / "train.parquet", validation_share=0.0, test_share=0.2)
    assert (found.task, found.classes) == ("multi-label", LABELS)
    assert found.label_matrix.tolist() == matrix(lambda number, _: number != 4)


def test_labels_in_a_cell_are_separated_if_asked(photos):
    rows = [f"{n:02}.png,{' ; '.join(labels_of(n))},{split_of(n)}" for n in range(12) if labels_of(n)]
    (photos / "images.csv").write_text("\n".join(["path,label,split", *rows, "03.png,blue,test", "07.png,disc,test"]))
    images = load_images(photos / "images.csv", label_separator=";")
    assert images.label_matrix[:-2].tolist() == [row for n, row in enumerate(matrix()) if labels_of(n)]
    with pytest.raises(DataError, match="name what separates them with label_separator"):
        load_images(photos / "images.csv")


@pytest.mark.parametrize("write", [json.dumps, str], ids=["JSON", "Python"])
def test_lists_written_as_text_in_cells_are_lists(photos, write):
    rows = [f'{n:02}.png,"{write(labels_of(n)).replace(chr(34), chr(34) * 2)}",{split_of(n)}' for n in range(12)]
    (photos / "images.csv").write_text("\n".join(["path,labels,split", *rows]))
    assert load_images(photos / "images.csv", label_separator=",").label_matrix.tolist() == matrix()
    rows[2] = f"02.png,['blue' 'disc'],{split_of(2)}"
    (photos / "images.csv").write_text("\n".join(["path,labels,split", *rows]))
    with pytest.raises(DataError, match=r"line 4: the labels \['blue' 'disc'\] look like a list but cannot"):
        load_images(photos / "images.csv", label_separator=",")


def test_columns_of_0_and_1_are_labels_and_empty_cells_unknown(photos):
    def cell(number, name):
        return "" if number == 4 and name != "disc" else int(name in labels_of(number))

    rows = [",".join([f"{n:02}.png", split_of(n), *(str(cell(n, name)) for name in LABELS)]) for n in range(12)]
    (photos / "images.csv").write_text("\n".join([f"path,split,{','.join(LABELS)}", *rows]))
    images = load_images(photos / "images.csv", label_columns=LABELS)
    assert images.label_matrix.tolist() == matrix(lambda number, name: number != 4 or name == "disc")
    assert images.is_labelled.all()
    assert not set(LABELS) & set(images.reader.text_columns)


def write_coco(folder, **changes):
    """An annotation file, whose images lie in a folder beside it."""
    (folder / "images").mkdir()
    for file in sorted(folder.glob("*.png")):
        shutil.move(file, folder / "images" / file.name)
    content = {
        "info": {},
        "images": [{"id": 100 + n, "file_name": f"{n:02}.png"} for n in range(12)],
        "annotations": [
            {"id": at, "image_id": 100 + n, "category_id": LABELS.index(name) + 7, "bbox": [0, 0, 3, 3]}
            for at, (n, name) in enumerate((n, name) for n in range(12) for name in [*labels_of(n), *labels_of(n)])
        ],
        "categories": [{"id": at + 7, "name": name} for at, name in enumerate(LABELS)],
    }
    (folder / "instances.json").write_text(json.dumps(content | changes))
    return folder / "instances.json"


def test_images_of_coco_have_the_categories_of_their_objects(photos):
    images = load_images(write_coco(photos), validation_share=0.2, test_share=0.2)
    assert images.task == "multi-label"
    assert images.classes == LABELS
    assert images.label_matrix.tolist() == matrix()
    assert images.path(0) == "images/00.png"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"annotations": [{"image_id": 5, "category_id": 7}]},
            "annotation 0: image_id 5 is not among its images. Add the image, or remove the annotation",
        ),
        (
            {"annotations": [{"image_id": 100, "category_id": 1}]},
            "annotation 0: category_id 1 is not among its categories. Add the category, or remove",
        ),
        ({"categories": [{"id": 7}]}, "category 0: .* has no name"),
        ({"images": [{"id": 1}]}, "image 0: .* has no file_name"),
        ({"categories": None}, "captions: name the file with text"),
    ],
)
def test_broken_files_of_coco_are_refused_by_entry(photos, changes, said):
    with pytest.raises(DataError, match=f"instances.json.*{said}"):
        load_images(write_coco(photos, **changes))


def test_copies_in_class_folders_are_several_labels_if_asked(image_set, tmp_path):
    for name, files in {"blue": ("000", "001", "002"), "disc": ("000", "003"), "bar": ("002",)}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / f"{file}.png").symlink_to(image_set / "blue" / f"{file}.png")
    settings = {"validation_share": 0.0, "test_share": 0.0}
    assert load_images(tmp_path, **settings).task == "classification"
    images = load_images(tmp_path, task="multi-label", **settings)
    assert images.classes == ("bar", "blue", "disc")
    found = {images.path(row).rpartition("/")[2]: images.label_of(row) for row in range(len(images))}
    assert found == {"000.png": "blue, disc", "001.png": "blue", "002.png": "bar, blue", "003.png": "disc"}


def test_further_images_without_labels_are_unknown(photos, image_set, tmp_path_factory):
    more = tmp_path_factory.mktemp("more")
    shutil.copy(image_set / "red" / "000.png", more / "a.png")
    images = load_images(write_jsonl(photos), unlabelled=[more])
    assert images.label_matrix[-1].tolist() == [-1] * 4
    assert not images.is_labelled[-1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({4: "blue"}, "images.jsonl, line 5: the labels 'blue' are not a list"),
        ({4: ["blue", None]}, "images.jsonl, line 5: None in the list"),
        ({2: None}, "validation split has no label"),
    ],
)
def test_rows_with_broken_labels_are_named(photos, changes, said):
    with pytest.raises(DataError, match=said):
        load_images(write_jsonl(photos, changes))


def test_flags_other_than_0_and_1_are_named(photos):
    (photos / "images.csv").write_text("path,a,b\n00.png,1,0\n01.png,2,1\n")
    with pytest.raises(DataError, match="line 3: column 'a' has '2'"):
        load_images(photos / "images.csv", label_columns=("a", "b"))
    with pytest.raises(DataError, match="label_columns 'c' does not exist"):
        load_images(photos / "images.csv", label_columns=("a", "c"))
    with pytest.raises(ConfigError, match="exclude each other"):
        load_images(photos / "images.csv", label_columns=("a", "b"), label_separator=";")


def test_one_class_an_image_is_refused_where_there_are_several(photos):
    images = load_images(write_jsonl(photos))
    with pytest.raises(DataError, match="several labels each"):
        _ = images.labels
    with pytest.raises(DataError, match="its task is multi-label"):
        load_images(photos / "images.jsonl", task="classification")


def test_splits_are_made_by_the_rarest_label_of_each_image():
    marks = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0], [-1, -1, -1], [1, -1, 1]], dtype=np.int8)
    assert rarest_present(marks).tolist() == [1, 0, 0, 3, -1, 2]
