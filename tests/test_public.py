"""The public names, and the Python examples of the README."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpt4image
from support.forks import forked_python
from support.stub_server import StubServer

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", gpt4image.__all__)
def test_public_names_exist_and_are_documented(name):
    found = getattr(gpt4image, name)
    assert found.__doc__
    assert importlib.import_module(found.__module__)


def test_public_names_are_those_of_the_stub():
    stub = (ROOT / "src" / "gpt4image" / "__init__.pyi").read_text()
    names = re.findall(r"\b(\w+) as \1\b", stub)
    assert sorted(names) == list(gpt4image.__all__) == dir(gpt4image)
    assert len(set(names)) == len(names)
    with pytest.raises(AttributeError, match="No gpt4image attribute nothing"):
        _ = gpt4image.nothing


def test_import_of_public_names_loads_nothing_heavy():
    code = "import sys; from gpt4image import Gpt4ImageError; print({'torch', 'numpy', 'timm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_docstring_of_errors_lists_every_error():
    from gpt4image.core import errors

    named = set(re.findall(r"(\w+Error)\b", errors.__doc__))
    assert named == {name for name in vars(errors) if name.endswith("Error")}


@pytest.fixture
def model_server():
    with StubServer() as server:
        yield server.base_url


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(python_blocks())))
def test_python_example_of_the_readme_runs(number, image_set, descriptions_file, model_server, tmp_path):
    code = python_blocks()[number].replace("http://localhost:8000/v1", model_server)
    code = code.replace('"photos"', repr(str(image_set))).replace('"captions.jsonl"', repr(str(descriptions_file)))
    code = code.replace("resnet50", "test_resnet").replace("pretrained=True", "pretrained=False")
    code = code.replace("epochs=20", "epochs=1, batch_size=8, image_size=32")
    forked_python(["-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}"])


def test_alignment_touches_five_lines_of_your_own_loop():
    (loop,) = [block for block in python_blocks() if "TextAlignment(" in block]
    added = [line for line in loop.splitlines() if "align" in line.lower() or "targets" in line]
    assert len([line for line in added if not line.startswith(("from", "import"))]) <= 5
