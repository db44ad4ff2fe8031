"""Shells complete commands, options and choices."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gpt4image.cli.commands import COMMANDS
from gpt4image.cli.help import help_text
from gpt4image.cli.main import main

COMPLETE = """
source "$1"; shift
function=$(complete -p gpt4image | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
$function gpt4image "${COMP_WORDS[$COMP_CWORD]}" "${COMP_WORDS[$COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "gpt4image.bash"
    with pytest.MonkeyPatch.context() as patch, file.open("w") as out:
        patch.setattr("sys.stdout", out)
        assert main(["completion", "bash"]) == 0
    return file


def complete(script: Path, *words: str) -> list[str]:
    command = ["bash", "-c", COMPLETE, "complete", str(script), "gpt4image", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("comp",), ["compare", "completion"]),
        (("describe", "ch"), ["check"]),
        (("compare", "--leak"), ["--leaks"]),
        (("compare", "--leaks", ""), ["keep", "drop", "fail"]),
        (("describe", "check", "--back"), ["--backbone"]),
        (("export", "--no-o"), ["--no-onnx"]),
        (("train", "photos", "--leaks", "k"), ["keep"]),
        (("completion", "z"), ["zsh"]),
    ],
)
def test_bash_completes(script, words, expected):
    assert complete(script, *words) == expected


def test_every_command_is_offered(script):
    assert set(complete(script, "")) == {name.split()[0] for name in COMMANDS}


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "describe" in capsys.readouterr().out


def test_zsh_completes_files_and_what_follows_them(capsys):
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    options = {
        name: specifications.splitlines()
        for name, specifications in re.findall(r"^_shtab_gpt4image_(\w+)_options=\((.*?)^\)", script, re.M | re.S)
    }
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    for name, command in COMMANDS.items():
        takes_files = "DATA" in help_text(name, command, everything=False).splitlines()[0]
        found = any(line.endswith(':_files" "*:file:_files"') for line in options[re.sub(r"\W", "_", name)])
        assert found or not takes_files or name in groups, name
    for name in groups:  # `describe photos --...` beside `describe check --...`
        assert f"*) _arguments -C -s $_shtab_gpt4image_{name}_options ;;" in script
        assert f"_describe 'gpt4image {name} commands' _commands; _files" in script
