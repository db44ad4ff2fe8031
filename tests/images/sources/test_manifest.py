import json
import pickle
import re
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt4image import load_descriptions
from gpt4image.core.errors import DataError
from gpt4image.images import load_images
from support.image_files import class_folders, names_of, noise, reasons, split_sizes, write


def texts_by_path(table, column):
    return {table.path(index): text for index, text in enumerate(table.texts(column))}


def images(root, count):
    for number in range(count):
        write(root / f"{number}.png", noise(number))


def test_csv_with_splits_texts_and_absolute_paths(tmp_path):
    images(tmp_path / "pictures", 6)
    absolute = write(tmp_path / "elsewhere" / "x.png", noise(99))
    lines = ["Filename,Label,split,caption"]
    lines += [f'pictures/{n}.png,{10 - n % 2},{"train" if n < 4 else "val"},"a, ""{n}"""' for n in range(6)]
    lines += [f"{absolute},9,test,", "../gone.png,9,test,"]
    file = write(tmp_path / "set" / ".." / "set.csv", "\n".join(lines).encode("utf-8-sig"))
    table = load_images(file)
    assert table.classes == ("9", "10")
    assert split_sizes(table) == [4, 2, 1]
    assert names_of(table, "test") == {str(absolute): "9"}
    assert reasons(table) == {"../gone.png": "the file does not exist (set.csv line 9)"}
    assert table.reader.text_columns == ("caption",)
    assert texts_by_path(table, "caption")["pictures/1.png"] == 'a, "1"'
    assert texts_by_path(table, "caption")[str(absolute)] is None
    with pytest.raises(DataError, match="Text columns: caption"):
        table.texts("title")


SPLITS = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2


def table_of(folder, columns):
    """Write 8 images and a table that names them, with further columns; return the table."""
    images(folder, 8)
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(["path", "label", *columns])]
    lines += [",".join([f"{n}.png", "ab"[n % 2], *map(str, row)]) for n, row in enumerate(rows)]
    return write(folder / "set.csv", "\n".join(lines).encode())


