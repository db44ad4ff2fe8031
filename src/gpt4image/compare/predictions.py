"""Predictions of finished runs for test and validation images."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from gpt4image.core.console import doing
from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write, digest, hash_file
from gpt4image.images.table import ImageTable
from gpt4image.tasks import Predictions, find_task
from gpt4image.train.data import LabelledInputs, labelled_rows
from gpt4image.train.family import find_family
from gpt4image.train.processes import evaluation_loader, make_accelerator, memory_format, order_channels, predict_logits
from gpt4image.train.run import TrainedRun, load_backbone


def predict_test_images(
    run: TrainedRun, images: ImageTable, *, features: Path | None = None, workers: int = 0
) -> Predictions:
    """Return a finished run's predictions for the test images, computed once and stored.

    Args:
        images: the images it was trained on.
        features: folder of cached features, as in training.
        workers: processes that prepare batches.

    Raises:
        StoreError: the stored predictions are damaged.
    """
    path, rows = run.layout.predictions, labelled_rows(images, "test")
    frames = [images.frames.name] if images.frames else []
    identity = digest(images.ids[rows].tobytes(), hash_file(run.layout.weights), *frames)
    ids_hash = np.frombuffer(identity.encode(), dtype=np.uint8)
    accelerator = make_accelerator(run.recipe)
    stored = _read(path)
    if stored is None or not np.array_equal(stored["ids_hash"], ids_hash):  # the test images may have changed
        with doing(f"Predicting the test images ({run.arm.name}, seed {run.seed})"):
            logits = _predict(run, images, "test", accelerator, features, workers).logits
        stored = {"logits": logits, "ids_hash": ids_hash}
        if accelerator.is_main_process:
            with atomic_write(path) as file:
                file.write(save(stored))
        accelerator.wait_for_everyone()
    return judged(images, rows, stored["logits"], run.thresholds)


def predict_validation_images(
    run: TrainedRun, images: ImageTable, *, features: Path | None = None, workers: int = 0
) -> Predictions:
    """Return a finished run's predictions for the validation images; nothing is stored."""
    return _predict(run, images, "validation", make_accelerator(run.recipe), features, workers)


def _read(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        stored: dict[str, np.ndarray] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path} is damaged ({error}). Delete it to predict the test images again.") from None
    return stored


def write_test_answers(path: Path, images: ImageTable, predictions: Mapping[tuple[str, int], Predictions]) -> None:
    """Write all predictions for the test images as CSV: image, label, then class and confidence by arm and seed.

    Args:
        path: the file.
        images: the images.
        predictions: those of each arm and seed, for the same test images in the same order.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = (f"{part} {arm} {seed}" for arm, seed in predictions for part in ("answer", "confidence"))
    writer.writerow(["image", "label", *columns])
    answers = [found.answers(images.classes) for found in predictions.values()]
    first = next(iter(predictions.values()))
    for row, truth, *given in zip(first.rows.tolist(), first.truths(images.classes), *answers, strict=True):
        cells = (cell for answer, sure in given for cell in (answer, f"{sure:.4f}"))
        writer.writerow([images.path(row), truth, *cells])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def validation_confusion(run: TrainedRun, images: ImageTable, features: Path | None = None) -> np.ndarray:
    """Return how many validation images of class i a run predicts as class j, int64 [C, C].

    Test images are not used, because training makes use of this matrix.

    Args:
        images: the images it was trained on.
        features: folder of cached features, as in training.
    """
    return predict_validation_images(run, images, features=features).confusion


def _predict(
    run: TrainedRun, images: ImageTable, split: str, accelerator: Accelerator, features: Path | None, workers: int = 0
) -> Predictions:
    rows = labelled_rows(images, split)
    source = find_family(run.task).inputs(
        load_backbone(run),
        images,
        run.recipe,
        features or run.layout.folder,
        accelerator.device,
        run.augmentation,
    )
    with accelerator.main_process_first():  # the first process fills the cache of frozen features
        inputs = source.evaluation(rows, split)
    loader = evaluation_loader(LabelledInputs(inputs, images, rows), accelerator, workers)
    device = accelerator.device
    model = order_channels(source.trained.to(device), memory_format(run.recipe, device))
    logits = predict_logits(model, loader, source.normalize, accelerator)
    return judged(images, rows, logits, run.thresholds)


def judged(images: ImageTable, rows: np.ndarray, logits: np.ndarray, thresholds: Sequence[float]) -> Predictions:
    """Combine logits [n, C] for images at positions `rows`, int64 [n], with their true labels."""
    task = find_task(images)
    return task.predictions(rows, task.labels(images, rows), logits, thresholds)
