"""Measure finished runs beyond the test images: on corrupted ones, and by how their features transfer to other sets.

Both take runs of all arms with the same seeds, so that differences are paired like those on the test images.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gpt4image.compare.records import MeasureRecord
from gpt4image.compare.summarize import record_difference
from gpt4image.core import console
from gpt4image.core.errors import ConfigError, MissingExtraError, StoreError
from gpt4image.core.files import atomic_write, digest, hash_file
from gpt4image.core.format import counted
from gpt4image.core.options import MeasureOptions
from gpt4image.images.decode import EncodedImage
from gpt4image.images.table import SPLITS, ImageTable
from gpt4image.probing.logistic_regression import fit_softmax_regression
from gpt4image.train.data import labelled_rows
from gpt4image.train.frozen_features import FrozenBackbone, frozen_features
from gpt4image.train.processes import EVALUATION_BATCH, make_accelerator, memory_format, order_channels
from gpt4image.train.run import TrainedRun, load_backbone
from gpt4image.train.spec import REFERENCE
from gpt4image.train.transforms import Normalization, evaluated_view, seed_everything

RunsByArm = Mapping[str, Sequence[TrainedRun]]
"""The runs of each arm, in the order of the seeds; the baseline must be one of the arms."""

Corrupt = Callable[[np.ndarray, str, int, int], np.ndarray]

SMALLEST = 32  # pixels below which the corruptions are not defined
TOGETHER = 8  # models that predict a corrupted image while it is in memory
CORRUPTED = "corrupted.safetensors"  # a run's predictions for corrupted test images
MISSING = -1  # marks a prediction that is not computed yet
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)  # inverse regularisation of the linear probe, chosen on validation images
NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the nearest-neighbour classifier


@dataclass(frozen=True)
class Measures:
    """What to measure on finished runs besides their accuracy on the test images.

    Attributes:
        images: the images they were trained on.
        options: what to measure.
        others: the image sets to transfer to.
        features: folder of cached features.
        workers: processes that corrupt images.
    """

    images: ImageTable
    options: MeasureOptions
    others: Sequence[ImageTable]
    features: Path
    workers: int = 0

    def check(self) -> None:
        """Check the settings before training rather than after it.

        Raises:
            ConfigError: images have several labels.
            MissingExtraError: the corruptions are not installed.
            TrainingError: a split has no labels.
        """
        if any(images.has_label_sets for images in (self.images, *self.others)):
            raise ConfigError(
                "corruptions and transfer (--corruptions, --transfer) need one class per image, and these have "
                "several labels: leave them out."
            )
        if self.options.corruptions:
            corruption_names()
        for other in self.others:
            for split in SPLITS:
                labelled_rows(other, split)

    def __call__(self, runs: RunsByArm) -> tuple[MeasureRecord, ...]:
        """Measure the runs of each arm."""
        found = []
        if self.options.corruptions:
            severities = self.options.corruption_severities
            found.append(measure_corruptions(runs, self.images, severities=severities, workers=self.workers))
        for other in self.others:
            found += measure_transfer(runs, self.images, other, self.features)
        return tuple(found)


def corruption_names() -> tuple[str, ...]:
    """Return the names of the 15 corruptions of ImageNet-C. MissingExtraError if the library is not installed."""
    return tuple(_library().get_corruption_names("common"))


def _library() -> Any:  # noqa: ANN401 - an untyped module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import imagecorruptions
    except ImportError:
        raise MissingExtraError(
            "imagecorruptions-imaug", "robustness", "Corrupting test images (--corruptions)"
        ) from None
    return imagecorruptions


def corrupt_image(pixels: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """Return a corrupted copy of an image, uint8 [H, W, 3]; the same seed gives the same copy.

    Hendrycks and Dietterich, arXiv 1903.12261, appendix A, as `imagecorruptions-imaug` implements it.

    Args:
        pixels: uint8 [H, W, 3], at least 32 x 32.
        name: one of `corruption_names`.
        severity: from 1 to 5.
        seed: seed of the corruptions that draw.
    """
    library = _library()
    seed_everything(seed)
    draws = "seed" in inspect.signature(library.corruption_dict[name]).parameters  # others use numpy's global generator
    settings = {"seed": seed % 2**31} if draws else {}
    return np.asarray(library.corrupt(pixels, severity=severity, corruption_name=name, **settings), dtype=np.uint8)


class CorruptedImages(Dataset[Tensor]):
    """Evaluation views of some images of a table, corrupted: uint8 [3, H, W], of clips [T, 3, H, W]."""

    def __init__(self, images: ImageTable, rows: np.ndarray, config: dict[str, Any], name: str, severity: int) -> None:
        self._images, self._rows, self._view = images, rows, evaluated_view(config)
        self._name, self._severity = name, severity
        self._ids = images.ids[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Tensor:
        row, seed = int(self._rows[position]), int(digest(self._ids[position], self._name, str(self._severity))[:8], 16)
        if self._images.frames is None:
            return self._corrupt(self._images.encoded(row), seed)
        return torch.stack(self._images.over_frames(row, lambda frame: self._corrupt(frame, seed)))

    def _corrupt(self, image: EncodedImage, seed: int) -> Tensor:
        pixels = self._view(image, ()).permute(1, 2, 0).numpy()  # [H, W, 3]
        corrupted = corrupt_image(np.ascontiguousarray(pixels), self._name, self._severity, seed)
        return torch.from_numpy(np.ascontiguousarray(corrupted.transpose(2, 0, 1)))


def measure_corruptions(
    runs: RunsByArm, images: ImageTable, *, severities: Sequence[int] = (1, 2, 3, 4, 5), workers: int = 0
) -> MeasureRecord:
    """Measure accuracy on the test images under the 15 corruptions of ImageNet-C, as the mean over severities.

    The corruptions apply to what the models see: the resized and cropped image. Predictions are stored with each run,
    so an interrupted measurement resumes.

    Args:
        runs: the runs of each arm.
        images: the images they were trained on.
        severities: how strong the corruptions are, from 1 to 5.
        workers: processes that corrupt images.

    Raises:
        ConfigError: an invalid severity, or images of fewer than 32 pixels.
        MissingExtraError: the library of the corruptions is not installed.
        StoreError: stored predictions are damaged.
    """
    severities = tuple(dict.fromkeys(severities))
    if not severities or not set(severities) <= {1, 2, 3, 4, 5}:
        raise ConfigError(
            f"corruption_severities (--corruption-severities) must be numbers from 1 to 5, not {list(severities)}."
        )
    names, rows = corruption_names(), labelled_rows(images, "test")
    flat = [run for of_arm in runs.values() for run in of_arm]
    if min(flat[0].preprocessing["input_size"][1:]) < SMALLEST:
        raise ConfigError(f"The corruptions of ImageNet-C need images of at least {SMALLEST} pixels (--image-size).")
    parts = [flat[at : at + TOGETHER] for at in range(0, len(flat), TOGETHER)]
    tables = {run.layout.folder: _Kept.open(run, images, rows, names) for run in flat}
    with console.progress("Corrupted test images", len(parts) * len(names) * len(severities)) as meter:
        for part in parts:
            for number, name in enumerate(names):
                for severity in severities:
                    kept = [tables[run.layout.folder] for run in part]
                    missing = [table for table in kept if (table.classes[number, severity - 1] == MISSING).any()]
                    if missing:
                        source = CorruptedImages(images, rows, flat[0].preprocessing, name, severity)
                        for table, classes in zip(missing, _predict(missing, source, workers), strict=True):
                            table.classes[number, severity - 1] = classes
                            table.save()
                    meter.advance()
            for run in part:
                tables[run.layout.folder].forget_model()
    labels, chosen = images.labels[rows], np.asarray(severities) - 1
    right = {
        arm: np.stack([tables[run.layout.folder].classes[:, chosen] == labels for run in of_arm]).astype(float)
        for arm, of_arm in runs.items()
    }  # [S, corruptions, severities, N]
    return _record(
        "corruptions",
        f"the 15 corruptions of ImageNet-C, severity {', '.join(map(str, severities))}",
        runs,
        {arm: found.mean(axis=(1, 2)) for arm, found in right.items()},
        parts={
            name.replace("_", " "): {arm: float(found[:, number].mean()) for arm, found in right.items()}
            for number, name in enumerate(names)
        },
    )


@dataclass
class _Kept:
    """A run's predictions for corrupted images.

    Attributes:
        run: the run.
        identity: hash of the weights, the images and the corruptions.
        classes: predicted classes, int32 [corruptions, 5, N], `MISSING` where not computed yet.
        model: its model, once loaded.
    """

    run: TrainedRun
    identity: np.ndarray
    classes: np.ndarray
    model: torch.nn.Module | None = None

    @classmethod
    def open(cls, run: TrainedRun, images: ImageTable, rows: np.ndarray, names: Sequence[str]) -> _Kept:
        known = digest(images.ids[rows].tobytes(), hash_file(run.layout.weights), *names)
        identity, path = np.frombuffer(known.encode(), dtype=np.uint8), run.layout.folder / CORRUPTED
        if path.exists():
            try:
                stored = load_file(path)
            except (SafetensorError, OSError) as error:
                raise StoreError(f"{path} is damaged ({error}). Delete it to predict again.") from None
            if np.array_equal(stored["identity"], identity):
                return cls(run, identity, stored["classes"])
        return cls(run, identity, np.full((len(names), 5, len(rows)), MISSING, dtype=np.int32))

    def save(self) -> None:
        with atomic_write(self.run.layout.folder / CORRUPTED) as file:
            file.write(save({"identity": self.identity, "classes": self.classes}))

    def load_model(self, device: torch.device) -> torch.nn.Module:
        if self.model is None:
            model = load_backbone(self.run)
            self.model = order_channels(model.to(device), memory_format(self.run.recipe, device))
        return self.model

    def forget_model(self) -> None:
        self.model = None


@torch.inference_mode()
def _predict(tables: Sequence[_Kept], source: CorruptedImages, workers: int) -> list[np.ndarray]:
    """Return the classes that each run predicts for the images of a source, int64 [N] each."""
    run = tables[0].run
    accelerator, normalize = make_accelerator(run.recipe), Normalization.of(run.preprocessing)
    found: list[list[np.ndarray]] = [[] for _ in tables]
    for pixels in DataLoader(source, EVALUATION_BATCH, num_workers=workers):
        batch = normalize(pixels.to(accelerator.device))
        batch = batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
        for table, classes in zip(tables, found, strict=True):
            with accelerator.autocast():
                logits = table.load_model(accelerator.device)(batch)
            classes.append(logits.argmax(dim=1).cpu().numpy())
    return [np.concatenate(classes) for classes in found]


def measure_transfer(runs: RunsByArm, images: ImageTable, other: ImageTable, folder: Path) -> list[MeasureRecord]:
    """Measure how well the frozen features of the models classify another image set.

    - linear probe: logistic regression on standardised features, with its regularisation chosen on the validation
      images
    - nearest neighbours: the 20 most similar training images vote with weight exp(cosine / 0.07), as in Wu et al.,
      arXiv 1805.01978, section 3.4

    Args:
        runs: the runs of each arm.
        images: the images they were trained on.
        other: another image set, with labels in all splits.
        folder: folder of cached features.
    """
    if images.frames is not None or other.frames is not None:
        raise ConfigError("Transfer is only measured for still images, not for clips: leave out transfer.")
    splits = {name: labelled_rows(other, name) for name in SPLITS}
    seen = np.isin(other.ids[splits["test"]], images.ids[images.split("train")])
    if seen.any():
        console.say(
            f"{counted(int(seen.sum()), 'test image')} of {other.source} were used in training, so its transfer "
            "results are too good.",
            "yellow",
        )
    right: dict[str, dict[str, list[np.ndarray]]] = {"linear probe": {}, "nearest neighbours": {}}
    with console.progress(f"Transfer to {Path(other.source).name}", sum(map(len, runs.values()))) as meter:
        for arm, of_arm in runs.items():
            for run in of_arm:
                for name, hits in _transfer_run(run, other, splits, folder).items():
                    right[name].setdefault(arm, []).append(hits)
                meter.advance()
    return [
        _record(
            f"transfer {name}",
            f"transfer to {other.source}, {name}",
            runs,
            {arm: np.stack(hits).astype(float) for arm, hits in by_arm.items()},
        )
        for name, by_arm in right.items()
    ]


def _transfer_run(
    run: TrainedRun, other: ImageTable, splits: Mapping[str, np.ndarray], folder: Path
) -> dict[str, np.ndarray]:
    """Return, for each classifier on a run's features, which test images of another set it gets right, bool [N]."""
    backbone = FrozenBackbone(run.recipe.backbone, run.layout.weights, run.recipe.image_size)
    rows = np.concatenate(list(splits.values()))
    features = np.asarray(frozen_features(other, rows, backbone, folder), dtype=np.float32)
    ends = np.cumsum([len(own) for own in splits.values()])[:-1]
    train, validation, test = np.split(features, ends)
    labels = {name: other.labels[own].astype(np.int64) for name, own in splits.items()}
    return {
        "linear probe": linear_probe(train, labels["train"], validation, labels["validation"], test) == labels["test"],
        "nearest neighbours": nearest_neighbours(train, labels["train"], test) == labels["test"],
    }


