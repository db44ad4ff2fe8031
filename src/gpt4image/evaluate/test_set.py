"""The test images, answered once by each finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn

from gpt4image.errors import StoreError
from gpt4image.files import atomic_write, digest, hash_file
from gpt4image.images.table import ImageTable
from gpt4image.train.backbone import create_model, fitting_options, load_weights
from gpt4image.train.data import LabelledInputs, Loading, labelled_rows
from gpt4image.train.inference import evaluation_loader, predict_logits
from gpt4image.train.inputs import prepare_inputs
from gpt4image.train.processes import make_accelerator
from gpt4image.train.run import TrainedRun


@dataclass(frozen=True)
class AnsweredTestSet:
    """A run's answers to the test images.

    Attributes:
        rows: positions in the image table, int64 [N].
        labels: right classes, int64 [N].
        logits: float32 [N, C].
    """

    rows: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


def load_backbone(run: TrainedRun) -> nn.Module:
    """The trained backbone and classifier of a run, a plain timm model on the CPU in evaluation mode."""
    model = create_model(
        run.recipe.backbone, pretrained=False, num_classes=len(run.classes), **fitting_options(run.recipe)
    )
    load_weights(model, run.layout.weights)
    return model.eval()


def answer_test_images(
    run: TrainedRun, images: ImageTable, *, features: Path | None = None, workers: int = 0
) -> AnsweredTestSet:
    """Answers of a finished run to the test images: computed once, then read back.

    Args:
        run: the run.
        images: the image set it was trained on.
        features: where stored outputs of frozen modules lie, as in training.
        workers: processes that prepare batches.

    Raises:
        StoreError: the stored answers are damaged or belong to other test images.
    """
    path = run.layout.folder / "test.safetensors"
    rows = labelled_rows(images, "test")
    identity = digest(images.ids[rows].tobytes(), hash_file(run.layout.weights))
    ids_hash = np.frombuffer(identity.encode(), dtype=np.uint8)
    accelerator = make_accelerator(run.recipe)
    if not path.exists():
        source = prepare_inputs(
            load_backbone(run), images, run.recipe, features or run.layout.folder, accelerator.device
        )
        with accelerator.main_process_first():
            inputs = source.evaluation(rows, "test")
        loader = evaluation_loader(LabelledInputs(inputs, images, rows), accelerator, Loading(workers))
        logits = predict_logits(source.trained.to(accelerator.device), loader, accelerator)
        if accelerator.is_main_process:
            with atomic_write(path) as file:
                file.write(save({"logits": logits, "ids_hash": ids_hash}))
        accelerator.wait_for_everyone()
    return AnsweredTestSet(rows, images.labels[rows].astype(np.int64), read_logits(path, ids_hash))


def read_logits(path: Path, ids_hash: np.ndarray) -> np.ndarray:
    """Stored logits [N, C]. StoreError when they cannot be read or belong to other images."""
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path} is damaged ({error}). Delete it to answer the test images again.") from None
    if not np.array_equal(stored["ids_hash"], ids_hash):
        raise StoreError(f"{path} belongs to other test images or weights. Delete it to answer the test images again.")
    logits: np.ndarray = stored["logits"]
    return logits
