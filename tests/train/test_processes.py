"""The same training on one process and on two."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gpt4image import train_model
from gpt4image.align.projector import Projector
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.errors import ConfigError
from gpt4image.train.processes import (
    THREAD_WORK,
    limited_threads,
    loader_workers,
    make_accelerator,
    memory_format,
    on_this_machine,
    order_channels,
    require_pairs,
    worthwhile_threads,
)

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from gpt4image import EmbeddingStore, Recipe, load_images, train_model
from gpt4image.compare.predictions import predict_test_images
from gpt4image.train.processes import loader_workers, memory_format, on_this_machine
data, store, out, recipe = sys.argv[1:]
images = load_images(data, validation_share=0.2, test_share=0.25)
run = train_model(images, EmbeddingStore(store), Recipe.from_dict(json.loads(recipe)), Path(out))
predict_test_images(run, images)
torch.distributed.barrier()
os._exit(0)  # skip torch's teardown, which may abort after training in several processes on a CPU
"""


def test_small_operators_get_one_thread_and_large_ones_all(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 4)).train()
    sample = torch.zeros(1, 3, 8, 8)
    work = 2 * (27 * 8 * 36 + 8 * 36 * 4)  # multiplications and additions of an image
    operators = 4  # a convolution, flatten's view, a transpose and a product
    assert [worthwhile_threads(model, sample, batch) for batch in (1, 1_000_000)] == [1, 8]
    three = int(3.5 * THREAD_WORK * operators / work)
    assert worthwhile_threads(model, sample, three) == 3
    assert model.training


def test_number_of_threads_is_restored_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="inside"), limited_threads(1):
        assert torch.get_num_threads() == 1
        raise ValueError("inside")
    assert torch.get_num_threads() == before


def test_processes_that_would_train_alone_are_an_error(small_recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it; accelerate ignores it on a machine without a GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"2 processes were started.*ACCELERATE_USE_CPU=true"):
        make_accelerator(small_recipe())


def test_single_images_in_each_process_are_an_error_where_their_features_are_normalised(small_recipe):
    recipe = small_recipe(batch_size=8, accumulate=2)
    with pytest.raises(ConfigError, match=r"batch_size .*8 leaves single images for 4 processes x 2 parts.* least 16"):
        require_pairs(Projector(4, 4), recipe, 4)
    require_pairs(Projector(4, 4), recipe, 2)
    require_pairs(Projector(4, 4, kind="mlp-ln"), recipe, 4)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_divided_weights_are_refused_on_any_device(small_recipe, monkeypatch, kind):
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(ConfigError, match=f"{kind} divides weights .* launch without it"):
        make_accelerator(small_recipe())


def test_gradients_are_in_memory_once(small_recipe):
    assert make_accelerator(small_recipe()).ddp_handler.gradient_as_bucket_view


def test_precision_is_bf16_on_a_gpu_that_has_it_and_none_elsewhere(images, small_recipe, tmp_path, monkeypatch):
    assert train_model(images, None, small_recipe(epochs=1), tmp_path, arm="baseline").recipe.precision == "no"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert on_this_machine(small_recipe()).precision == "bf16"
    assert on_this_machine(small_recipe(precision="fp16")).precision == "fp16"
    assert memory_format(small_recipe(precision="no"), torch.device("cuda")) == torch.contiguous_format
    assert memory_format(small_recipe(), torch.device("cuda")) == torch.channels_last


def test_a_gpu_is_fed_by_the_processors_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (loader_workers(None), loader_workers(0), loader_workers(3)) == (0, 0, 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("gpt4image.train.processes.available_processors", lambda: 12)
    assert (loader_workers(None), loader_workers(0)) == (12, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader_workers(None) == 3


def test_channels_are_ordered_where_weights_of_three_dimensions_are_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(1, 4, 3))  # as in LambdaNetworks
    assert order_channels(model, torch.channels_last) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_two_processes_train_like_one(images, several_store, image_set, small_recipe, tmp_path):
    """A deterministic transformer: only rounding and the order of sums differ."""
    recipe = small_recipe(
        backbone="vit_tiny_patch16_224", optimizer="sgd", lr=1e-2, crop_scale=(1.0, 1.0), flip=0.0, projector="mlp"
    )
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    arguments = [str(image_set), str(several_store.layout.folder), str(tmp_path / "two"), json.dumps(recipe.to_dict())]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*launcher, str(script), *arguments], env=environment, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr

    one = train_model(images, several_store, recipe, tmp_path / "one")
    a, b = load_file(one.layout.weights), load_file(tmp_path / "two" / "best.safetensors")
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)
    history = json.loads((tmp_path / "two" / "result.json").read_text())["history"]
    for mine, theirs in zip(one.history, history, strict=True):
        assert abs(mine["alignment_loss"] - theirs["alignment_loss"]) < 1e-4
        assert abs(mine["classification_loss"] - theirs["classification_loss"]) < 1e-4
        assert mine["validation_accuracy"] == theirs["validation_accuracy"]
    assert (tmp_path / "two" / "test.safetensors").exists()
    assert predict_test_images(one, images).logits.shape == (len(images.split("test")), 3)