@pytest.mark.parametrize(
    ("columns", "sizes", "said"),
    [
        (
            {"is_test": [0] * 6 + [1] * 2},
            [6, 0, 2],
            "the split is read from is_test: test where is_test is 1, train elsewhere",
        ),
        ({"is_validation": [0] * 6 + [1] * 2}, [6, 2, 0], "validation where is_validation is 1, train elsewhere"),
        ({"In Test": [False] * 5 + [True] * 3}, [5, 0, 3], "test where In Test is 1"),
        ({"isTrain": [1.0] * 4 + [0.0] * 4}, [4, 0, 4], "train where isTrain is 1, test elsewhere"),
        (
            {"train": ["yes"] * 4 + ["no"] * 4, "test_set": ["no"] * 6 + ["yes"] * 2},
            [4, 2, 2],
            "train where train is 1, test where test_set is 1, validation elsewhere",
        ),
        ({name: [int(split == name) for split in SPLITS] for name in set(SPLITS)}, [4, 2, 2], "none elsewhere"),
        ({"phase": ["train"] * 4 + ["val"] * 2 + ["test"] * 2}, [4, 2, 2], "the split is read from the column phase"),
        ({"Set": ["Training"] * 6 + ["Test"] * 2}, [6, 0, 2], "the split is read from the column Set"),
        ({"is_test": [0] * 8, "split": SPLITS}, [4, 2, 2], ""),
    ],
)
def test_split_is_read_from_columns_of_flags_and_under_other_names(tmp_path, columns, sizes, said, capsys):
    table = load_images(table_of(tmp_path, columns), validation_share=0, test_share=0)
    assert split_sizes(table) == sizes
    assert said in " ".join(capsys.readouterr().err.split())
    assert not set(table.reader.text_columns) & (set(columns) - {"is_test"})


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"is_test": [0] * 6 + [1, ""]}, "is_test is not used as the split, because it has values other than 0 and 1"),
        ({"is_valid": [1] * 6 + [0] * 2}, "is_valid is not used as the split.*name it is_validation"),
        ({"Usage": ["Training"] * 6 + ["PublicTest", "PrivateTest"]}, "Usage looks like a split but is not used"),
        ({"coco": SPLITS}, "coco looks like a split but is not used. To use it, name it split"),
    ],
)
def test_columns_that_may_be_the_split_are_named(tmp_path, columns, said, capsys):
    assert split_sizes(load_images(table_of(tmp_path, columns), validation_share=0, test_share=0)) == [8, 0, 0]
    assert re.search(said, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(
    "columns",
    [
        {"test": ["blood", "urine"] * 4},
        {"test": [0.25, 17] * 4},
        {"set": ["train", "car"] * 4},
        {"vehicle": ["train"] * 8},
        {"caption": ["a train", "a red car"] * 4},
        {"trained": [0, 1] * 4, "latest": [0, 1] * 4, "testimony": [0, 1] * 4},
    ],
)
def test_columns_that_are_no_split_are_left_alone(tmp_path, columns, capsys):
    assert split_sizes(load_images(table_of(tmp_path, columns), validation_share=0, test_share=0)) == [8, 0, 0]
    assert "split" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"is_val": [0] * 6 + [1] * 2, "is_test": [0] * 7 + [1]}, "line 9: is_val and is_test are both 1"),
        (
            {"is_train": [1] * 5 + [0] * 3, "is_val": [0] * 5 + [1, 0, 0], "is_test": [0] * 6 + [1, 0]},
            "line 9: is_train, is_val, is_test are all 0",
        ),
    ],
)
def test_flags_that_put_an_image_into_no_split_or_into_two_are_refused(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        load_images(table_of(tmp_path, columns))


@pytest.mark.parametrize(("name", "mark"), [("set.tsv", "\t"), ("set.csv", ";")])
def test_other_delimiters_are_detected(tmp_path, name, mark):
    images(tmp_path, 6)
    rows = [("path", "class"), *((f"{n}.png", "ab"[n % 2]) for n in range(6))]
    table = load_images(write(tmp_path / name, "\n".join(mark.join(row) for row in rows).encode()))
    assert table.classes == ("a", "b") and len(table) == 6


def test_json_lines_with_gaps_numbers_and_texts(tmp_path):
    images(tmp_path, 8)
    rows = [{"image": f"{n}.png", "category": n % 2, "caption": f"text {n}", "score": n} for n in range(7)]
    rows.append({"image": "7.png", "extra": None})
    table = load_images(write(tmp_path / "set.jsonl", "\n\n".join(map(json.dumps, rows)).encode()))
    assert table.classes == ("0", "1")
    assert texts_by_path(table, "caption")["3.png"] == "text 3"
    assert texts_by_path(table, "score")["3.png"] == "3"
    assert texts_by_path(table, "caption")["7.png"] is None
    assert {table.path(i): int(table.labels[i]) for i in table.split("train")}["7.png"] == -1
    again = pickle.loads(pickle.dumps(table))  # noqa: S301 - made one line above
    assert again.texts("caption") == table.texts("caption")
    assert b"text 3" not in pickle.dumps(table.reader)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "path,label\n0.png,a,b\n", r"a\.csv, line 2 has 3 fields"),
        ("a.csv", "path,label\n", "has no rows"),
        ("a.csv", "", "has no rows"),
        ("a.csv", "label\na\n", r"no column that names the images.*Columns: label.*image_column"),
        ("a.csv", "path\n0.png\n", r"no label column.*label_column"),
        ("a.csv", "path,label\n,a\n", r"a\.csv, line 2: None is not an image path"),
        ("a.csv", "path,label,split\n0.png,a,extra\n", r"a\.csv, line 2: 'extra' is not a split. Known names"),
        ("a.jsonl", '{"path": "0.png", "label": {"a": 1}}', "not a single name"),
        ("a.jsonl", '{"path": 3, "label": "a"}', "3 is not an image path"),
    ],
)
def test_malformed_rows_name_file_and_row(tmp_path, name, content, message):
    images(tmp_path, 1)
    with pytest.raises(DataError, match=message):
        load_images(write(tmp_path / name, content.encode()))


