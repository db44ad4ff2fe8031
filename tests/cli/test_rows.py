"""Tables: aligned for people, separated for programs."""

import csv
import io
import sys

from gpt4image.cli.rows import GrowingTable, write_rows


def test_rows_are_aligned_on_a_terminal_and_tab_separated_elsewhere(capsys, monkeypatch):
    rows = [("class", "cat", "train 5"), ("class", "猫\x1b", "train 12"), ("left out", "a" * 50 + ".png", "empty")]
    write_rows(rows)
    assert capsys.readouterr().out.splitlines()[0] == "\t".join(rows[0])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    write_rows(rows)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "class     cat     train 5"
    assert shown[1] == "class     猫\\x1b  train 12"  # two columns wide
    assert shown[2] == f"left out  {rows[2][1]}  empty"
    write_rows([])
    assert capsys.readouterr().out == ""


def test_csv_quotes_every_break_of_a_line(capsys):
    cells = ["a\nb.png", "c\rd.png", 'e,"f".png', "g"]
    GrowingTable(as_csv=True).write([cells])
    assert list(csv.reader(io.StringIO(capsys.readouterr().out, newline=""))) == [cells]


def test_columns_of_a_growing_table_only_widen(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    table = GrowingTable()
    table.write([("path", "class_1", "error"), ("a/1.png", "cat 0.9", ""), ("b" * 41, "dog 0.8", "")])
    table.write([("a/b/2.png", "dog 0.7", ""), ("c", "", "empty")])
    table.write([("d", "cat 0.6", "")])
    assert capsys.readouterr().out.splitlines() == [
        "path     class_1  error",
        "a/1.png  cat 0.9",
        f"{'b' * 41}  dog 0.8",  # more than half of the line
        "a/b/2.png  dog 0.7",
        "c                   empty",
        "d          cat 0.6",
    ]
