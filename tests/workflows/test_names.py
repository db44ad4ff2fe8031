"""Names of files and models are checked before the images are read, which may take hours."""

from __future__ import annotations

import sys
import time

import pytest

from gpt4image.cli.main import main
from gpt4image.core import hub
from gpt4image.core.errors import DataError
from gpt4image.core.invocation import install_command


@pytest.fixture
def unread(monkeypatch):
    """Images that cannot be read."""

    def read(*_, **__):
        raise DataError("the images were read")

    monkeypatch.setattr("gpt4image.images.open.load_images", read)


TRAIN = ["train", "--epochs", "1"]
COMPARE = ["compare", "--epochs", "1", "--seeds", "1"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([*TRAIN, "--text", "no/captions.csv"], "Descriptions no/captions.csv: the file does not exist"),
        ([*TRAIN, "--text", "captoins.jsonl"], "the file does not exist. Did you mean captions.jsonl?"),
        ([*COMPARE, "--text", "captoins.jsonl"], "the file does not exist. Did you mean captions.jsonl?"),
        (["embed", "--encoder", "minilmm"], "Did you mean 'minilm'?"),
        (["embed", "--encoder", "./no-model"], "the folder ./no-model does not exist"),
        (["label", "--encoder", "sentence-transfomers:a"], "Did you mean 'sentence-transformers'?"),
        (["label", "--classes", "no.txt"], "no.txt does not exist"),
        ([*TRAIN, "--teachers", "timm:resnet5O"], "Unknown timm model 'resnet5O'"),
        ([*COMPARE, "--teachers", "tim:resnet50"], "Did you mean 'timm'?"),
        ([*TRAIN, "--teachers", "open-clip:RN5/openai"], "Did you mean 'RN50'?"),
        ([*TRAIN, "--teachers", "open-clip:RN50/opnai"], "Did you mean 'openai'?"),
        ([*TRAIN, "--backbone", "resnet5O"], "Unknown timm model 'resnet5O'"),
        ([*COMPARE, "--checkpoint", "no.safetensors"], "no.safetensors does not exist"),
        ([*TRAIN, "--corrections", "no.csv"], "no.csv does not exist"),
        (["embed", "--encoder", "open-clip:ViT-B-33/openai"], "Did you mean 'ViT-B-32'?"),
    ],
)
def test_wrong_name_is_told_before_the_images_are_read(
    image_set, tmp_path, monkeypatch, capsys, unread, command, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.jsonl").touch()
    first, *rest = command
    assert main([first, str(image_set), *rest, "--work", str(tmp_path / "work")]) == 1
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "--encoder", "sentence-transformers:no-such-model"],
        ["embed", "--encoder", "nobody/no-such-model"],
        ["embed", "--encoder", "open-clip:hf-hub:a/b"],
        ["train", "--backbone", "hf-hub:nobody/none", "--arm", "baseline"],
        ["train", "--text", "none", "--teachers", "timm:hf-hub:nobody/none"],
    ],
)
def test_model_that_no_hub_holds_is_told_before_the_images_are_read(
    image_set, tmp_path, monkeypatch, capsys, unread, words
):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    hub.find_fault.cache_clear()
    start = time.monotonic()
    assert main([words[0], str(image_set), *words[1:], "--work", str(tmp_path)]) == 1
    assert time.monotonic() - start < 60
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot be loaded: the Hugging Face hub does not answer" in said and "Retry" not in said
    hub.find_fault.cache_clear()


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("--lora 4", f"--lora needs peft, which is not installed. Install it: {install_command('gpt4image[lora]')}"),
        ("--optimizer bnbadamw8bit", "pip install 'gpt4image[large]'"),
        ("--self-supervised dino --labels-from 0.5", "pip install 'gpt4image[ssl]'"),
    ],
)
def test_library_of_a_setting_is_asked_for_before_the_images_are_read(
    image_set, tmp_path, monkeypatch, capsys, unread, words, needed
):
    monkeypatch.setattr("gpt4image.train.libraries.find_spec", lambda _: None)
    assert main(["train", str(image_set), *words.split(), "--work", str(tmp_path)]) == 1
    assert needed in " ".join(capsys.readouterr().err.split())


def test_optuna_is_asked_for_before_the_images_are_read(image_set, tmp_path, monkeypatch, capsys, unread):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["compare", str(image_set), "--text", "none", "--tune", "3", "--work", str(tmp_path)]) == 1
    assert "pip install 'gpt4image[tune]'" in " ".join(capsys.readouterr().err.split())


def test_baseline_needs_no_encoder(image_set, tmp_path, capsys, unread):
    words = ["--arm", "baseline", "--encoder", "nothing", "--text", "no.csv", "--work", str(tmp_path)]
    assert main(["train", str(image_set), *words]) == 1
    assert "the images were read" in capsys.readouterr().err