def linear_probe(
    train: np.ndarray, labels: np.ndarray, validation: np.ndarray, known: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Predict the classes of test features by logistic regression, int64 [N].

    Args:
        train: training features [M, F].
        labels: their labels, int [M].
        validation: features [V, F] on which the strength is chosen.
        known: their labels, int [V].
        test: features to classify [N, F].
    """
    mean, spread = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-6)
    train, validation, test = ((each - mean) / spread for each in (train, validation, test))
    classes, best, answers = int(max(labels.max(), known.max())) + 1, -1.0, np.zeros(len(test), dtype=np.int64)
    for strength in STRENGTHS:
        fitted = fit_softmax_regression(train, labels, classes, strength=strength, tolerance=1e-4)
        accuracy = float((fitted.log_probabilities(validation).argmax(axis=1) == known).mean())
        if accuracy > best:
            best, answers = accuracy, fitted.log_probabilities(test).argmax(axis=1)
    return answers


def nearest_neighbours(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predict the classes of test features by the votes of the most similar training features, int64 [N].

    Args:
        train: training features [M, F].
        labels: their labels, int [M].
        test: features to classify [N, F].
    """
    train, test = (each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in (train, test))
    count, answers = min(NEIGHBOURS, len(train)), []
    for start in range(0, len(test), 1024):
        similarity = test[start : start + 1024] @ train.T  # [B, M]
        near = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        votes = np.zeros((len(near), int(labels.max()) + 1))
        weights = np.exp((np.take_along_axis(similarity, near, axis=1) - 1) / TEMPERATURE)
        np.add.at(votes, (np.arange(len(near))[:, None], labels[near]), weights)
        answers.append(votes.argmax(axis=1))
    return np.concatenate(answers)


def _record(
    name: str,
    title: str,
    runs: RunsByArm,
    right: Mapping[str, np.ndarray],
    parts: dict[str, dict[str, float]] | None = None,
) -> MeasureRecord:
    """Summarise a measure [S, N] of each arm, each value from 0 to 1."""
    seeds = [run.seed for run in runs[REFERENCE]]
    return MeasureRecord(
        name=name,
        title=title,
        images=next(iter(right.values())).shape[1],
        accuracy={arm: float(found.mean()) for arm, found in right.items()},
        differences=tuple(record_difference(arm, REFERENCE, right, seeds) for arm in right if arm != REFERENCE),
        parts=parts or {},
    )
