"""Which kind of source a name means."""

import json
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt4image import load_descriptions
from gpt4image.cli.main import main
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.images import load_images
from gpt4image.images.sources.detect import expand_braces
from support.image_files import class_folders, noise, reasons, samples, shard, split_sizes, write


@pytest.mark.parametrize("folder", ["", "train/"])
def test_captions_beside_class_folders_do_not_hide_them(tmp_path, folder, capfd):
    sizes = {f"{folder}{name}": 3 for name in ("cat", "dog")}
    paths = [f"{name}/00{n}.png" for name in sizes for n in range(3)]
    class_folders(tmp_path, sizes)
    file = tmp_path / folder / "captions.parquet"
    pq.write_table(pa.table({"path": paths, "text": [f"about {path}" for path in paths]}), file)
    table = load_images(tmp_path)
    assert table.classes == ("cat", "dog") and len(table) == 6
    assert reasons(table) == {f"{folder}captions.parquet": "not an image (suffix .parquet)"}
    assert "captions.parquet is ignored" in " ".join(capfd.readouterr().err.split())
    assert len(load_descriptions(table, str(file))) == 6


@pytest.mark.parametrize("name", ["texts.arrow", "texts.parquet"])
def test_broken_table_beside_class_folders_is_named_and_left_out(tmp_path, name, capfd):
    write(class_folders(tmp_path, {"cat": 3, "dog": 3}) / name, b"no table, whatever its name says\n")
    table = load_images(tmp_path)
    assert table.classes == ("cat", "dog") and len(table) == 6
    assert reasons(table) == {name: f"not an image (suffix {Path(name).suffix})"}
    said = " ".join(capfd.readouterr().err.split())
    assert f"{name} (cannot be read as {Path(name).suffix[1:].capitalize()}" in said and "is ignored" in said
    write(tmp_path / "more.parquet", b"")
    write(tmp_path / "more.arrow", b"")
    assert len(load_images(tmp_path)) == 6  # of two kinds
    with pytest.raises(DataError, match="cannot be read as"):
        load_images(tmp_path / name)


def write_coco(folder):
    objects = [{"image_id": n, "category_id": n % 2} for n in range(4)]
    named = [{"id": n, "file_name": f"{n}.png"} for n in range(4)]
    categories = [{"id": n, "name": name} for n, name in enumerate("ab")]
    content = {"images": named, "annotations": objects, "categories": categories}
    return write(folder / "coco.json", json.dumps(content).encode())


def write_label_studio(folder):
    tasks = [{"data": {"image": f"{n}.png"}, "annotations": []} for n in range(4)]
    return write(folder / "tasks.json", json.dumps(tasks).encode())


def write_fiftyone(folder):
    write(folder / "labels.json", json.dumps({"classes": ["a", "b"], "labels": {"0": 0, "1": 1}}).encode())
    write(folder / "data" / "0.png", noise(0))
    return folder


@pytest.mark.parametrize("write_source", [write_coco, write_label_studio, write_fiftyone])
def test_columns_of_a_source_without_any_are_refused_by_their_options(tmp_path, write_source, capsys):
    for number in range(4):
        write(tmp_path / f"{number}.png", noise(number))
    source = write_source(tmp_path)
    assert main(["images", str(source), "--label-column", "class", "--work", str(tmp_path / "work")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "which has no columns: leave out --image-column, --label-column, --label-separator and --label-columns" in said
    )
    with pytest.raises(ConfigError, match="no columns: leave out image_column, label_column, label_separator and"):
        load_images(source, label_column="class")


def test_the_column_of_a_table_does_not_concern_folders_of_further_images(tmp_path):
    for number in range(6):
        write(tmp_path / f"{number}.png", noise(number))
    rows = ["photo,label", *(f"{number}.png,{'ab'[number % 2]}" for number in range(6))]
    table = write(tmp_path / "set.csv", "\n".join(rows).encode())
    more = class_folders(tmp_path / "more", {"x": 2})
    found = load_images(table, image_column="photo", unlabelled=[more], validation_share=0, test_share=0)
    assert len(found) == 8 and (found.labels < 0).sum() == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("set.csv", "has no label column.* Name it with --label-column"),
        ("metadata.csv", "or name one with --label-column"),
        ("set.parquet", "There is no label column.* Name one with --label-column"),
        ("set.tar", "Name another key with --label-column"),
    ],
)
def test_missing_labels_name_the_option_that_helps(tmp_path, name, message, capsys):
    for number in range(3):
        write(tmp_path / f"{number}.png", noise(number))
    rows = [f"{number}.png,0.5" for number in range(3)]
    if name == "set.parquet":
        pq.write_table(pa.table({"image": [noise(n) for n in range(3)], "n": [[0]] * 3}), tmp_path / name)
    elif name == "set.tar":
        shard(tmp_path / name, [{"__key__": f"{n}", "png": noise(n)} for n in range(3)])
    else:
        write(tmp_path / name, "\n".join(["path,n", *rows]).encode())
    source = tmp_path if name == "metadata.csv" else tmp_path / name
    assert main(["images", str(source), "--work", str(tmp_path / "work")]) == 1
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_archive_beside_class_folders_does_not_hide_them(tmp_path):
    class_folders(tmp_path, {"cat": 3, "dog": 3})
    with tarfile.open(tmp_path / "original.tar", "w") as tar:
        tar.add(tmp_path / "cat", "cat")
    assert load_images(tmp_path).classes == ("cat", "dog")


