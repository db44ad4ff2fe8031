"""Messages name commands and settings as the user calls them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gpt4image.cli.main import main
from gpt4image.core.errors import ConfigError
from gpt4image.core.invocation import Invocation, in_users_words, invoked

COMMANDS = frozenset({"describe", "compare"})


def test_errors_of_python_calls_name_no_options():
    error = ConfigError("Set test_share (--test-share SHARE), or price_in and price_out (--price-in, --price-out).")
    assert str(error) == "Set test_share, or price_in and price_out."
    with invoked(Invocation("gpt4image", commands=COMMANDS)):
        assert str(error).startswith("Set --test-share SHARE, or ")


def test_commands_are_named_as_typed_however_often_a_message_is_rewritten():
    with invoked(Invocation("./run gpt4image", commands=COMMANDS)):
        once = in_users_words("Write some: gpt4image describe. A set that gpt4image has exported.")
        assert (
            once == in_users_words(once) == ("Write some: ./run gpt4image describe. A set that gpt4image has exported.")
        )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("compare", "photos"), "gpt4image compare photos --seeds 9"),
        (("compare", "my photos", "--seeds", "3", "--lr", "1e-4"), "gpt4image compare 'my photos' --lr 1e-4 --seeds 9"),
        (("compare", "photos", "--seeds=3"), "gpt4image compare photos --seeds 9"),
    ],
)
def test_a_command_line_with_another_number_keeps_everything_else(arguments, expected):
    assert Invocation("gpt4image", arguments).with_option("--seeds", 9) == expected


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("check", "gpt4image describe check?"),
        ("import", "gpt4image describe import?"),
        ("images-embed", "Known:"),
        ("help", "gpt4image --help?"),
        ("version", "gpt4image --version?"),
        ("comapre", "'compare'?"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest_known_one(word, hint, capsys):
    assert main([word]) == 1
    assert hint in " ".join(capsys.readouterr().err.split())


def test_a_misspelt_second_word_is_answered_with_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["describe", "chek", "photos"]) == 1
    assert "Did you mean gpt4image describe check?" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "chek").mkdir()  # a folder of images may have such a name
    assert main(["describe", "chek", "--estimate"]) == 1
    assert "Did you mean" not in capsys.readouterr().err


def test_program_is_named_as_it_was_started():
    def error_of(*words, **environment):
        found = subprocess.run(words, check=False, capture_output=True, text=True, env=os.environ | environment)
        return " ".join(found.stderr.split())

    module = (sys.executable, "-m", "gpt4image", "check")
    assert f"{sys.executable} -m gpt4image describe check?" in error_of(*module)
    assert "../run gpt4image describe check?" in error_of(*module, GPT4IMAGE_COMMAND="../run gpt4image")
