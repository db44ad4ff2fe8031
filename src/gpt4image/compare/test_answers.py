"""The test images, answered once by each finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write, digest, hash_file
from gpt4image.images.table import ImageTable
from gpt4image.probing.calibration import Metrics, measure
from gpt4image.train.data import LabelledInputs, Loading, labelled_rows
from gpt4image.train.inference import evaluation_loader, predict_logits
from gpt4image.train.inputs import prepare_inputs
from gpt4image.train.processes import make_accelerator
from gpt4image.train.run import TrainedRun, load_backbone


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


def validation_confusion(run: TrainedRun, images: ImageTable, features: Path | None = None) -> np.ndarray:
    """How often a run takes validation images of class i for class j, int64 [C, C].

    The test images stay untouched: what is learnt from this matrix flows into training.

    Args:
        run: the run.
        images: the image set it was trained on.
        features: where stored outputs of frozen modules lie, as in training.
    """
    rows = labelled_rows(images, "validation")
    accelerator = make_accelerator(run.recipe)
    source = prepare_inputs(load_backbone(run), images, run.recipe, features or run.layout.folder, accelerator.device)
    inputs = LabelledInputs(source.evaluation(rows, "validation"), images, rows)
    loader = evaluation_loader(inputs, accelerator, Loading())
    answers = predict_logits(source.trained.to(accelerator.device), loader, accelerator).argmax(axis=1)
    matrix = np.zeros((len(images.classes), len(images.classes)), dtype=np.int64)
    np.add.at(matrix, (images.labels[rows], answers), 1)
    return matrix


__all__ = ["AnsweredTestSet", "Metrics", "answer_test_images", "load_backbone", "measure"]
