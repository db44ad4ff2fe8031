"""Notes and results: escaped, and wrapped on a terminal only."""

import sys

import pytest

from gpt4image.core import console
from gpt4image.core.format import ELLIPSIS

LINE = "These runs do not show that the descriptions help or hurt: +0.6 points, and the 95% interval includes zero."


def test_show_wraps_long_lines_on_a_terminal_and_keeps_their_indentation(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.show(f"short\n  {LINE}\n")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "short"
    assert all(len(line) <= 40 and line.startswith("  ") for line in shown[1:-1])
    assert " ".join(" ".join(shown[1:]).split()) == LINE


def test_show_keeps_a_long_line_whole_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    console.show(LINE)
    assert capsys.readouterr().out == LINE + "\n"


@pytest.mark.parametrize("stream", ["out", "err"])
def test_control_characters_are_escaped(stream, capsys):
    (console.show if stream == "out" else console.say)("a\x1b[31m\u202eb\nc")
    assert getattr(capsys.readouterr(), stream) == "a\\x1b[31m\\u202eb\nc\n"


def test_progress_of_an_unknown_total_shows_the_position(capsys):
    with console.progress("Export") as meter:
        meter.advance(1700)
    with console.progress("Describe in batches", 0):
        pass
    shown = capsys.readouterr().err
    assert "1,700" in shown and "?" not in shown
    assert "0/0" not in shown and "Describe" not in shown


def test_follow_shows_nothing_without_a_step(capsys):
    console.follow("Embed", 3, iter(()))
    assert capsys.readouterr().err == ""
    console.follow("Embed", 3, iter((1, 3)))
    assert "Embed" in capsys.readouterr().err


def test_lines_inside_a_line_move_it_and_stay(capsys):
    """The outer line counts a run that ended earlier, and ends at its total."""
    with console.progress("All 3 runs", 3, done=1) as overall:
        for number in (2, 3):
            with console.progress(f"Run {number} of 3", 7, part_of=overall) as meter:
                meter.start(2 if number == 2 else 0)
                for _ in range(5 if number == 2 else 7):
                    meter.advance()
    shown = capsys.readouterr().err
    shown = [" ".join(line.split()) for line in shown.splitlines()]
    assert [line[:10] for line in shown] == ["Run 2 of 3", "Run 3 of 3", "All 3 runs"]
    assert "7/7" in shown[0] and "3/3" in shown[2]


def test_a_step_says_what_it_does_before_it_does_it(capsys):
    with console.step("Load PyTorch"):
        assert capsys.readouterr().err == f"Load PyTorch{ELLIPSIS}\n"


def test_without_a_terminal_long_work_is_logged(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOG_SECONDS", -1)
    with console.progress("Embed 9 texts", 9) as meter:
        meter.advance(4)
        assert capsys.readouterr().err == "Embed 9 texts: 4 of 9\n"


def test_commands_are_never_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.show_command(f"gpt4image compare '{LINE}'")
    assert capsys.readouterr().out == f"  gpt4image compare '{LINE}'\n"
    console.show_command("")
    assert capsys.readouterr().out == ""
