"""Messages name commands and settings as the user calls them."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib import metadata

import pytest

from gpt4image.cli.commands import COMMANDS as CLI
from gpt4image.cli.main import main
from gpt4image.core.errors import ConfigError
from gpt4image.core.invocation import Invocation, in_users_words, install_command, invoked, typed_program
from gpt4image.core.options import DataOptions
from gpt4image.train.recipe import Recipe
from support import ROOT
from support.image_files import class_folders, noise, write
from support.stub_server import MODEL, StubServer

COMMANDS = frozenset({"describe", "compare"})


def test_errors_of_python_calls_name_no_options():
    error = ConfigError("Set test_share (--test-share SHARE), or price_in and price_out (--price-in, --price-out).")
    assert str(error) == "Set test_share, or price_in and price_out."
    with invoked(Invocation("gpt4image", commands=COMMANDS)):
        assert str(error).startswith("Set --test-share SHARE, or ")


def literal_texts(node):
    """Yield the texts inside an expression; what an f-string inserts is an X."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from literal_texts(child)


def library_texts(kinds):
    """Return the texts in all nodes of some kinds, with their modules; those of the command line are left out."""
    package = ROOT / "src/gpt4image"
    return {
        (str(path.relative_to(package)), text)
        for path in package.rglob("*.py")
        if "cli" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kinds)
        for text in literal_texts(node)
    }


def test_no_error_of_the_library_names_a_bare_option():
    """Outside the command line, an option stands in brackets behind its setting, or in a command to type."""
    raised = library_texts(ast.Raise)
    assert len(raised) > 200
    bare = [(path, text) for path, text in raised if re.search(r"(?<![\w-])--[a-z]", in_users_words(text))]
    assert [(path, text) for path, text in bare if not re.search(r"gpt4image [a-z]+( [a-zA-Z]+)* --", text)] == []


def setting_names(kind):
    """Yield the names of the fields of a command that are more than a word, those of its parts included."""
    for field in fields(kind):
        if is_dataclass(field.default_factory):
            yield from setting_names(field.default_factory)
        elif "_" in field.name:
            yield field.name


def test_no_message_of_the_library_names_a_setting_without_its_option():
    """On the command line `label_column` is `--label-column`, and the user must not have to guess that."""
    settings = {name for kind in (*CLI.values(), DataOptions, Recipe) for name in setting_names(kind)}
    assert {"label_column", "cached_views", "max_pixels"} <= settings
    names = re.compile(rf"\b({'|'.join(settings)})\b")
    assert [
        (path, text)
        for path, text in library_texts((ast.Raise, ast.Return, ast.Call, ast.Assign, ast.Dict))
        for name in names.findall(text)
        if " " in text and not re.search(rf"--(no-)?{name.replace('_', '-')}", text)
    ] == []


def test_commands_are_named_as_typed_however_often_a_message_is_rewritten():
    with invoked(Invocation("./run gpt4image", commands=COMMANDS)):
        once = in_users_words("Write some: gpt4image describe. A set exported by gpt4image.")
        assert once == in_users_words(once) == ("Write some: ./run gpt4image describe. A set exported by gpt4image.")


def test_commands_to_copy_have_the_images_and_the_work_directory_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "my photos", {"cat": 5, "dog": 5})
    write(tmp_path / "my photos" / "cat" / "x.png", b"")
    write(tmp_path / "more" / "y.png", noise(9))
    write(tmp_path / "c.csv", b"id,decision,label\n")
    options = ["--unlabelled", "more", "--corrections", "c.csv", "--test-share", "0.3", "--work", "the work"]
    words = ["describe", "my photos", *options, "--prompts", "contrast", "--model", MODEL]
    with StubServer() as server:
        assert main([*words, "--base-url", server.base_url]) == 1
    said = " ".join(capsys.readouterr().err.split())
    images = "'my photos' --unlabelled more --corrections c.csv --test-share 0.3 --work 'the work'"
    assert f"To list them: gpt4image images {images}" in said
    assert f"gpt4image train {images} --arm baseline" in said
    assert "--confusions 'the work'/runs/baseline-0" in said
    assert main(["images", *shlex.split(images)]) == 0  # what is advised works


def test_python_calls_see_placeholders():
    text = "Create them: gpt4image label DATA --work WORK. DATA and WORK stay."
    assert in_users_words(text) == text
    with invoked(Invocation("./run gpt4image", commands=frozenset({"label"}), images=("a b", "--leaks", "drop"))):
        assert in_users_words(text) == "Create them: ./run gpt4image label 'a b' --leaks drop. DATA and WORK stay."


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
        plain = {name: value for name, value in os.environ.items() if name != "GPT4IMAGE_COMMAND"}  # set by ./run test
        found = subprocess.run(words, check=False, capture_output=True, text=True, env=plain | environment)
        return " ".join(found.stderr.split())

    module = (sys.executable, "-m", "gpt4image", "check")
    assert f"{sys.executable} -m gpt4image describe check?" in error_of(*module)
    assert "../run gpt4image describe check?" in error_of(*module, GPT4IMAGE_COMMAND="../run gpt4image")


@pytest.mark.parametrize(
    ("made_by", "command"),
    [
        ("uv-receipt.toml", "uv pip install --python '{home}' 'gpt4image[onnx]'"),
        ("pipx_metadata.json", "pipx runpip 'my tools' install 'gpt4image[onnx]'"),
        ("pyvenv.cfg", "pip install 'gpt4image[onnx]'"),
    ],
)
def test_install_command_is_that_of_the_tool_that_made_the_environment(tmp_path, monkeypatch, made_by, command):
    home = tmp_path / "my tools"
    home.mkdir()
    (home / made_by).touch()
    monkeypatch.setattr(sys, "prefix", str(home))
    monkeypatch.setattr(metadata, "distributions", lambda name: iter([name]))
    assert install_command("gpt4image[onnx]") == command.format(home=home)


def test_install_command_without_pip_is_that_of_uv(monkeypatch):
    monkeypatch.setattr(metadata, "distributions", lambda name: iter(()))
    assert install_command("transformers") == "uv pip install transformers"


def test_setuptools_can_still_be_loaded_after_a_look_for_pip():
    code = "import gpt4image.core.invocation as i; i.install_command('x'); import setuptools"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_command_of_several_processes_starts_as_many_again(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.delenv("GPT4IMAGE_COMMAND", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert typed_program() == "accelerate launch --num_processes 2 -m gpt4image"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # with which accelerate starts one process
    assert typed_program() == "torchrun --nproc-per-node 2 -m gpt4image"
