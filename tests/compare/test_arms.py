"""Comparisons: every arm with every seed, resumed, recorded and reported."""

import csv
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from gpt4image import compare_arms, open_run, write_report
from gpt4image.compare.predictions import predict_test_images
from gpt4image.compare.records import Comparison, Gallery
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.train.run import load_backbone, train_run
from gpt4image.train.spec import ARMS, Arm


@pytest.mark.slow
def test_records_follow_from_the_predictions(work, images):
    folder, _ = work
    comparison = Comparison.load(folder / "comparison.json")
    right = {}
    for arm in comparison.arms:
        for run in arm.runs:
            predictions = predict_test_images(open_run(folder / "runs" / f"{arm.name}-{run.seed}"), images)
            right[arm.name, run.seed] = predictions.logits.argmax(axis=1) == predictions.labels
            assert run.test_accuracy == pytest.approx(right[arm.name, run.seed].mean())
        assert np.sum(arm.confusion) == 2 * len(images.split("test"))
    expected = [right["described", s].mean() - right["baseline", s].mean() for s in (0, 1)]
    assert comparison.difference.per_seed == pytest.approx(expected)
    assert comparison.difference.mean == pytest.approx(np.mean(expected))
    assert comparison.difference.low <= comparison.difference.mean <= comparison.difference.high
    weighted = sum(c.difference * c.test_images for c in comparison.per_class) / len(images.split("test"))
    assert weighted == pytest.approx(comparison.difference.mean)
    assert (
        comparison.data.images == {"train": 24, "validation": 3, "test": 9}
        or sum(comparison.data.images.values()) == 36
    )


def test_answers_of_every_run_are_written_as_csv(work, images):
    with (work[0] / "test_answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(images.split("test"))
    for arm, seed in (("baseline", 1), ("described", 0)):
        found = predict_test_images(open_run(work[0] / "runs" / f"{arm}-{seed}"), images)
        assert [row[f"answer {arm} {seed}"] for row in rows] == [images.classes[each] for each in found.classes]
        assert [float(row[f"confidence {arm} {seed}"]) for row in rows] == pytest.approx(found.confidence, abs=1e-4)
    assert [row["image"] for row in rows] == [images.path(row) for row in found.rows]
    assert [row["label"] for row in rows] == [images.classes[label] for label in found.labels]


def test_gallery_groups_follow_from_the_predictions(work):
    gallery = Gallery.load(work[0] / "gallery.json")
    assert gallery.items
    for item in gallery.items:
        before, after = (item.answers[arm].right for arm in ("baseline", "described"))
        expected = {(False, True): "mended", (True, False): "broken", (True, True): "both right"}
        assert item.group == expected.get((before, after), "both wrong")
        assert item.label in item.description


def test_finished_runs_are_not_trained_again(work, images, descriptions, store):
    folder, recipe = work
    weights = sorted(folder.glob("runs/*/best.safetensors"))
    assert len(weights) == 4
    before = [path.stat().st_mtime_ns for path in weights]
    again = compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1))
    assert [path.stat().st_mtime_ns for path in weights] == before
    first = Comparison.load(folder / "comparison.json")
    assert again.difference == first.difference


