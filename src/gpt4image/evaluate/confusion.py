"""Which classes a trained run confuses, seen on the validation images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpt4image.evaluate.test_set import load_backbone
from gpt4image.images.table import ImageTable
from gpt4image.train.data import LabelledInputs, Loading, labelled_rows
from gpt4image.train.inference import evaluation_loader, predict_logits
from gpt4image.train.inputs import prepare_inputs
from gpt4image.train.processes import make_accelerator
from gpt4image.train.run import TrainedRun


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
