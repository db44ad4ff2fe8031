"""Every command that README and guide show runs as written, on small images and models and a local server."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from gpt4image.cli.main import main
from support import ROOT
from support.clips import draw_clip, write_clip_set, write_video
from support.scenes import draw_scenes, write_coco
from support.stub_server import MODEL, StubServer

HAS_VIDEO = find_spec("av") is not None
SMALL = "--backbone test_resnet --no-pretrained --image-size 32 --epochs 1 --batch-size 8 --warmup-epochs 0"
DETECTOR = "--no-pretrained --image-size 64 --epochs 1 --batch-size 4 --warmup-epochs 0 --seeds 1"


def commands(document: str) -> list[str]:
    """Return the commands of a document, one per line, without comments."""
    text = (ROOT / document).read_text()
    fenced = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL))
    lines = [*text.splitlines(), *(f"    {line}" for line in fenced.splitlines())]
    found = [
        line.strip() for line in lines if re.match(r"( {4}gpt4image|\./run gpt4image|\s*accelerate launch)\b", line)
    ]
    return [re.sub(r"\s+#.*", "", line).removeprefix("./run ") for line in found]


@pytest.fixture
def folder(image_set: Path, tmp_path: Path) -> Path:
    """A folder with everything that the commands name."""
    shutil.copytree(image_set, tmp_path / "photos")
    shutil.copytree(image_set / "red", tmp_path / "new-photos")
    shutil.copy(write_coco(tmp_path / "scenes", draw_scenes()) / "descriptions.jsonl", tmp_path)
    if HAS_VIDEO:
        write_clip_set(tmp_path / "clips", each=3)
        write_video(tmp_path / "new-clips" / "1.avi", draw_clip("left", 9))
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "weights.safetensors")
    (tmp_path / "classes.txt").write_text("red\nblue\ngreen\n")
    (config,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/guide.md").read_text(), flags=re.DOTALL)
    assert "convnext_tiny" in config
    (tmp_path / "mine.toml").write_text(
        config.replace("convnext_tiny", "test_resnet").replace("epochs = 40", "epochs = 1")
    )
    return tmp_path


@pytest.fixture(scope="module")
def server():
    with StubServer() as server:
        yield server.base_url


def small(command: str, server: str) -> list[str]:
    """Adapt a command to the small stand-ins: image set, server, model, number of epochs."""
    command = (
        command.replace("http://localhost:8000/v1", server)
        .replace("WORK", "gpt4image-work")
        .replace("DATA", "photos")
        .replace("PHOTOS", "photos")
        .replace("OTHER", "photos")
    )
    command = re.sub(r"timm:vit\S+", "timm:test_resnet", command).replace(" imagenet ", " photos ")
    command = (
        re.sub(r"(?<!reference-)resnet50", "test_resnet", command)
        .replace("gpt-4.1-nano", MODEL)
        .replace("gpt-4o-mini", MODEL)
    )
    words = shlex.split(command.replace(" ...", ""))[1:]
    match words:
        case [_, "scenes", *_]:
            words = [word.replace("mobilenetv3_large_100", "test_resnet") for word in words]
            extra = DETECTOR if words[0] == "compare" else ""
        case ["compare", "clips", *_]:
            extra = f"{SMALL} --seeds 1"
        case ["describe", "check", *_] if "--backbone" not in words:
            extra = ""
        case ["describe", "check", *_]:
            extra = "--checkpoint weights.safetensors --image-size 32"
        case ["describe", "photos" | "classes", *_] if "--base-url" not in words:
            extra = f"--base-url {server}"
        case ["embed", "images", *_]:
            extra = "--teacher-checkpoint weights.safetensors --teacher-size 32"
        case ["compare", *_] if "--config" in words:  # other settings than the training before
            extra = SMALL.replace("--backbone test_resnet ", "--work compared --text gpt4image-work ") + " --seeds 2"
        case ["describe", "clips", *_]:
            extra = "--splits train validation test"
        case ["train", *_]:
            extra = SMALL
        case ["compare", *_]:  # two seeds have an interval
            extra = f"{SMALL} --seeds 2"
        case _:
            extra = ""
    return [*words, *extra.split()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", ["README.md", "docs/start.md", "docs/guide.md", "docs/clips.md", "docs/imagenet.md"]
)
def test_commands_run_in_the_order_of_the_document(document, folder, server, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    found = [command for command in commands(document) if command.startswith("gpt4image")]
    assert len(found) >= 6
    if "clips" in document and not HAS_VIDEO:
        pytest.skip("PyAV is not installed")
    for command in found:
        status = main(small(command, server))
        assert status == 0, f"{command}\n{capsys.readouterr().err}"


def test_accelerate_runs_the_package_as_a_module():
    (command,) = [command for command in commands("docs/guide.md") if command.startswith("accelerate")]
    assert command.split()[4:6] == ["-m", "gpt4image"]
    assert "gpt4image.__main__" in sys.modules or (ROOT / "src/gpt4image/__main__.py").exists()


def test_architecture_names_files_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 30
    missing = {name for name in named if not (ROOT / "src/gpt4image" / name).exists()}
    assert missing == set()
