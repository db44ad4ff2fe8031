"""ONNX with 8-bit integers: weights and activations quantised by ONNX Runtime, and the resulting loss of accuracy."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gpt4image.compare.predictions import judged
from gpt4image.core.console import progress
from gpt4image.core.errors import ExportError, first_line
from gpt4image.core.format import counted, percent, points
from gpt4image.export.forms import graph_runner, remove_notes
from gpt4image.images.table import ImageTable
from gpt4image.tasks import find_task
from gpt4image.train.data import labelled_rows
from gpt4image.train.run import TrainedRun
from gpt4image.train.transforms import evaluation_input, evaluation_transform

CALIBRATION_IMAGES = 128
BATCH = 32


@dataclass(frozen=True)
class QuantizationLoss:
    """Loss of accuracy on the test images with 8-bit integers.

    Attributes:
        images: number of labelled test images.
        before: accuracy of the trained model, from 0 to 1, or another metric of its task.
        after: the same of the quantised model.
        same_answers: images with the same prediction.
        score: name of the metric.
    """

    images: int
    before: float
    after: float
    same_answers: int
    score: str = "accuracy"

    def line(self) -> str:
        """Return the result as one line of text."""
        (change,) = points([self.after - self.before])
        return (
            f"ONNX int8: {self.score} {percent(self.after)} on {counted(self.images, 'test image')}, "
            f"{percent(self.before)} before quantisation ({change} points), "
            f"{self.same_answers}/{self.images} same predictions"
        )


def quantize(run: TrainedRun, model: nn.Module, images: ImageTable, graph: Path, path: Path) -> QuantizationLoss:
    """Quantise an ONNX graph, calibrated on training images, and predict all test images with both forms.

    Args:
        graph: the graph in float32.
        path: the file to write.

    Raises:
        ExportError: ONNX Runtime cannot quantise the graph.
    """
    rows = images.split("train")
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), CALIBRATION_IMAGES)).astype(np.int64)]
    try:
        _write(graph, path, Calibration(image_batches(run, images, chosen)))
        quantized = graph_runner(path)
        quantized(next(image_batches(run, images, chosen[:1])))
    except Exception as error:  # each model fails in its own way, deep inside ONNX Runtime
        raise ExportError(f"The ONNX graph cannot be quantised ({first_line(error)}).") from None
    rows = labelled_rows(images, "test")
    before, after = [], []
    with progress("Test int8", len(rows)) as meter, torch.no_grad():
        for batch in image_batches(run, images, rows):
            before.append(model(batch).numpy())
            after.append(quantized(batch).numpy())
            meter.advance(len(batch))
    old, new = (judged(images, rows, np.concatenate(logits), run.thresholds) for logits in (before, after))
    same = sum(a[0] == b[0] for a, b in zip(old.answers(run.classes), new.answers(run.classes), strict=True))
    scores = float(old.scores.mean()), float(new.scores.mean())
    return QuantizationLoss(len(rows), *scores, same, find_task(images).score)


def image_batches(run: TrainedRun, images: ImageTable, rows: np.ndarray) -> Iterator[Tensor]:
    """Yield images [B, 3, H, W], or clips [B, T, 3, H, W], preprocessed for the model."""
    transform = evaluation_transform(run.preprocessing)
    for start in range(0, len(rows), BATCH):
        yield torch.stack([evaluation_input(images, int(row), transform) for row in rows[start : start + BATCH]])


class Calibration:
    """Images on which ONNX Runtime measures the range of each activation."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.numpy()}


def _write(graph: Path, path: Path, calibration: Calibration) -> None:
    """Quantise weights per channel, and each activation by its smallest and largest value."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    CalibrationDataReader.register(Calibration)
    folder = Path(tempfile.mkdtemp(dir=path.parent))  # ONNX Runtime leaves its own files behind
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it logs advice that is already followed here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quant_pre_process(str(graph), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
            quantize_static(
                str(folder / "prepared.onnx"),
                str(path),
                calibration,
                per_channel=True,
                activation_type=QuantType.QUInt8,  # signed ones are several times slower on x86
            )
    finally:
        logging.root.setLevel(level)
        shutil.rmtree(folder)
    remove_notes(path)
