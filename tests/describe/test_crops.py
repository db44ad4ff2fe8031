"""Annotated boxes are described one by one, once, and their texts are found again by training."""

from __future__ import annotations

from gpt4image import load_images
from gpt4image.__main__ import main
from gpt4image.core.options import TextOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.images.crops import crop_images
from gpt4image.workflows.inputs import find_descriptions
from support.scenes import draw_scenes, write_coco
from support.stub_server import MODEL, StubServer


def test_each_training_box_is_described_once(tmp_path):
    folder, work = write_coco(tmp_path / "set", draw_scenes()), tmp_path / "work"
    with StubServer() as server:
        words = ["describe", str(folder), "--task", "detection", "--crops", "0.1", "--prompts", "class-conditioned"]
        words += ["--base-url", server.base_url, "--model", MODEL, "--work", str(work), "--yes"]
        assert main(words) == 0
        asked = sum(entry.paid for entry in server.log)
        assert main(words) == 0
        assert sum(entry.paid for entry in server.log) == asked
    images = load_images(folder, task="detection", work=work)
    crops = crop_images(images, 0.1)
    train = crops.split("train")
    assert asked == len(train)
    described = {record.image_id for record in DescriptionStore(work / "descriptions").current()}
    assert described == {crops.ids[row].decode() for row in train}
    found = find_descriptions(crops, TextOptions(), WorkDir(work))
    assert found.coverage.with_text["train"] == len(train)
    whole = find_descriptions(images, TextOptions(), WorkDir(work))
    assert not sum(whole.coverage.with_text.values())
