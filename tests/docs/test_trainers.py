"""Every Python block of the page on other trainers runs, with the real libraries."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from support import ROOT
from support.drawings import write_image_set

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/trainers.md").read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is defined once all blocks have run, in a folder with images and captions."""
    folder = tmp_path_factory.mktemp("trainers")
    images = write_image_set(folder / "photos")
    captions = images.with_name("photos-descriptions.jsonl")
    assert json.loads(captions.read_text().splitlines()[0])["text"]
    captions.rename(folder / "captions.jsonl")
    scope: dict[str, Any] = {"folder": folder}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in BLOCKS:
            exec(block, scope)
    return scope


@pytest.mark.slow
def test_blocks_run_and_leave_plain_models(page):
    assert len(BLOCKS) == 8
    state = torch.load(page["folder"] / "model.pt", weights_only=True)
    assert set(state) == set(page["models"].resnet18().state_dict())
    assert page["trainer"].state.global_step > 0 and page["labelled"].state.global_step > 0
    assert not any(part._forward_pre_hooks for part in page["learner"].model.modules())


def test_each_trainer_takes_less_than_twenty_lines():
    for block in BLOCKS:
        assert sum(bool(line.strip()) for line in block.splitlines()) < 20