def test_named_columns_override_usual_names(tmp_path):
    images(tmp_path, 6)
    rows = ["where,what,label", *(f"{n}.png,{'ab'[n % 2]},words" for n in range(6))]
    file = write(tmp_path / "set.csv", "\n".join(rows).encode())
    table = load_images(file, image_column="where", label_column="what")
    assert table.classes == ("a", "b") and table.reader.text_columns == ("label",)
    with pytest.raises(DataError, match=r"label_column 'nothing' does not exist\. Columns: where, what, label"):
        load_images(file, image_column="where", label_column="nothing")


def test_only_training_images_may_lack_a_label(tmp_path):
    images(tmp_path, 5)
    rows = ["path,label,split", "0.png,a,train", "1.png,b,train", "2.png,,train", "3.png,a,test", "4.png,,test"]
    with pytest.raises(DataError, match=r"4\.png in the test split has no label"):
        load_images(write(tmp_path / "set.csv", "\n".join(rows).encode()))
    rows = [row for row in rows if not row.startswith("3")]
    table = load_images(write(tmp_path / "set.csv", "\n".join(rows).encode()), validation_share=0, test_share=0)
    assert split_sizes(table) == [3, 0, 0]
    assert reasons(table) == {"4.png": "its split has no labels"}


def test_metadata_with_labels(tmp_path):
    images(tmp_path / "data", 6)
    write(tmp_path / "data" / "unnamed.png", noise(50))
    secret = write(tmp_path / "secret.png", noise(51))
    names = [f"{n}.png" for n in range(6)] + ["../secret.png", str(secret), "a/../0.png", "gone.png"]
    rows = [{"file_name": name, "label": "ab"[n % 2], "text": f"t{n}"} for n, name in enumerate(names)]
    write(tmp_path / "data" / "metadata.jsonl", "\n".join(map(json.dumps, rows)).encode())
    table = load_images(tmp_path / "data")
    assert len(table) == 6 and table.classes == ("a", "b")
    assert texts_by_path(table, "text")["5.png"] == "t5"
    assert reasons(table) == {
        "../secret.png": "the path leads outside the folder (metadata.jsonl line 7)",
        str(secret): "the path leads outside the folder (metadata.jsonl line 8)",
        "a/../0.png": "the path leads outside the folder (metadata.jsonl line 9)",
        "gone.png": "the file does not exist (metadata.jsonl line 10)",
        "unnamed.png": "not named in the metadata",
    }


def test_metadata_that_names_few_of_the_images_is_pointed_out(tmp_path, capsys):
    class_folders(tmp_path, {"x": 4, "y": 4})
    rows = {"file_name": ["x/000.png", "y/000.png", "y/001.png"], "text": ["a", "b", "c"]}
    pq.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    assert len(load_images(tmp_path, validation_share=0, test_share=0)) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "metadata.parquet: names only 3 of the 8 images" in said
    assert "add rows for them, or move the table out of the folder" in said


def test_metadata_in_split_folders_with_labels_from_folders(tmp_path):
    class_folders(tmp_path, {f"{split}/{name}": 2 for split in ("train", "validation", "test") for name in ("x", "y")})
    for split in ("train", "validation", "test"):
        rows = ["file_name,text", *(f"{name}/00{n}.png,{split} {name} {n}" for name in ("x", "y") for n in range(2))]
        write(tmp_path / split / "metadata.csv", "\n".join(rows).encode())
    table = load_images(tmp_path)
    assert split_sizes(table) == [4, 4, 4] and table.classes == ("x", "y")
    assert texts_by_path(table, "text")["test/y/001.png"] == "test y 1"
    assert all(text.startswith(str(table.rows["split"][i])) for i, text in enumerate(table.texts("text")))


