"""Every Python block of the page on other trainers runs, with the real libraries."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from support import ROOT
from support.drawings import write_image_set

SECTIONS = {
    section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    for section in (ROOT / "docs/trainers.md").read_text().split("\n## ")[1:]
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each section defines by itself, in a folder with images and captions."""
    folder = tmp_path_factory.mktemp("trainers")
    images = write_image_set(folder / "photos")
    captions = images.with_name("photos-descriptions.jsonl")
    assert json.loads(captions.read_text().splitlines()[0])["text"]
    captions.rename(folder / "captions.jsonl")
    scopes: dict[str, dict[str, Any]] = {section: {"folder": folder} for section in SECTIONS}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for section, blocks in SECTIONS.items():
            for block in blocks:
                exec(block, scopes[section])
    return scopes


@pytest.mark.slow
def test_blocks_run_and_leave_plain_models(page):
    assert list(page) == ["Plain torch", "Lightning", "transformers", "fastai"]
    plain, transformers = page["Plain torch"], page["transformers"]
    state = torch.load(plain["folder"] / "model.pt", weights_only=True)
    assert set(state) == set(plain["models"].resnet18().state_dict())
    assert page["Lightning"]["trainer"].global_step > 0
    assert transformers["trainer"].state.global_step > 0 and transformers["labelled"].state.global_step > 0
    assert not any(part._forward_pre_hooks for part in page["fastai"]["learner"].model.modules())


def test_each_trainer_takes_less_than_twenty_lines():
    for block in (block for blocks in SECTIONS.values() for block in blocks):
        assert sum(bool(line.strip()) for line in block.splitlines()) < 20
