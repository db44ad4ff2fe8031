"""Tables: aligned for people, separated for programs."""

import sys

from gpt4image.cli.rows import write_rows


def test_rows_are_aligned_on_a_terminal_and_tab_separated_elsewhere(capsys, monkeypatch):
    rows = [("class", "cat", "train 5"), ("class", "猫\x1b", "train 12"), ("left out", "a" * 50 + ".png", "empty")]
    write_rows(rows)
    assert capsys.readouterr().out.splitlines()[0] == "\t".join(rows[0])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write_rows(rows)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "class     cat     train 5"
    assert shown[1] == "class     猫\\x1b  train 12"  # two columns wide
    assert shown[2] == f"left out  {rows[2][1]}  empty"
    write_rows([])
    assert capsys.readouterr().out == ""
