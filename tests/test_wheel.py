"""The wheel works by itself: away from the checkout, in an environment that has nothing of it but the wheel."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from support import ROOT

pytestmark = pytest.mark.slow

COMMANDS = """
import json, sys
import gpt4image
from gpt4image.cli.main import main
from gpt4image.workflows.demo import example_images

print(gpt4image.__file__, example_images(), sep="\\n")
sys.exit(any(main(words) for words in json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `gpt4image` command of a fresh environment; the libraries are those of this one."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    installer = [shutil.which("uv") or ""] if shutil.which("uv") else [sys.executable, "-m", "uv"]
    (wheel,) = built.glob("*.whl")
    subprocess.run([*installer, "pip", "install", "-q", "--no-deps", "--python", str(python), str(wheel)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # as a path only: editable installs stay out
    return folder / "bin" / "gpt4image"


def run(command: Path, *arguments: object, cwd: Path) -> str:
    result = subprocess.run(
        [str(command), *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_command_is_the_wheels_own(installed, tmp_path):
    assert run(installed, "--version", cwd=tmp_path).startswith("gpt4image ")


def test_from_a_folder_of_images_to_predictions(installed, image_set, descriptions_file, tmp_path):
    """In one process, which need not import everything several times."""
    settings = shlex.split("--backbone test_resnet --no-pretrained --image-size 32 --epochs 1 --batch-size 8")
    run_folder = tmp_path / "gpt4image-work" / "runs" / "described-0"
    commands = [
        ["train", str(image_set), "--text", str(descriptions_file), *settings],
        ["export", str(image_set), "--run", str(run_folder), "--out", "model", "--no-onnx"],
        ["predict", "model", str(image_set / "blue")],
    ]
    printed = run(installed.with_name("python"), "-c", COMMANDS, json.dumps(commands), cwd=tmp_path).splitlines()
    package, folder = map(Path, printed[:2])
    assert package.is_relative_to(installed.parents[1]) and folder.is_relative_to(installed.parents[1])
    assert {path.name for path in folder.iterdir()} >= {path.name for path in (ROOT / "examples/clipart12").iterdir()}
    assert sum(line.startswith(str(image_set / "blue")) for line in printed) >= 12


def test_distributions_hold_what_belongs_to_them(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    packed = set(zipfile.ZipFile(wheel).namelist())
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()}
    assert {name for name in sources if "__pycache__" not in name} <= packed
    assert not any(name.startswith(("tests/", "studies/")) for name in packed)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/gpt4image/__init__.py"} <= inside
    assert not any(name.startswith((".venv", "gpt4image-")) for name in inside)