@pytest.mark.slow
def test_report_of_a_running_comparison_covers_its_finished_seeds(
    work, images, descriptions, store, tmp_path, monkeypatch
):
    folder, recipe = work
    running = shutil.copytree(folder, tmp_path / "running")
    for name in ("comparison.json", "gallery.json", "runs/baseline-1/result.json", "runs/described-1/result.json"):
        (running / name).unlink()
    shutil.rmtree(running / "experiments")
    for path in running.glob("runs/*/test.safetensors"):
        path.unlink()
    with pytest.raises(StoreError, match="no seed has finished in every arm yet"):
        write_report(running)

    def train_or_stop(spec, *arguments):
        if spec.seed == 1:
            raise KeyboardInterrupt
        return train_run(spec, *arguments)

    monkeypatch.setattr("gpt4image.compare.training.train_run", train_or_stop)
    with pytest.raises(KeyboardInterrupt):
        compare_arms(images, descriptions, store, recipe, running, seeds=(0, 1))
    found = Comparison.load(running / "comparison.json")
    assert (found.planned_seeds, found.difference.seeds, found.split) == (2, [0], "validation")
    assert found.arms[0].runs[0].test_accuracy == pytest.approx(found.arms[0].runs[0].validation_accuracy)
    page = write_report(running).read_text()
    assert "So far, with 1 of 2 seeds on the validation images" in page
    assert "Runs are still going" in page
    assert not list(running.glob("**/test*"))
    monkeypatch.undo()
    found = compare_arms(images, descriptions, store, recipe, running, seeds=(0, 1))
    assert (found.planned_seeds, found.difference.seeds, found.split) == (2, [0, 1], "test")


def test_size_of_the_model_is_recorded(work):
    """Multiply-adds as counted by hand: outputs of each layer times the weights that each takes."""
    run = open_run(work[0] / "runs" / "described-0")
    model, counted = load_backbone(run), []

    def count(layer, _, output):
        counted.append(output.numel() * layer.weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model(torch.zeros(1, 3, 32, 32))
    found = Comparison.load(work[0] / "comparison.json").model
    assert found.multiply_adds == sum(counted)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.images_per_second > 0


def test_python_calls_record_no_command_line(work):
    assert Comparison.load(work[0] / "comparison.json").command is None


def test_report_is_written(work):
    page = write_report(work[0]).read_text()
    assert "with descriptions" in page
    assert "A red disc" in page


def test_invalid_seeds_and_foreign_embeddings_are_refused(work, images, descriptions, store, minilm, tmp_path):
    from gpt4image import embed_descriptions
    from gpt4image.descriptions.description_set import join_texts

    folder, recipe = work
    for seeds in ((), (1, 1), (-1,)):
        with pytest.raises(ConfigError, match="distinct numbers"):
            compare_arms(images, descriptions, store, recipe, folder, seeds=seeds)
    other = join_texts(images, [(images.ids[0].decode(), "other")], 0, "other")
    with pytest.raises(StoreError, match="other descriptions"):
        compare_arms(images, descriptions, embed_descriptions(other, minilm, tmp_path / "o"), recipe, folder)


@pytest.mark.parametrize("idle", [{"weight": 0.0}, {"align_until": 0.0}])
def test_arms_that_would_be_the_same_are_refused(images, descriptions, store, small_recipe, tmp_path, idle):
    with pytest.raises(ConfigError, match="baseline and described would be the same"):
        compare_arms(images, descriptions, store, small_recipe(**idle), tmp_path)


@pytest.mark.slow
def test_added_arm_is_trained_and_reported(work, images, descriptions, store, tmp_path, monkeypatch):
    folder, recipe = shutil.copytree(work[0], tmp_path / "work"), work[1]
    monkeypatch.setitem(ARMS._entries, "smoothed", Arm("smoothed", "smoother labels", False, {"label_smoothing": 0.3}))
    comparison = compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1))
    assert [arm.name for arm in comparison.arms] == ["baseline", "described", "smoothed"]
    assert open_run(folder / "runs" / "smoothed-0").recipe.label_smoothing == 0.3
    assert (comparison.difference.arm, comparison.difference.reference) == ("described", "baseline")
    assert "smoother labels" in write_report(folder).read_text()


def test_models_that_had_a_part_are_recorded_with_licence_and_source(work):
    comparison = Comparison.load(work[0] / "comparison.json")
    found = {used.name: used for used in comparison.models}
    assert found["minilm"].licence == "apache-2.0" and found["minilm"].source.startswith("https://huggingface.co/")
    assert torch.__version__.startswith(comparison.versions["torch"]) and "python" in comparison.versions
