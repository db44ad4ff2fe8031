"""Text labels for any training loop: labels from descriptions where the given ones are missing or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from gpt4image.core.console import say
from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.core.options import WORK, LabelOptions, TextOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.table import ImageTable
from gpt4image.integrations.targets import MapDataset, PictureReader, TextTargets
from gpt4image.soft_labels import SoftLabels, describe_text_labels
from gpt4image.soft_labels.text_labels import Form
from gpt4image.workflows.inputs import make_text_labels

LABEL_KEYS = ("labels", "label")
"""Keys of the label in samples that are dictionaries."""


class TextLabels:
    """Class probabilities of a dataset's samples, by position. Its length is the number of samples.

    Given labels are kept unless enough of them turn out wrong (`gpt4image.soft_labels.text_labels`). A sample with
    neither label nor text has probabilities of 0, so that it adds nothing to the sum of `cross_entropy`.

    Args:
        labels: the labels by image id.
        ids: image id of each sample, S32 [N].

    Attributes:
        probabilities: float32 [N, C].
        known: which samples have a label, bool [N].
        labels: the labels by image id, with their estimated quality.
    """

    def __init__(self, labels: SoftLabels, ids: np.ndarray) -> None:
        self.labels = labels
        positions = labels.find(ids)
        self.known = torch.from_numpy(positions >= 0)
        self.probabilities = torch.from_numpy(labels.take(positions))

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, index: Tensor | Sequence[int] | int) -> Tensor:
        """Return the class probabilities of the samples at positions [B], [B, C], or at one position, [C]."""
        return self.probabilities[index.cpu() if isinstance(index, Tensor) else index]

    def lines(self) -> list[str]:
        """Summarise the estimated quality of the labels in a few lines."""
        return describe_text_labels(self.labels)

    def replace(self, dataset: MapDataset) -> LabelledDataset:
        """Return the dataset with these probabilities in place of its labels, for a cross-entropy that accepts both.

        Raises:
            ConfigError: the dataset has a different length.
        """
        if len(dataset) != len(self):
            raise ConfigError(f"The dataset has {len(dataset):,} samples, the labels were made for {len(self):,}.")
        return LabelledDataset(dataset, self)


class LabelledDataset(torch.utils.data.Dataset[Any]):
    """A dataset with class probabilities [C] in place of its labels.

    A sample is a tuple whose second part is the label, or a dictionary with `labels` or `label`.
    """

    def __init__(self, dataset: MapDataset, labels: TextLabels) -> None:
        self._dataset, self._labels = dataset, labels

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - as the dataset
        sample = self._dataset[index]
        if isinstance(sample, dict):
            key = next((key for key in LABEL_KEYS if key in sample), LABEL_KEYS[0])
            return {**sample, key: self._labels[index]}
        return (sample[0], self._labels[index], *sample[2:])


def text_labels(
    targets: TextTargets,
    labels: Sequence[int] | np.ndarray | Tensor,
    classes: Sequence[str],
    *,
    form: Form = "hard",
    abstain: float = 0.0,
    work: str | Path = WORK,
) -> TextLabels:
    """Label a dataset by its descriptions, and log the estimated quality of the labels.

    Args:
        targets: the texts' vectors (`text_targets`).
        labels: the given label of each sample, int [N]; -1 for none.
        classes: names of the C classes; their texts are compared with the names too.
        form: hard labels (the likeliest class), calibrated soft ones, or soft ones sharpened.
        abstain: samples whose likeliest class is less probable than this get no label.
        work: the work directory, which keeps the labels.

    Raises:
        ConfigError: the number of labels differs from that of samples, or a label is not a class.
    """
    given = np.asarray(labels, dtype=np.int32)
    if given.shape != (len(targets),) or not ((given >= -1) & (given < len(classes))).all():
        raise ConfigError(
            f"There must be a label from -1 to {len(classes) - 1} for each of the {len(targets):,} samples of the "
            f"targets, not {given.shape} of {given.min(initial=0)} to {given.max(initial=0)}."
        )
    ids, store = targets.ids, targets.store
    columns = {
        "id": pa.array([image_id.decode() for image_id in ids.tolist()], pa.string()),
        "path": pa.array(map(str, range(len(ids))), pa.string()),
        "label": pa.array(given, pa.int32()),
        "split": pa.array(["train"] * len(ids)),
        "row": pa.array(range(len(ids)), pa.int64()),
    }
    images = ImageTable("the dataset", tuple(classes), pa.table(columns), (), PictureReader(()))
    content = digest(store.manifest.text_hash, ids.tobytes(), given.tobytes(), *classes)[:12]
    folder = WorkDir(Path(work) / "integrations" / content).text_labels(store.manifest.encoder)
    options = LabelOptions(label_form=form, abstain=abstain)
    made = make_text_labels(images, (store,), TextOptions(encoder=(store.manifest.encoder,)), options, folder)
    found = TextLabels(made, ids)
    say("\n".join(found.lines()))
    return found


def soft_cross_entropy(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:  # noqa: ANN401 - logits, or an object with them
    """Return the cross-entropy with class probabilities [B, C] or class numbers [B], a scalar.

    It can be passed to transformers as `Trainer(compute_loss_func=soft_cross_entropy)`.

    Args:
        outputs: logits [B, C], or an object or dictionary that contains them.
        labels: probabilities or numbers.
        num_items_in_batch: the Trainer's divisor when it accumulates gradients: the number of all entries of the labels
            of these batches.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> hard, soft = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> bool(torch.isclose(soft_cross_entropy(logits, hard), soft_cross_entropy(logits, soft)))
    True
    """
    logits = outputs["logits"] if isinstance(outputs, dict) else getattr(outputs, "logits", outputs)
    soft = labels.is_floating_point()
    if num_items_in_batch is None:
        return functional.cross_entropy(logits, labels.to(logits.dtype) if soft else labels)
    total = functional.cross_entropy(logits, labels.to(logits.dtype) if soft else labels, reduction="sum")
    return total / (num_items_in_batch / (labels.shape[1] if soft else 1))
