"""What `export --push` and `describe export --push` upload is what timm, transformers and datasets load."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from gpt4image.cli.main import main
from gpt4image.core.hub_push import TOKEN_VARIABLES
from support.hub_server import TOKEN, HubServer
from support.stored import ask, fill

LOAD = """
import sys
import timm, torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

photo, folder = sys.argv[1:]
local = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
pushed = timm.create_model("hf-hub:tester/flowers", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(pushed), is_training=False)
image = transform(Image.open(photo).convert("RGB")).unsqueeze(0)
wrapped = AutoModelForImageClassification.from_pretrained("tester/flowers").eval()
with torch.no_grad():
    assert torch.equal(pushed(image), local(image))
    assert torch.allclose(wrapped(image).logits, local(image), atol=1e-5)
    probabilities = local(image).softmax(dim=1)[0]
best = pipeline("image-classification", model="tester/flowers")(photo)[0]
assert best["label"] == ["blue", "green", "red"][probabilities.argmax()], best
assert abs(best["score"] - float(probabilities.max())) < 1e-4, best
"""


def run_python(hub: HubServer, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
    settings |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=False, env={**os.environ, **settings}, capture_output=True, text=True)


@pytest.mark.slow
def test_pushed_model_loads_in_timm_and_transformers(run, image_set, tmp_path):
    with HubServer() as hub:
        asked = ["--run", str(run.layout.folder), "--out", str(tmp_path / "model"), "--work", str(tmp_path / "work")]
        options = ["--no-onnx", "--push", "tester/flowers", "--private"]
        done = run_python(hub, tmp_path / "home", "-m", "gpt4image", "export", str(image_set), *asked, *options)
        assert done.returncode == 0, done.stderr
        assert f"pushed: {hub.url}/tester/flowers" in done.stdout
        assert TOKEN not in done.stdout + done.stderr
        repo = hub.repos["models/tester/flowers"]
        assert repo.private and set(repo.files) == {"model.safetensors", "config.json", "README.md"}
        assert b'"hf-hub:tester/flowers"' in repo.files["README.md"]
        photo = str(sorted((image_set / "red").iterdir())[0])
        loaded = run_python(hub, tmp_path / "home", "-c", LOAD, photo, str(tmp_path / "model"))
        assert loaded.returncode == 0, loaded.stderr


@pytest.mark.slow
def test_pushed_descriptions_load_in_datasets(images, image_set, tmp_path):
    fill(tmp_path / "work", images, ask("maker/vlm"))
    with HubServer() as hub:
        asked = ["--out", str(tmp_path / "set"), "--work", str(tmp_path / "work"), "--push", "tester/texts"]
        done = run_python(hub, tmp_path / "home", "-m", "gpt4image", "describe", "export", str(image_set), *asked)
        assert done.returncode == 0, done.stderr
        repo = hub.repos["datasets/tester/texts"]
    for path, data in repo.files.items():
        (tmp_path / "pulled" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pulled" / path).write_bytes(data)
    pulled = datasets.load_dataset(str(tmp_path / "pulled"), cache_dir=str(tmp_path / "cache"))
    assert sum(part.num_rows for part in pulled.values()) == 2 * len(images)
    assert b'datasets.load_dataset("tester/texts")' in repo.files["README.md"]


def test_command_without_a_token_stops_before_the_work(run, image_set, tmp_path, monkeypatch, capsys):
    for name in TOKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    asked = ["--run", str(run.layout.folder), "--out", str(tmp_path / "model"), "--work", str(tmp_path / "work")]
    assert main(["export", str(image_set), *asked, "--push", "tester/flowers"]) == 1
    assert "HF_TOKEN is not set" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
