"""Descriptions from every kind of source, joined to the right image or refused with a reason."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gpt4image import load_descriptions, load_images
from gpt4image.core.errors import DescriptionError
from gpt4image.descriptions.description_set import join_texts


def text_by_path(images, found) -> dict[str, str]:
    texts = dict(found.pairs())
    return {images.path(i): texts.get(image_id.decode()) for i, image_id in enumerate(images.ids)}


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("key", ["id", "path", "absolute path"])
def test_tables_keyed_by_id_or_path(images, image_set, tmp_path, suffix, key):
    def keyed(index: int) -> dict:
        path = images.path(index)
        value = {"id": images.ids[index].decode(), "path": f"./{path}", "absolute path": str(image_set / path)}[key]
        return {"id" if key == "id" else "file_name": value, "description": f'of "{path}",\nline two'}

    rows = [keyed(i) for i in reversed(range(len(images))) if i != 5]
    found = load_descriptions(images, str(write(tmp_path / f"texts{suffix}", rows)))
    texts = text_by_path(images, found)
    assert texts.pop(images.path(5)) is None
    assert all(text == f'of "{path}",\nline two' for path, text in texts.items())
    assert sum(found.coverage.without_text.values()) == 1
    assert "35 of 36 images with a text" in found.coverage.line()
    assert "an image;" not in found.coverage.line()


@pytest.mark.parametrize(
    ("columns", "text_column", "message"),
    [
        (
            ("picture", "caption"),
            None,
            "no column identifies the images. Its columns: 'picture', 'caption'. Name the column",
        ),
        (("path", "notes"), None, "called text, description or caption. Its columns: 'path', 'notes'. Name the column"),
        (("path", "caption"), "notes", "no column 'notes'. Its columns: 'path', 'caption'. Name the column of texts"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_missing_column_is_named_with_the_remedy(images, tmp_path, columns, text_column, message, suffix):
    file = write(tmp_path / f"c{suffix}", [dict.fromkeys(columns, "x")])
    with pytest.raises(DescriptionError, match=message):
        load_descriptions(images, str(file), text_column=text_column)


def test_path_of_several_images_is_refused(images, tmp_path):
    from dataclasses import replace

    import pyarrow as pa

    bases = pa.array([path.split("/")[1] for path in images.rows["path"].to_pylist()])
    twins = replace(images, rows=images.rows.set_column(images.rows.schema.get_field_index("path"), "path", bases))
    path = write(tmp_path / "texts.csv", [{"path": "000.png", "text": "whose?"}])
    with pytest.raises(DescriptionError, match=r"'000\.png' is the path of several images"):
        load_descriptions(twins, str(path))


def test_row_numbers_in_an_id_column_are_not_image_ids(images, tmp_path):
    rows = [{"id": str(i), "path": images.path(i), "text": f"text {i}"} for i in range(3)]
    found = load_descriptions(images, str(write(tmp_path / "texts.csv", rows)))
    assert text_by_path(images, found)[images.path(2)] == "text 2"


def test_paths_may_differ_in_case_where_one_image_fits(images, tmp_path):
    rows = [{"path": images.path(i).upper().replace("/", "\\"), "text": f"text {i}"} for i in range(len(images))]
    found = load_descriptions(images, str(write(tmp_path / "texts.csv", rows)))
    assert text_by_path(images, found) == {images.path(i): f"text {i}" for i in range(len(images))}


def test_texts_that_fit_no_image(images, tmp_path):
    rows = [{"path": images.path(0), "text": "fits"}, {"path": "red/999.png", "text": "does not"}]
    path = write(tmp_path / "texts.csv", rows)
    with pytest.raises(DescriptionError, match=r"1 of 2 texts match no image.*'red/999.png'.*orphan_texts to skip\."):
        load_descriptions(images, str(path))
    found = load_descriptions(images, str(path), orphan_texts="skip")
    assert (len(found), found.coverage.orphans) == (1, 1)


def test_all_texts_of_an_image_are_kept_in_the_order_found(images, tmp_path):
    rows = [{"path": images.path(i), "text": "same"} for i in range(3)]
    rows += [{"path": images.path(3), "text": "  "}]
    rows += [{"path": images.path(0), "text": text} for text in ("zebra", "another", "same")]
    found = load_descriptions(images, str(write(tmp_path / "texts.csv", rows)))
    ids = [images.ids[i].decode() for i in range(4)]
    assert (len(found), found.texts) == (3, 5)
    assert [text for image_id, text in found.pairs() if image_id == ids[0]] == ["same", "zebra", "another"]
    assert found.rows["id"].to_pylist() == sorted([*ids[:3], ids[0], ids[0]])
    assert found.texts_of(ids) == ["same", "same", "same", None]
    assert (found.coverage.repeated, found.coverage.texts, found.coverage.most_texts) == (1, 5, 3)
    assert "without; 5 texts, up to 3 per image; 0 texts without an image, 1 text on several" in found.coverage.line()
    found.save(tmp_path / "saved.parquet")
    assert pq.read_table(tmp_path / "saved.parquet").equals(found.rows)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_missing_values_are_no_texts(images, tmp_path, suffix):
    missing = ["nan", "None", " ", "<NA>"]
    rows = [{"path": images.path(i), "text": text} for i, text in enumerate([*missing, "a text"])]
    found = load_descriptions(images, str(write(tmp_path / f"texts{suffix}", rows)))
    assert [text for _, text in found.pairs()] == ["a text"]
    (tmp_path / "number.jsonl").write_text(f'{{"path": "{images.path(0)}", "text": NaN}}')
    assert len(load_descriptions(images, str(tmp_path / "number.jsonl"))) == 0


def test_hash_depends_on_ids_texts_and_their_order_within_an_image(images):
    a, b = (images.ids[i].decode() for i in range(2))
    pairs = [(a, "one"), (a, "two"), (b, "one")]

    def hashed(*pairs):
        return join_texts(images, pairs, 0, "test").text_hash

    assert hashed(*pairs) == hashed(pairs[2], *pairs[:2]) == hashed(*pairs, pairs[0])
    others = [hashed(pairs[1], pairs[0], pairs[2]), hashed(*pairs[:2]), hashed(*pairs[::2]), hashed(*pairs, (b, "two"))]
    assert len({hashed(*pairs), *others}) == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"path": "x", "text": "t"}\n{"path": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.csv", "path,words\nx,t\n", r"line 2: no column is called .*: text_column"),
        ("a.jsonl", '{"path": 3, "text": "t"}\n', "line 1: path and text must be text"),
        ("a.parquet", "not parquet", "cannot be read as Parquet"),
        ("a.xlsx", "", "must be"),
    ],
)
def test_broken_files_name_file_and_row(images, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DescriptionError, match=message) as caught:
        load_descriptions(images, str(path))
    assert str(path) in str(caught.value)


def test_unknown_source_lists_the_text_columns(images):
    with pytest.raises(DescriptionError, match="Its text columns: none"):
        load_descriptions(images, "description")


def test_column_of_the_image_set():
    from gpt4image.workflows.demo import example_images

    images = load_images(example_images())
    found = load_descriptions(images, "description")
    assert sum(found.coverage.with_text.values()) == len(images) == 1830
    assert found.texts_of([images.ids[0].decode()]) == images.texts("description")[:1]
    assert (len(found), found.texts) == (1618, 1830)  # copies of an image have texts of their own


class TestReferenceList:
    """The reference project's file: a torch-saved list in ImageFolder order."""

    @pytest.fixture
    def folder(self, image_set, tmp_path):
        shutil.copytree(image_set, tmp_path / "set" / "train")
        shutil.copytree(image_set / "red", tmp_path / "set" / "test" / "red")
        (tmp_path / "set" / "train" / "green" / "003.png").write_bytes(b"broken")
        (tmp_path / "set" / "train" / "green" / "notes.txt").write_text("not an image")
        return tmp_path / "set"

    def test_pairs_as_image_folder_does(self, folder, tmp_path):
        from torchvision.datasets import ImageFolder

        listed = [Path(path).relative_to(folder).as_posix() for path, _ in ImageFolder(folder / "train").samples]
        torch.save([f"text of {path}" for path in listed], tmp_path / "texts.pth")
        images = load_images(folder)
        found = load_descriptions(images, str(tmp_path / "texts.pth"))
        texts = text_by_path(images, found)
        train = {path: text for path, text in texts.items() if path.startswith("train/")}
        assert len(train) == 35
        assert all(text == f"text of {path}" for path, text in train.items())

    def test_other_length_is_refused_with_both_counts(self, folder, tmp_path):
        torch.save(["text"] * 35, tmp_path / "texts.pth")
        with pytest.raises(DescriptionError, match=r"holds 35 texts, but .* has 36 images"):
            load_descriptions(load_images(folder), str(tmp_path / "texts.pth"))

    def test_objects_are_not_unpickled(self, folder, tmp_path):
        torch.save([Trap(tmp_path / "sprung")], tmp_path / "texts.pth")
        with pytest.raises(DescriptionError, match="cannot be read"):
            load_descriptions(load_images(folder), str(tmp_path / "texts.pth"))
        assert not (tmp_path / "sprung").exists()
        torch.save({"a": "b"}, tmp_path / "texts.pth")
        with pytest.raises(DescriptionError, match="contains a dict, not a list"):
            load_descriptions(load_images(folder), str(tmp_path / "texts.pth"))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
