"""What is killed ends like what is not interrupted, and repeats nothing that was finished."""

import json
import random
from pathlib import Path

import pytest
import torch

from gpt4image import Recipe, load_images, train_model
from gpt4image.compare.records import Comparison
from gpt4image.train.checkpoint import checkpoint_progress
from support.forks import finish_command, start_command, start_forked
from support.scenes import draw_scenes, write_masks
from support.training import same_weights

KILLS = 10
SECONDS = (0.5, 9.0)
RUNS = 4
RECIPE = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "64", "--epochs", "3", "--batch-size", "8"]
FINISHED = ("embeddings/*/manifest.json", "runs/*/result.json", "runs/*/test.safetensors")


def command(image_set: Path, descriptions_file: Path, work: Path) -> list[str]:
    arguments = ["--text", str(descriptions_file), "--work", str(work), "--seeds", "2", "--embed-batch", "4"]
    frozen = ["--freeze", "conv1", "bn1", "maxpool", "layer1", "--cached-views", "2", "--mixup", "0.2"]
    return ["compare", str(image_set), *arguments, *RECIPE, *frozen]


def finished_files(work: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for pattern in FINISHED for path in work.glob(pattern)}


def few_labels(image_set: Path, descriptions_file: Path, work: Path, at_once: int = 1) -> list[str]:
    """Two runs, of which one learns from labels that the texts give."""
    words = ["compare", str(image_set), "--text", str(descriptions_file), "--work", str(work), "--seeds", "1"]
    arms = ["--arms", "described+text-labels", "--labels-per-class", "3", "--runs-at-once", f"{at_once}"]
    return [*words, *arms, *RECIPE]


@pytest.mark.slow
def test_killed_text_labels_and_runs_at_once_end_like_uninterrupted_ones(image_set, descriptions_file, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    made = ("labels/*/manifest.json", "runs/*/result.json")
    for at_once, pattern in enumerate(made, 1):  # killed as soon as there is one
        process = start_command(few_labels(image_set, descriptions_file, killed, at_once), threads=1)
        while process.exitcode is None and not list(killed.glob(pattern)):
            process.join(0.05)
        process.kill()
        process.join()
    before = finished_files(killed)
    for work in (killed, whole):  # with as many threads, a run has the same weights alone and beside others
        finish_command(few_labels(image_set, descriptions_file, work), threads=1)
    assert before.items() <= finished_files(killed).items()
    first, second = (Comparison.load(work / "comparison.json") for work in (killed, whole))
    assert first.difference == second.difference
    assert first.per_class == second.per_class
    weights = list(whole.glob("runs/*/best.safetensors"))
    assert len(weights) == 2
    for path in weights:
        assert same_weights(path, killed / path.relative_to(whole)), path
    labels = [next(work.glob("labels/text-*/logits.npy")).read_bytes() for work in (killed, whole)]
    assert labels[0] == labels[1]


def train_on_masks(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    recipe = Recipe(backbone="lraspp:test_resnet", pretrained=False, image_size=64, epochs=3, batch_size=4)
    train_model(load_images(folder, task="segmentation"), None, recipe, out, arm="baseline", checkpoint_seconds=0)


@pytest.mark.slow
def test_killed_training_on_masks_ends_like_an_uninterrupted_one(tmp_path):
    folder, killed, whole = write_masks(tmp_path / "set", draw_scenes(16)), tmp_path / "killed", tmp_path / "whole"
    process = start_forked(train_on_masks, folder, killed)
    while process.exitcode is None and checkpoint_progress(killed / "checkpoint.pt") < (1, 1):
        process.join(0.01)
    process.kill()
    process.join()
    assert process.exitcode != 0 and not (killed / "result.json").exists()
    for out in (killed, whole):
        process = start_forked(train_on_masks, folder, out)
        process.join()
        assert process.exitcode == 0
    assert same_weights(killed / "best.safetensors", whole / "best.safetensors")


@pytest.mark.slow
def test_killed_comparison_ends_like_an_uninterrupted_one(image_set, descriptions_file, tmp_path):
    generator = random.Random(7)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    finished: dict[Path, int] = {}
    for _ in range(KILLS):
        process = start_command(command(image_set, descriptions_file, killed))
        process.join(generator.uniform(*SECONDS))
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        process.kill()
        process.join()
        now = finished_files(killed)
        names = [path.name for path in now]
        assert names.count("result.json") == RUNS or "test.safetensors" not in names
        assert finished.items() <= now.items()
        finished = now
    for work in (killed, whole):
        finish_command(command(image_set, descriptions_file, work))

    assert finished.items() <= finished_files(killed).items()
    first, second = (Comparison.load(work / "comparison.json") for work in (killed, whole))
    assert first.difference == second.difference
    assert first.per_class == second.per_class
    for path in whole.glob("runs/*/best.safetensors"):
        assert same_weights(path, killed / path.relative_to(whole)), path
    vectors = (next(work.glob("embeddings/*/vectors.npy")).read_bytes() for work in (killed, whole))
    assert len(set(vectors)) == 1
    assert json.loads((killed / "comparison.json").read_text())["difference"]["seeds"] == [0, 1]
