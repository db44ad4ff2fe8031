"""Images without labels: from empty cells, from parts of a source, and from further sources."""

import shutil

import numpy as np
import pytest

from gpt4image.core.errors import DataError
from gpt4image.images import load_images
from support.image_files import class_folders, noise, reasons, samples, shard, write


@pytest.fixture
def labelled(tmp_path):
    return class_folders(tmp_path / "set", {"cat": 10, "dog": 10})


def further_sources(root):
    """Write the same four images as a folder, tables, a tar and Parquet files, and return them all."""
    import datasets

    flat = class_folders(root / "flat", {"": 4}, seed=1)
    paths = sorted(flat.glob("*.png"))
    table = write(root / "list.csv", "\n".join(["path,note", *(f"flat/{path.name},n" for path in paths)]).encode())
    odd = write(root / "odd.csv", "\n".join(["path,label,split", *(f"flat/{p.name},0.5,pool" for p in paths)]).encode())
    tar = shard(root / "more.tar", [{"__key__": path.stem, "png": path.read_bytes()} for path in paths])
    rows = datasets.Dataset.from_dict({"image": [{"bytes": path.read_bytes(), "path": None} for path in paths]})
    rows.cast_column("image", datasets.Image()).to_parquet(root / "test.parquet")
    beside = shutil.copytree(flat, root / "beside")
    shutil.copy(table, beside / "captions.csv")
    return [flat, table, odd, tar, root / "test.parquet", beside]


def test_further_images_come_from_any_source(labelled, tmp_path):
    alone = load_images(labelled)
    for source in further_sources(tmp_path / "more"):
        table = load_images(labelled, unlabelled=[source])
        assert table.classes == ("cat", "dog"), source
        assert table.rows.slice(0, 20).drop_columns("row").equals(alone.rows.drop_columns("row")), source
        assert table.class_counts()[-1].tolist() == [4, 0, 0]
        assert sorted(table.read(index) for index in range(20, 24)) == sorted(noise((1, 0, n)) for n in range(4))
        assert all(table.path(index).startswith(f"{source}/") for index in range(20, 24))


def test_texts_and_rows_of_several_sources_stay_with_their_images(tmp_path):
    first = shard(tmp_path / "first.tar", samples(20))
    second = shard(tmp_path / "second.tar", [s | {"json": {"title": f"t {n}"}} for n, s in enumerate(samples(5, 20))])
    table = load_images(first, unlabelled=[second, class_folders(tmp_path / "third", {"x": 2})])
    assert len(table) == 27 and (table.labels[20:] < 0).all()
    order = [int(path.rpartition("/")[2].partition(".")[0]) for path in table.rows["path"].to_pylist()[:25]]
    assert table.texts("txt") == [*(f"text {n}" for n in order), None, None]
    assert table.texts("title") == [None] * 20 + [f"t {n - 20}" for n in order[20:]] + [None, None]
    assert [table.read(n) for n in range(25)] == [noise(n) for n in order]


def test_unlabelled_copies_of_labelled_images_are_left_out(labelled, tmp_path):
    everything = shutil.copytree(labelled, tmp_path / "all")
    write(everything / "cat" / "new.png", noise(77))
    table = load_images(labelled, unlabelled=[everything])
    assert table.class_counts().sum(axis=1).tolist() == [10, 10, 1]
    assert list(reasons(table).values()) == ["the same image has a label"] * 20


def test_broken_files_of_further_sources_are_named_with_their_source(labelled, tmp_path):
    more = class_folders(tmp_path / "more", {"": 2})
    write(more / "broken.png", b"no image")
    assert f"{more}/broken.png" in reasons(load_images(labelled, unlabelled=[more]))
    (more / "later.png").symlink_to("nowhere")
    assert reasons(load_images(labelled, unlabelled=[more]))[f"{more}/later.png"] == "a broken link"


def test_further_source_without_images_is_refused(labelled, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty contains no images"):
        load_images(labelled, unlabelled=[tmp_path / "empty"])


@pytest.mark.parametrize("declared", [True, False])
def test_unlabelled_split_and_class_of_a_dataset(tmp_path, declared):
    import datasets

    names = ["unlabeled", "cat", "dog"]
    labels = [2, 1, 0] * 6
    kind = datasets.ClassLabel(names=names) if declared else datasets.Value("string")
    values = labels if declared else [names[label] for label in labels]
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    pictures = [{"bytes": noise(n), "path": None} for n in range(18)]
    train = datasets.Dataset.from_dict({"image": pictures, "label": values}, features=features)
    more = datasets.Dataset.from_dict({"image": [{"bytes": noise(99), "path": None}]}).cast_column(
        "image", datasets.Image()
    )
    datasets.DatasetDict({"unlabeled": more, "train": train}).save_to_disk(tmp_path / "saved")
    table = load_images(tmp_path / "saved")
    assert table.classes == ("cat", "dog")
    assert table.class_counts().sum(axis=1).tolist() == [6, 6, 7]
    assert {table.read(int(n)) for n in np.flatnonzero(table.labels == 1)} == {noise(n) for n in range(0, 18, 3)}