def test_metadata_at_the_root_of_split_folders(tmp_path):
    class_folders(tmp_path, {"train/x": 2, "train/y": 2, "val/x": 1, "val/y": 1, "test/x": 1, "test/y": 1})
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    write(tmp_path / "metadata.csv", "\n".join(["file_name,text", *(f"{f},about {f}" for f in files)]).encode())
    table = load_images(tmp_path)
    assert split_sizes(table) == [4, 2, 2] and table.classes == ("x", "y")


def test_metadata_without_any_labels(tmp_path):
    images(tmp_path, 3)
    write(tmp_path / "metadata.csv", b"file_name,text\n0.png,a\n")
    with pytest.raises(DataError, match="no label column and its images are not in class folders"):
        load_images(tmp_path)


def test_backslash_paths_are_found(tmp_path):
    images(tmp_path / "set" / "a b", 6)
    rows = ["path,label", *(f"a b\\{n}.png,{'xy'[n % 2]}" for n in range(6)), "..\\secret.png,x", "C:\\set\\0.png,x"]
    write(tmp_path / "secret.png", noise(9))
    text = "\r\n".join(rows).encode()
    table = load_images(write(tmp_path / "set" / "images.csv", text))
    assert table.path(0) == "a b/0.png" and table.read(0) == noise(0)
    assert len(table) == 7
    assert reasons(table)["C:\\set\\0.png"].startswith("the file does not exist: the path names a Windows drive")
    write(tmp_path / "set" / "metadata.csv", text)
    inside = load_images(tmp_path / "set")
    assert len(inside) == 6
    assert reasons(inside)["../secret.png"] == "the path leads outside the folder (metadata.csv line 8)"


def test_a_backslash_in_a_file_name_is_kept(tmp_path):
    images(tmp_path, 4)
    (tmp_path / "0.png").rename(tmp_path / "a\\0.png")
    rows = ["path,label", "a\\0.png,x", *(f"{n}.png,{'xy'[n % 2]}" for n in range(1, 4))]
    assert load_images(write(tmp_path / "set.csv", "\n".join(rows).encode())).path(0) == "a\\0.png"


@pytest.mark.parametrize("empty", ["", " ", "nan", "NaN", "None", "<NA>", "NA", "N/A", "null", "NULL", "#N/A"])
def test_missing_labels_make_no_class(tmp_path, empty):
    images(tmp_path, 9)
    rows = ["path,label", *(f"{n}.png,{['cat', 'dog', empty][n % 3]}" for n in range(9))]
    table = load_images(write(tmp_path / "set.csv", "\n".join(rows).encode()), test_share=0, validation_share=0)
    assert table.classes == ("cat", "dog") and (table.labels < 0).sum() == 3


def test_missing_numbers_of_json_lines_make_no_class(tmp_path):
    images(tmp_path, 3)
    lines = ['{"path": "0.png", "label": 1}', '{"path": "1.png", "label": 2}', '{"path": "2.png", "label": NaN}']
    table = load_images(write(tmp_path / "a.jsonl", "\n".join(lines).encode()), test_share=0, validation_share=0)
    assert table.classes == ("1", "2") and table.labels.tolist() == [0, 1, -1]


def test_whole_numbers_written_as_floats_are_the_same_classes(tmp_path):
    class_folders(tmp_path, {"train": 4, "test": 4})
    write(tmp_path / "train" / "metadata.csv", b"file_name,label\n000.png,1\n001.png,2\n002.png,1\n003.png,2\n")
    write(tmp_path / "test" / "metadata.csv", b"file_name,label\n000.png,1.0\n001.png,2.0\n002.png,1.0\n003.png,2.0\n")
    table = load_images(tmp_path)
    assert table.classes == ("1", "2")
    assert names_of(table, "test")["test/001.png"] == "2"


