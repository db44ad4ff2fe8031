"""Trackers get the figures of a run, continue with it, and cannot end it."""

import json
import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gpt4image import train_model
from gpt4image.core.errors import MissingExtraError
from gpt4image.train import loop, tracking
from gpt4image.train.run import open_run
from gpt4image.train.tracking import Tracking
from support.running import files_with

SECRET = "sk-never-to-be-tracked-1234567890"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("HF_TOKEN", SECRET)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def client_of(folder: Path):
    from mlflow import MlflowClient  # seconds, which no other test process needs

    return MlflowClient((folder / "mlflow").resolve().as_uri())


def runs(folder: Path) -> list:
    client = client_of(folder)
    (experiment,) = client.search_experiments(filter_string="name = 'gpt4image'")
    return client.search_runs([experiment.experiment_id])


def history(folder: Path, run, metric: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in client_of(folder).get_metric_history(run.info.run_id, metric)]


@pytest.mark.slow
def test_resumed_run_continues_its_records_in_tensorboard_and_mlflow(
    images, store, small_recipe, tmp_path, monkeypatch
):
    track = Tracking(("tensorboard", "mlflow"), tmp_path / "tracking")
    recipe, validate, calls = small_recipe(epochs=4), loop.validate, []

    def stop_in_the_third_epoch(trainer):
        calls.append(trainer)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return validate(trainer)

    monkeypatch.setattr(loop, "validate", stop_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        train_model(images, store, recipe, tmp_path / "run", tracking=track, checkpoint_seconds=0)
    run = train_model(images, store, recipe, tmp_path / "run", tracking=track, checkpoint_seconds=0)
    found = scalars(tmp_path / "tracking/tensorboard/described-0")
    for tag, key in (("validation/accuracy", "validation_accuracy"), ("loss/alignment", "alignment_loss")):
        steps = len(images.split("train")) // recipe.batch_size
        expected = [((epoch["epoch"] + 1) * steps, pytest.approx(epoch[key], abs=1e-6)) for epoch in run.history]
        assert found[tag] == expected
        (record,) = runs(tmp_path / "tracking")
        assert history(tmp_path / "tracking", record, tag) == expected
    assert set(found) >= {"loss/classification", "learning_rate", "alignment_weight", "images_per_second", "memory_gib"}
    assert all(value > 0 and math.isfinite(value) for _, value in found["images_per_second"] + found["memory_gib"])
    assert record.data.params["backbone"] == "test_resnet" and record.data.params["arm"] == "described"
    assert record.info.status == "FINISHED" and record.info.run_name == "described-0"
    assert len(list((tmp_path / "tracking/tensorboard/described-0").glob("*/hparams.yml"))) == 1
    assert files_with(SECRET, tmp_path) == []


@pytest.mark.slow
def test_wandb_writes_an_offline_run_without_secrets(images, store, small_recipe, tmp_path, capsys):
    train_model(images, store, small_recipe(), tmp_path / "run", tracking=Tracking(("wandb",), tmp_path / "tracking"))
    (written,) = (tmp_path / "tracking/wandb/wandb").glob("offline-run-*/run-*.wandb")
    content = written.read_bytes()
    assert b"validation/accuracy" in content and b"test_resnet" in content
    assert files_with(SECRET, tmp_path) == []
    assert "failed" not in capsys.readouterr().err


def test_tracker_that_fails_ends_no_training(images, store, small_recipe, tmp_path, monkeypatch, capsys):
    from accelerate.tracking import TensorBoardTracker

    def fail(*_arguments, **_options):
        raise ConnectionError("The disk has gone.\nMore.")

    monkeypatch.setattr(TensorBoardTracker, "log", fail)
    track = Tracking(("tensorboard",), tmp_path / "tracking")
    train_model(images, store, small_recipe(), tmp_path / "run", tracking=track, arm="baseline")
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("Tracker tensorboard failed (ConnectionError: The disk has gone.); continuing without it.") == 1
    assert len(open_run(tmp_path / "run").history) == 2


def test_tracker_that_cannot_start_ends_no_training(images, small_recipe, tmp_path, capsys):
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking/tensorboard").write_text("not a folder")
    track = Tracking(("tensorboard",), tmp_path / "tracking")
    train_model(images, None, small_recipe(epochs=1), tmp_path / "run", tracking=track, arm="baseline")
    assert "Tracker tensorboard failed (FileExistsError" in " ".join(capsys.readouterr().err.split())
    assert open_run(tmp_path / "run")


@pytest.mark.slow
def test_trackio_keeps_the_run_in_its_local_database(image_set, tmp_path):
    small = "--backbone test_resnet --no-pretrained --image-size 32 --epochs 2 --batch-size 8 --workers 0"
    options = ["--arm", "baseline", "--track", "trackio", "--json", *small.split(), "--work", str(tmp_path / "work")]
    found = subprocess.run(
        [sys.executable, "-m", "gpt4image", "train", str(image_set), *options],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(found.stdout)  # nothing that trackio prints gets in between
    assert "failed" not in found.stderr
    with closing(sqlite3.connect(tmp_path / "trackio" / "gpt4image.db")) as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics ORDER BY step").fetchall()
    records = [json.loads(metrics) for _, metrics in rows]
    accuracies = [each["validation/accuracy"] for each in records if "validation/accuracy" in each]
    assert {name for name, _ in rows} == {"baseline-0"}
    assert len(accuracies) == 2 and max(accuracies) == pytest.approx(result["validation_accuracy"])
    assert files_with(SECRET, tmp_path) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_missing_tracker_names_the_command_that_installs_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gpt4image\[track\]'"):
        Tracking((name,), tmp_path)
