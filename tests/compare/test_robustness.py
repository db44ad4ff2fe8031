"""Corrupted test images and transfer to another image set, for all runs of a comparison."""

import warnings
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from gpt4image import load_images, open_run
from gpt4image.compare import robustness
from gpt4image.compare.records import Comparison
from gpt4image.compare.robustness import (
    CORRUPTED,
    linear_probe,
    measure_corruptions,
    measure_transfer,
    nearest_neighbours,
)
from gpt4image.core.errors import ConfigError, MissingExtraError, StoreError
from gpt4image.train.run import load_backbone
from support.drawings import COLOURS, draw


class Library:
    """Stands in for the library of the corruptions: one that darkens, one that draws, one that needs a seed."""

    corruption_dict: ClassVar = {
        "darken": lambda x, severity=1: np.array(x) // (severity + 1),
        "noise": lambda x, severity=1: np.clip(
            np.array(x) + np.random.normal(0, 40 * severity, np.array(x).shape), 0, 255
        ),
        "shuffle": lambda x, severity=1, seed=None: np.random.default_rng(seed).permutation(np.array(x)),
    }

    def get_corruption_names(self, subset):
        assert subset == "common"
        return list(self.corruption_dict)

    def corrupt(self, image, severity, corruption_name, **settings):
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        return np.uint8(self.corruption_dict[corruption_name](Image.fromarray(image), severity, **settings))


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setattr(robustness, "_library", Library)


@pytest.fixture
def runs(work):
    names = ("baseline", "described")
    found = {arm: [open_run(work[0] / "runs" / f"{arm}-{seed}") for seed in (0, 1)] for arm in names}
    yield found
    for of_arm in found.values():
        for run in of_arm:
            (run.layout.folder / CORRUPTED).unlink(missing_ok=True)


