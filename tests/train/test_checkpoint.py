"""Interrupted and killed runs end with the same weights as uninterrupted ones."""

import json
import os
import signal
import time

import pytest
from safetensors.torch import load_file

from gpt4image import train_model
from support.forks import ForkedPython, forked_python
from support.training import StoppedError, observe, same_weights, without_seconds

EVERYTHING = {
    "text_space": "whitened",
    "learn_temperature": True,
    "queue": 20,
    "targets": "similarity",
    "loss": "sigmoid",
    "align_at": ("features", "layer3"),
    "balance": 0.5,
    "repeats": 2,
    "soft_labels": 0.5,
    "soft_from": 0.3,
    "weight_schedule": "cosine",
    "mixup": 0.3,
    "accumulate": 2,
    "batch_size": 8,
    "ema_decay": 0.9,
}


@pytest.mark.slow
def test_run_with_all_features_resumes_exactly(
    images, several_store, letters, soft, small_recipe, tmp_path, monkeypatch
):
    recipe = small_recipe(**EVERYTHING)
    stores = [several_store, letters]
    whole = train_model(images, stores, recipe, tmp_path / "whole", soft_labels=[soft])
    with monkeypatch.context() as patch:
        observe(patch, lambda *_: None, stop_after=5)
        with pytest.raises(StoppedError):
            train_model(images, stores, recipe, tmp_path / "parts", soft_labels=[soft], checkpoint_seconds=0.0)
    assert (tmp_path / "parts" / "checkpoint.pt").exists()
    parts = train_model(images, stores, recipe, tmp_path / "parts", soft_labels=[soft])
    assert same_weights(whole.layout.weights, parts.layout.weights)
    assert without_seconds(whole.history) == without_seconds(parts.history)
    assert not [
        key
        for key in load_file(whole.layout.weights)
        if ("head" in key and "classifier" in key) or "projector" in key or "queue" in key
    ]


TRAIN = """
import json, sys
from pathlib import Path
from gpt4image import EmbeddingStore, Recipe, load_images, train_model
data, store, out, recipe = sys.argv[1:]
images = load_images(data, validation_share=0.2, test_share=0.25)
from gpt4image.train.objective import Objective
plain = Objective.losses
def announced(objective, model, batch):
    print("step", flush=True)
    return plain(objective, model, batch)
Objective.losses = announced
train_model(images, EmbeddingStore(store), Recipe.from_dict(json.loads(recipe)), Path(out), checkpoint_seconds=0.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_run_repeats_no_step(images, several_store, image_set, small_recipe, tmp_path, workers):
    """No checkpoint is due by time: the interrupt writes one."""
    recipe = small_recipe(epochs=20, mixup=0.3, ema_decay=0.9)
    script = tmp_path / "train.py"
    script.write_text(TRAIN.replace("checkpoint_seconds=0.0", f"checkpoint_seconds=600.0, workers={workers}"))
    store, out = str(several_store.layout.folder), tmp_path / "interrupted"
    arguments = [script, image_set, store, out, json.dumps(recipe.to_dict())]
    process = ForkedPython(arguments, new_session=True)
    done = [process.stdout.readline() for _ in range(4)]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: loading processes get it too
    out_rest, err = process.communicate()
    done += out_rest.splitlines()
    assert process.returncode != 0 and "KeyboardInterrupt" in err
    done += forked_python(arguments).stdout.splitlines()
    whole = train_model(images, several_store, recipe, tmp_path / "whole")
    assert len(done) == 20 * (len(images.split("train")) // 8)
    assert same_weights(whole.layout.weights, out / "best.safetensors")
    losses = [(row["classification_loss"], row["alignment_loss"]) for row in whole.history]
    again = json.loads((out / "result.json").read_text())["history"]
    assert losses == [(row["classification_loss"], row["alignment_loss"]) for row in again]


@pytest.mark.slow
def test_killed_run_ends_with_the_same_weights_bit_for_bit(images, several_store, image_set, small_recipe, tmp_path):
    recipe = small_recipe(epochs=4, mixup=0.3, drop_path=0.2, ema_decay=0.9, auto_augment="rand-m5", accumulate=2)
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    store = str(several_store.layout.folder)
    arguments = [script, image_set, store, tmp_path / "killed", json.dumps(recipe.to_dict())]
    for steps in (1, 4):
        process = ForkedPython(arguments)
        for _ in range(steps):
            assert process.stdout.readline() == "step\n"
        time.sleep(0.02 * steps)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    forked_python(arguments)

    whole = train_model(images, several_store, recipe, tmp_path / "whole")
    killed = json.loads((tmp_path / "killed" / "result.json").read_text())
    assert same_weights(whole.layout.weights, tmp_path / "killed" / "best.safetensors")
    assert without_seconds(whole.history) == without_seconds(killed["history"])
