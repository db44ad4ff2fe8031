"""Notes and results: escaped, and wrapped on a terminal only."""

import sys
import threading

import pytest

from gpt4image.core import console

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


def test_step_that_takes_long_is_named(capsys, monkeypatch):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0)
    said = threading.Event()
    say = console.say
    monkeypatch.setattr(console, "say", lambda text: (say(text), said.set()))
    with console.doing("Listing a\x1b[31m"):
        assert said.wait(60)
    assert capsys.readouterr().err == "Listing a\\x1b[31m ...\n"


@pytest.mark.parametrize("speak", [console.say, console.show, lambda text: console.progress(text, 3).__enter__()])
def test_step_is_not_named_once_something_else_is_said(speak, monkeypatch):
    monkeypatch.setattr(console, "QUIET_SECONDS", 1e6)
    before = threading.active_count()
    with console.doing("Listing"), console.doing("Listing more"):
        (notice,) = console._waiting
        speak("3 images")
        assert console._waiting == [] and notice.finished.is_set()
    assert threading.active_count() <= before + 3