def test_shards_and_tables_of_images_win_over_folders_beside_them(tmp_path):
    class_folders(tmp_path, {"figures": 1, "examples": 1})
    shard(tmp_path / "a.tar", samples(6))
    assert load_images(tmp_path).classes == ("0", "1")
    (tmp_path / "a.tar").unlink()
    rows = {"image": [noise(n) for n in range(4)], "label": ["x", "y"] * 2}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    assert load_images(tmp_path).classes == ("x", "y")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b"{}"),
        ("dataset_dict.json", b'{"splits": ["train"]}'),
        ("dataset_info.json", b"{}"),
        ("metadata.csv", b""),
        ("metadata.csv", b"file_name,label\n"),
        ("metadata.csv", b"author,licence\nme,MIT\n"),
        ("metadata.jsonl", b"\n"),
    ],
)
def test_files_that_list_no_image_leave_class_folders_as_they_are(tmp_path, name, content, capfd):
    write(class_folders(tmp_path, {"cat": 3, "dog": 3}) / name, content)
    table = load_images(tmp_path)
    assert table.classes == ("cat", "dog") and len(table) == 6
    if name != "dataset_info.json":
        assert f"{name} is ignored" in " ".join(capfd.readouterr().err.split())


def test_empty_metadata_without_class_folders_is_an_error(tmp_path):
    write(class_folders(tmp_path, {"": 3}) / "metadata.csv", b"file_name,label\n")
    with pytest.raises(DataError, match=r"metadata\.csv has no rows"):
        load_images(tmp_path)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_of_paths_is_a_table_whatever_its_kind_of_strings(tmp_path, kind):
    class_folders(tmp_path, {"images": 6})
    paths = pa.array([f"images/00{n}.png" for n in range(6)]).cast(kind)
    pq.write_table(pa.table({"path": paths, "label": ["x", "y"] * 3}), tmp_path / "set.parquet")
    assert load_images(tmp_path / "set.parquet").classes == ("x", "y")


def test_metadata_parquet_is_read(tmp_path):
    class_folders(tmp_path, {"images": 6, "train": 0})
    rows = {"file_name": [f"images/00{n}.png" for n in range(6)], "label": ["x", "y"] * 3, "text": list("abcdef")}
    pq.write_table(pa.table({**rows, "split": ["train"] * 4 + ["test"] * 2}), tmp_path / "metadata.parquet")
    table = load_images(tmp_path, validation_share=0)
    assert split_sizes(table) == [4, 0, 2] and table.reader.text_columns == ("text",)
    assert table.texts("text") == list("abcdef")
    write(tmp_path / "metadata.csv", b"file_name,label\nimages/000.png,x\n")
    with pytest.raises(DataError, match=r"both metadata\.csv and metadata\.parquet"):
        load_images(tmp_path)


@pytest.mark.parametrize("pattern", ["t-{000..001}.tar", "t-*.tar", "t-00{0,1}.tar"])
def test_patterns_of_tars(tmp_path, pattern):
    for number in range(2):
        shard(tmp_path / f"t-{number:03d}.tar", samples(4, number * 10))
    shard(tmp_path / "other.tar", samples(4, 50))
    assert len(load_images(str(tmp_path / pattern))) == 8
    with pytest.raises(DataError, match=r"t-002\.tar does not exist"):
        load_images(str(tmp_path / "t-{000..003}.tar"))


def test_braces_expand_as_in_a_shell():
    assert expand_braces("{a,b{1..2}}") == ["a", "b1", "b2"]
    assert expand_braces("x{8..10}") == ["x8", "x9", "x10"]


def test_unknown_sources_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not exist\. A source is a folder of clips \(.* with frames also"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not an image source"):
        load_images(write(tmp_path / "notes.txt", b"words"))
    with pytest.raises(DataError, match="compressed"):
        load_images(write(tmp_path / "x.tar.gz", b"words"))