def test_composed_paths_name_decomposed_files(tmp_path):
    images(tmp_path / unicodedata.normalize("NFD", "Käse"), 4)
    composed = unicodedata.normalize("NFC", "Käse")
    rows = ["path,label,text", *(f"{composed}/{n}.png,{'xy'[n % 2]},text {n}" for n in range(4))]
    file = write(tmp_path / "set.csv", "\n".join(rows).encode())
    table = load_images(file)
    assert len(table) == 4 and table.read(0) == noise(0)
    assert len(load_descriptions(table, str(file))) == 4


@pytest.mark.parametrize(
    "spell",
    [
        lambda path, _: f" {path} ",
        lambda path, _: path.replace(" ", "%20"),
        lambda path, root: f"file://{root}/{path}".replace(" ", "%20"),
        lambda path, root: f"{root}/{path}",
        lambda path, _: ".\\" + path.replace("/", "\\"),
        lambda path, _: path.upper(),
        lambda path, _: "..\\" + path.replace("sub", "set/Sub"),
    ],
)
def test_other_spellings_of_a_path_lead_to_the_file(tmp_path, spell):
    paths, tmp_path = [f"sub {n}/{n}.png" for n in range(8)], tmp_path / "set"
    for n, path in enumerate(paths):
        write(tmp_path / path, noise(n))
    rows = ["path,label", *(f"{spell(path, tmp_path)},{'ab'[n % 2]}" for n, path in enumerate(paths))]
    table = load_images(write(tmp_path / "set.csv", "\n".join(rows).encode()))
    assert [table.read(n) for n in range(8)] == [noise(n) for n in range(8)]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("\\\\server\\a.png", "names a Windows drive"),
        ("set/x/0.png", "paths are relative to set, where it is x/0.png"),
        ("/home/me/set/x/0.png", "paths are relative to set, where it is x/0.png"),
        ("file:///home/me/set/x/0.png", "paths are relative to set, where it is x/0.png"),
        ("D:\\set\\x\\0.png", "paths are relative to set, where it is x/0.png"),
        ("pictures/1.png", "paths are relative to set, from where it is ../pictures/1.png"),
        ("x/0", "paths are relative to set, where it is x/0.png"),
        ("0.png", "paths are relative to set, where it is x/0.png"),
        ("0", "paths are relative to set, where it is x/0.png"),
        ("y/2.PNG", r"the file does not exist \(set.csv"),
    ],
)
def test_paths_that_lead_nowhere_here_are_explained(tmp_path, path, reason):
    for place in ("set/x/0.png", "pictures/1.png", "set/y/2.png", "set/Y/2.Png"):
        write(tmp_path / place, noise(1))
    file = write(tmp_path / "set" / "set.csv", f"path,label\n{path},a\n".encode())
    with pytest.raises(DataError, match=reason):
        load_images(file)


@pytest.mark.parametrize("name", ["metadata.tsv", "Metadata.CSV", "metadata.ndjson"])
def test_metadata_of_every_text_form_is_read(tmp_path, name):
    class_folders(tmp_path, {"x": 8})
    rows = [{"file_name": f"x/{n:03d}.png", "label": "ab"[n % 2]} for n in range(8)]
    separator = "\t" if name.endswith("tsv") else ","
    table = "\n".join([separator.join(rows[0]), *(separator.join(row.values()) for row in rows)])
    write(tmp_path / name, ("\n".join(map(json.dumps, rows)) if "json" in name else table).encode())
    assert load_images(tmp_path).classes == ("a", "b")


def test_table_called_metadata_that_names_no_image_is_no_part_of_the_set(tmp_path):
    root = class_folders(tmp_path, {"cat": 4, "dog": 4})
    write(root / "metadata.tsv", b"author\tyear\nme\t2020\n")
    assert load_images(root).classes == ("cat", "dog")
