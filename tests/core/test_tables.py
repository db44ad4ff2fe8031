"""One set of rules for every table, whatever it is read as."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt4image import DescriptionStore, load_descriptions, load_images
from gpt4image.core.errors import DataError, DescriptionError
from gpt4image.core.tables import PATH_COLUMNS, Table, pick_column
from gpt4image.descriptions.exchange import import_descriptions
from support.image_files import noise, write

ROWS = [{"image_path": f"{n}.png", "Label": "ab"[n % 2], "caption": f"a „text“, {n}"} for n in range(6)]


def delimited(rows, delimiter=",", encoding="utf-8"):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def json_lines(rows, encoding="utf-8"):
    return "\n\n".join(map(json.dumps, rows)).encode(encoding)


def parquet(rows, **options):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=4, **options)
    return stream.getvalue()


def arrow(rows, new=pa.ipc.new_stream):
    stream, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with new(stream, table.schema) as writer:
        writer.write_table(table, 4)
    return stream.getvalue()


FORMS = {
    "comma.csv": delimited(ROWS),
    "semicolon.csv": delimited(ROWS, ";"),
    "tab.csv": delimited(ROWS, "\t"),
    "byte order mark.CSV": delimited(ROWS, encoding="utf-8-sig"),
    "spreadsheet.tsv": delimited(ROWS, "\t", "utf-16"),
    "old line ends.csv": delimited(ROWS).replace(b"\r\n", b"\r"),
    "lines.jsonl": json_lines(ROWS),
    "lines with mark.ndjson": json_lines(ROWS, "utf-8-sig"),
    "columns.parquet": parquet(ROWS),
    "stream.arrow": arrow(ROWS),
    "file.arrow": arrow(ROWS, pa.ipc.new_file),
}


@pytest.fixture
def folder(tmp_path):
    for n in range(6):
        write(tmp_path / f"{n}.png", noise(n))
    return tmp_path


@pytest.mark.parametrize("name", FORMS)
def test_every_form_yields_the_same_rows(tmp_path, name):
    table = Table(write(tmp_path / name, FORMS[name]))
    assert table.columns() == list(ROWS[0])
    assert [row for _, row in table.rows()] == ROWS


@pytest.mark.parametrize("name", FORMS)
def test_every_form_works_as_images_as_descriptions_and_as_import(folder, name):
    images = load_images(write(folder / "images.jsonl", json_lines(ROWS)))
    file = write(folder / name, FORMS[name])
    assert (
        load_images(file)
        .rows.select(["id", "path", "label", "split"])
        .equals(images.rows.select(["id", "path", "label", "split"]))
    )
    found = dict(load_descriptions(images, str(file)).pairs())
    assert [found[id_.decode()] for id_ in images.ids] == [row["caption"] for row in ROWS]
    assert import_descriptions(file, images, DescriptionStore(folder / "descriptions")).added == 6


@pytest.mark.parametrize("column", PATH_COLUMNS)
def test_every_name_of_the_path_column_works_for_images_and_descriptions(folder, column):
    rows = [{column.upper(): row["image_path"], "label": row["Label"], "Text": row["caption"]} for row in ROWS]
    file = write(folder / "set.csv", delimited(rows, ";"))
    images = load_images(file)
    assert len(images) == len(load_descriptions(images, str(file))) == 6


def test_numbers_are_lines_in_text_files_and_positions_in_columns(tmp_path):
    file = write(tmp_path / "a.csv", b'path,text\nx,"two\nlines"\n\ny,one\n')
    table = Table(file)
    assert [number for number, _ in table.rows()] == [3, 5]
    assert table.where(3) == f"{file}, line 3"
    table = Table(write(tmp_path / "a.parquet", parquet(ROWS)))
    assert [number for number, _ in table.rows()] == [1, 2, 3, 4, 5, 6]
    assert table.where(3).endswith("a.parquet, row 3")


def test_fields_missing_at_the_end_of_a_row_are_none(tmp_path):
    rows = Table(write(tmp_path / "a.csv", b"path,label,,\nx\ny,,\n")).rows()
    assert [(row["path"], row["label"]) for _, row in rows] == [("x", None), ("y", "")]


def test_delimiters_inside_quotes_do_not_count(tmp_path):
    table = Table(write(tmp_path / "a.csv", b'"a;b;c",d\n1,2\n'))
    assert table.columns() == ["a;b;c", "d"]


def test_bytes_and_nested_columns_are_read_only_when_named(tmp_path):
    rows = [{**ROWS[0], "image": b"bytes", "vector": [1.0, 2.0], "tokens": 3}]
    table = Table(write(tmp_path / "a.parquet", parquet(rows)))
    assert [row for _, row in table.rows()] == [{**ROWS[0], "tokens": 3}]
    assert [row for _, row in table.rows({"vector", "other"})] == [{"vector": [1.0, 2.0]}]
    assert "image" in table.columns()


def test_a_field_may_be_longer_than_the_csv_module_expects(tmp_path):
    long = "x" * 200_000
    assert next(Table(write(tmp_path / "a.csv", f"text\n{long}\n".encode())).rows()) == (2, {"text": long})


def test_text_that_only_looks_like_a_line_end_stays_inside(tmp_path):
    rows = [{"text": "a\u2028b\x0bc\x85d"}]
    for name, data in (("a.csv", delimited(rows)), ("a.jsonl", json.dumps(rows[0], ensure_ascii=False).encode())):
        assert [row for _, row in Table(write(tmp_path / name, data)).rows()] == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"path,label\n0.png,a,b\n", r"a\.csv, line 2 has 3 fields, but the header has 2"),
        ("a.csv", b'path,label\n0.png,"a\n', r"a\.csv, line 2 is malformed"),
        ("a.csv", b"path,path\n0.png,a\n", r"a\.csv, line 1 has two columns named 'path'"),
        ("a.csv", b"path,label\nx,a\n\xff,a\n", r"a\.csv, line 3 is not UTF-8 text. Save"),
        ("a.tsv", b"path\tlabel\nx\ty\n\xe4\ta\n", r"a\.tsv, line 3 is not UTF-8 text"),
        ("a.jsonl", b'{"path": "\xff"}', r"a\.jsonl, line 1 is not UTF-8 text"),
        ("a.jsonl", b'{"path": "0.png"}\n{"path"', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1 is not JSON"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"a\.csv is a Git LFS pointer"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"a\.jsonl is a Git LFS pointer"),
        ("a.parquet", b"<!DOCTYPE html><html>Sign in</html>", r"a\.parquet is a web page\."),
        ("a.jsonl", b"\n[1]\n", r"a\.jsonl, line 2 is not a JSON object but list"),
        ("a.parquet", b"not parquet", r"a\.parquet cannot be read as Parquet"),
        ("a.arrow", b"not arrow", r"a\.arrow cannot be read as Arrow"),
        ("a.xlsx", b"", r"a\.xlsx: tables must be \.csv, .* or \.arrow"),
    ],
)
@pytest.mark.parametrize("error", [DataError, DescriptionError])
def test_broken_tables_name_file_and_row(tmp_path, name, content, message, error):
    with pytest.raises(error, match=message) as caught:
        list(Table(write(tmp_path / name, content), error).rows())
    assert str(tmp_path / name) in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
        list(Table(tmp_path / "gone.csv").rows())


def test_damage_within_a_parquet_file_names_the_last_row_read(tmp_path):
    data = parquet([{"text": f"{n} {'x' * 50}"} for n in range(20)], compression="none", use_dictionary=False)
    place = data.index(b"12 x") - 40  # the header of the fourth group's page
    damaged = data[:place] + bytes(40) + data[place + 40 :]
    with pytest.raises(DataError, match=r"a\.parquet, after row \d+: cannot be read"):
        list(Table(write(tmp_path / "a.parquet", damaged)).rows())


def test_pick_column():
    assert pick_column(["b", " Path "], None, PATH_COLUMNS) == " Path "
    assert pick_column(["file", "path"], None, PATH_COLUMNS) == "path"
    assert pick_column(["Text", "text"], "text", ()) == "text"
    assert pick_column(["b"], None, PATH_COLUMNS) is None
    with pytest.raises(DataError, match=r"^label_column 'c' does not exist\. Columns: a, b\.$"):
        pick_column(["a", "b"], "c", (), "label_column")