@pytest.mark.slow
def test_accuracy_under_corruptions_equals_a_plain_loop(library, runs, images):
    found = measure_corruptions(runs, images, severities=(1, 3))
    rows = images.split("test")
    run = runs["described"][1]
    model, config = load_backbone(run), run.preprocessing
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    view = robustness.evaluated_view(config)
    hits = []
    for severity in (1, 3):
        pixels = [view(images.encoded(int(row)), ()) // (severity + 1) for row in rows]
        with torch.inference_mode():
            logits = model(torch.stack([(each / 255 - mean) / std for each in pixels]))
        hits.append(logits.argmax(dim=1).numpy() == images.labels[rows])
    alone = measure_corruptions({"baseline": [run]}, images, severities=(1, 3))
    assert alone.parts["darken"]["baseline"] == pytest.approx(np.mean(hits))
    assert found.accuracy["described"] == pytest.approx(np.mean([part["described"] for part in found.parts.values()]))
    difference = found.differences[0]
    assert difference.arm == "described" and difference.mean == pytest.approx(
        found.accuracy["described"] - found.accuracy["baseline"]
    )
    assert (found.images, list(found.parts)) == (len(rows), ["darken", "noise", "shuffle"])


@pytest.mark.slow
def test_corruptions_are_drawn_alike_and_resume(library, runs, images, monkeypatch):
    first = measure_corruptions(runs, images, severities=(2,))
    assert measure_corruptions(runs, images, severities=(2,)) == first
    for of_arm in runs.values():
        for run in of_arm:
            (run.layout.folder / CORRUPTED).unlink()
    real, done = robustness._predict, []

    def stop_after_two(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments)

    monkeypatch.setattr(robustness, "_predict", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        measure_corruptions(runs, images, severities=(2,))
    counts = []
    monkeypatch.setattr(robustness, "_predict", lambda *arguments: counts.append(1) or real(*arguments))
    assert measure_corruptions(runs, images, severities=(2,)) == first
    assert len(counts) == 1  # of three corruptions, two were done


def test_damaged_predictions_and_other_weights_are_noticed(library, runs, images):
    measure_corruptions(runs, images, severities=(1,))
    path = runs["baseline"][0].layout.folder / CORRUPTED
    content = path.read_bytes()
    path.write_bytes(content[:50])
    with pytest.raises(StoreError, match="damaged"):
        measure_corruptions(runs, images, severities=(1,))
    path.write_bytes((runs["described"][0].layout.folder / CORRUPTED).read_bytes())  # of another run
    found = measure_corruptions({"baseline": runs["baseline"][:1]}, images, severities=(1,))
    path.unlink()
    assert measure_corruptions({"baseline": runs["baseline"][:1]}, images, severities=(1,)) == found


def test_invalid_severities_and_a_missing_library_are_errors(runs, images, monkeypatch):
    with pytest.raises(ConfigError, match="from 1 to 5"):
        measure_corruptions(runs, images, severities=(0, 1))
    monkeypatch.setitem(__import__("sys").modules, "imagecorruptions", None)
    with pytest.raises(MissingExtraError, match="robustness"):
        measure_corruptions(runs, images)


def test_library_has_the_15_corruptions_of_imagenet_c_and_repeats_them():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("imagecorruptions")
    names = robustness.corruption_names()
    assert len(names) == 15 and {"gaussian_noise", "glass_blur", "snow", "jpeg_compression"} <= set(names)
    pixels = np.asarray(draw(COLOURS["red"], "disc", 3))
    for name in names:
        first = robustness.corrupt_image(pixels, name, 3, 5)
        assert first.shape == pixels.shape and first.dtype == np.uint8 and (first != pixels).any()
        assert (robustness.corrupt_image(pixels, name, 3, 5) == first).all(), name


@pytest.fixture
def other(tmp_path):
    """Another image set: shapes are its classes, not colours."""
    for shape in ("disc", "square"):
        (tmp_path / "shapes" / shape).mkdir(parents=True)
        for number in range(16):
            colour = list(COLOURS.values())[number % 3]
            draw(colour, shape, 100 + number).save(tmp_path / "shapes" / shape / f"{number}.png")
    return load_images(tmp_path / "shapes", validation_share=0.2, test_share=0.3)


def test_transfer_compares_the_features_of_all_runs(runs, images, other, tmp_path):
    probe, near = measure_transfer(runs, images, other, tmp_path / "features")
    assert probe.title.endswith("shapes, linear probe") and near.title.endswith("nearest neighbours")
    for found in (probe, near):
        assert found.images == len(other.split("test"))
        assert set(found.accuracy) == {"baseline", "described"}
        assert found.differences[0].seeds == [0, 1]
    run = runs["baseline"][0]
    model = load_backbone(run)
    model.reset_classifier(0)
    mean, std = (torch.tensor(run.preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
    view = robustness.evaluated_view(run.preprocessing)

    def features(split):
        pixels = torch.stack([view(other.encoded(int(row)), ()) for row in other.split(split)])
        with torch.inference_mode():
            return model((pixels / 255 - mean) / std).numpy()

    answers = nearest_neighbours(features("train"), other.labels[other.split("train")], features("test"))
    alone = measure_transfer({"baseline": [run]}, images, other, tmp_path / "features")[1]
    assert alone.accuracy["baseline"] == pytest.approx((answers == other.labels[other.split("test")]).mean())


def test_transfer_to_training_images_is_noticed(runs, images, tmp_path, capsys):
    measure_transfer({"baseline": runs["baseline"][:1]}, images, images, tmp_path)
    assert "were used in training" not in capsys.readouterr().err
    swapped = images.rows["split"].to_pylist()
    swapped = [{"train": "test", "test": "train"}.get(split, split) for split in swapped]
    import dataclasses

    import pyarrow as pa

    column = images.rows.schema.get_field_index("split")
    turned = dataclasses.replace(images, rows=images.rows.set_column(column, "split", pa.array(swapped)))
    measure_transfer({"baseline": runs["baseline"][:1]}, images, turned, tmp_path)
    assert "were used in training" in " ".join(capsys.readouterr().err.split())


def test_nearest_neighbours_equal_scikit_learn():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 200)
    centres = generator.normal(size=(4, 16))
    train = centres[labels] + generator.normal(size=(200, 16))
    test = centres[generator.integers(0, 4, 70)] + generator.normal(size=(70, 16))
    known = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07))
    assert (nearest_neighbours(train, labels, test) == known.fit(train, labels).predict(test)).all()


def test_linear_probe_separates_what_is_linear_and_survives_constant_features():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(300, 10)) * np.logspace(-2, 2, 10)
    features[:, 3] = 7.0
    labels = (features[:, 0] > 0).astype(int)
    answers = linear_probe(features[:150], labels[:150], features[150:200], labels[150:200], features[200:])
    assert (answers == labels[200:]).mean() > 0.9


def test_old_comparisons_have_no_measures(work):
    assert Comparison.load(work[0] / "comparison.json").measures == ()
