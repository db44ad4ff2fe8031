"""Loading a model: what is rejected, on which device, in which precision."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
)

from gpt4image.core.errors import ConfigError, DescribeError
from gpt4image.llm.base import Reply
from gpt4image.llm.local.client import LocalDescriber
from support.local_requests import answers, ask


def failure_of(model: Path | str, **options) -> str:
    with pytest.raises(DescribeError) as caught:
        asyncio.run(LocalDescriber(str(model), **options).check())
    return str(caught.value)


def test_missing_model_is_reported_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    missing = failure_of(tmp_path / "missing")
    assert "there is no such folder" in missing
    hub = failure_of("nobody/no-such-model")
    assert all(word in hub for word in ("nobody/no-such-model", "network", "folder", "HF_TOKEN"))
    assert "verysecret" not in hub + missing


def test_folder_without_a_vision_language_model_is_rejected(tiny_vlm, tmp_path):
    (tmp_path / "empty").mkdir()
    text_only = tmp_path / "text"
    shutil.copytree(tiny_vlm, text_only)
    config = json.loads((tiny_vlm / "config.json").read_text())
    (text_only / "config.json").write_text(json.dumps({**config["text_config"], "model_type": "llama"}))
    for folder in (tmp_path / "empty", text_only):
        message = failure_of(folder)
        assert str(folder) in message
        assert "save_pretrained" in message
        assert len(message) < 800


def test_model_without_processor_or_chat_template_is_rejected(tiny_vlm, tmp_path):
    for name, pattern, words in (("bare", "*processor_config.json", "processor"), ("mute", "chat_template.*", "-it")):
        shutil.copytree(tiny_vlm, tmp_path / name)
        for file in (tmp_path / name).glob(pattern):
            file.unlink()
        assert words in failure_of(tmp_path / name)


def test_pickled_weights_and_remote_code_never_run(tiny_vlm, tmp_path):
    pickled, foreign = tmp_path / "pickled", tmp_path / "foreign"
    for folder in (pickled, foreign):
        shutil.copytree(tiny_vlm, folder)
    model = AutoModelForImageTextToText.from_pretrained(tiny_vlm)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert "safetensors" in failure_of(pickled)
    config = json.loads((foreign / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}}
    (foreign / "config.json").write_text(json.dumps(config))
    (foreign / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "not run here" in failure_of(foreign)
    assert not (tmp_path / "ran").exists()


def test_missing_device_and_invalid_batch_size_are_rejected(tiny_vlm):
    assert "cannot be loaded" in failure_of(tiny_vlm, device="no-such-device")
    with pytest.raises(ConfigError, match="batch_size"):
        LocalDescriber(str(tiny_vlm), batch_size=0)


@pytest.mark.slow
def test_hub_model_reports_its_commit(tiny_vlm, tmp_path):
    """From the hub's cache as a download leaves it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_vlm, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    code = (
        "from support import local_requests as t; d = t.LocalDescriber('someone/tiny', device='cpu'); "
        "print(d.model, t.answers(d, t.ask(0))[0].model)"
    )
    paths = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": paths}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert printed.stdout.split() == ["someone/tiny", f"someone/tiny@{commit}"]


def test_bf16_weights_get_bf16_pictures(tiny_vlm, local, batches):
    replies = answers(local(tiny_vlm, precision="bf16"), ask(0), ask(1, temperature=1.0))
    assert all(isinstance(reply, Reply) for reply in replies)
    assert {inputs["pixel_values"].dtype for inputs in batches} == {torch.bfloat16}
