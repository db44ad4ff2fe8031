"""Soft labels come back as written, in any process, and a store is complete or absent."""

import pickle
import signal

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch.utils.data import DataLoader, Dataset

from gpt4image import SoftLabels
from gpt4image.core.errors import BusyError, ConfigError, StoreError
from gpt4image.core.files import exclusive
from gpt4image.probing.calibration import LabelQuality
from gpt4image.soft_labels import LabelOrigin, LabelSource, store, write_soft_labels
from support.forks import forked_python
from support.labelling_parts import image_id

CLASSES = ("cat", "dog", "dog\nwith a line")
ORIGIN = LabelOrigin(kind="classifier", sources=(LabelSource(name="big-model", revision="abc"),))
IDS = [image_id(number) for number in range(9)]


def draw_logits(seed=0, rows=9):
    return (np.random.default_rng(seed).normal(size=(rows, 3)) * 8 + 30).astype(np.float32)


@pytest.fixture
def labels(tmp_path):
    return write_soft_labels(tmp_path / "big", IDS, draw_logits(), CLASSES, ORIGIN, temperature=1.5)


def test_round_trip_by_id_in_any_order(labels):
    assert (len(labels), labels.classes) == (9, CLASSES)
    assert (labels.ids[1:] > labels.ids[:-1]).all()
    found = labels.find([IDS[4], b"f" * 32, IDS[0].encode(), IDS[4], "0" * 32])
    assert found.dtype == np.int64
    assert found[[1, 4]].tolist() == [-1, -1]
    shares = labels.take(found, 2.0)
    assert shares.dtype == np.float32
    expected = softmax(draw_logits()[[4, 0, 4]] / 2, axis=1)
    np.testing.assert_allclose(shares[[0, 2, 3]], expected, atol=2e-3)
    assert not shares[[1, 4]].any()
    np.testing.assert_array_equal(labels.take(found), labels.take(found, 1.5))
    assert np.abs(labels.take(found) - labels.take(found, 1.0)).max() > 0.01
    assert labels.take(np.asarray([-1])).tolist() == [[0, 0, 0]]
    assert labels.take(np.empty(0, dtype=int)).shape == (0, 3)


def test_manifest_holds_origin_temperature_and_quality(labels, tmp_path):
    quality = LabelQuality(
        images=9, accuracy=0.5, balanced_accuracy=0.4, negative_log_likelihood=1.0, calibration_error=0.1
    )
    assert SoftLabels(labels.layout.folder).manifest == labels.manifest
    assert labels.manifest.origin == ORIGIN
    assert labels.manifest.quality is None
    again = write_soft_labels(tmp_path / "other", IDS, draw_logits(), CLASSES, ORIGIN, quality=quality)
    assert SoftLabels(str(again.layout.folder)).manifest.quality == quality
    assert again.manifest.temperature == 1


def test_likely_classes_are_precise_at_extreme_logits(tmp_path):
    logits = np.asarray([[1000.0, 999.0, 0.0], [-np.inf, 5.0, 5.0], [0, -1e5, -1e9]])
    labels = write_soft_labels(tmp_path / "far", IDS[:3], logits, CLASSES, ORIGIN)
    shares = labels.take(labels.find(IDS[:3]), 1.0)
    np.testing.assert_allclose(shares, softmax(np.maximum(logits, -1e9), axis=1), atol=1e-3)
    assert np.isfinite(np.load(labels.layout.logits)).all()
    assert np.isfinite(labels.take(labels.find(IDS[:3]), 0.01)).all()


class Taken(Dataset):
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return 9

    def __getitem__(self, number):
        return torch.from_numpy(self.labels.take(self.labels.find([IDS[number]])))


@pytest.mark.slow
def test_pickled_store_is_its_path_and_serves_workers(labels):
    content = pickle.dumps(labels)
    assert len(content) < 500
    assert pickle.loads(content).manifest == labels.manifest  # noqa: S301 - our own
    assert isinstance(labels._logits, np.memmap)
    loader = DataLoader(Taken(labels), batch_size=9, num_workers=1, multiprocessing_context="spawn")
    np.testing.assert_array_equal(next(iter(loader))[:, 0].numpy(), labels.take(labels.find(IDS)))


@pytest.mark.parametrize("name", ["manifest.json", "ids.npy", "logits.npy"])
@pytest.mark.parametrize("content", [b"", b"{", None])
def test_damaged_store_is_an_error_with_a_remedy(labels, name, content):
    path = labels.layout.folder / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="gpt4image label"):
        SoftLabels(labels.layout.folder)


def test_arrays_and_manifest_must_match(labels, tmp_path):
    other = write_soft_labels(tmp_path / "other", IDS[:5], draw_logits(rows=5), CLASSES, ORIGIN)
    for name in ("ids.npy", "logits.npy"):
        kept = (labels.layout.folder / name).read_bytes()
        (labels.layout.folder / name).write_bytes((other.layout.folder / name).read_bytes())
        with pytest.raises(StoreError, match="does not match its manifest"):
            SoftLabels(labels.layout.folder)
        (labels.layout.folder / name).write_bytes(kept)
    manifest = labels.layout.manifest.read_text()
    labels.layout.manifest.write_text(manifest.replace('"images"', '"pictures"'))
    with pytest.raises(StoreError, match="field 'images' does not match"):
        SoftLabels(labels.layout.folder)


def test_other_classes_or_another_order_are_rejected(labels):
    labels.check(CLASSES)
    for other in (CLASSES[:2], CLASSES[::-1]):
        with pytest.raises(StoreError, match="other classes"):
            labels.check(other)


def test_invalid_input_is_rejected_and_leaves_the_store_unchanged(labels):
    folder = labels.layout.folder
    with pytest.raises(ConfigError, match="2 image ids come more than once"):
        write_soft_labels(folder, [*IDS[:7], IDS[0], IDS[1]], draw_logits(), CLASSES, ORIGIN)
    with pytest.raises(ConfigError, match=r"shape \(9, 3\) do not fit 8 images"):
        write_soft_labels(folder, IDS[:8], draw_logits(), CLASSES, ORIGIN)
    with pytest.raises(ConfigError, match="do not fit 9 images and 2 classes"):
        write_soft_labels(folder, IDS, draw_logits(), CLASSES[:2], ORIGIN)
    for wrong in (np.nan, np.inf):
        logits = draw_logits()
        logits[5, 1] = wrong
        with pytest.raises(StoreError, match="not numbers"):
            write_soft_labels(folder, IDS, logits, CLASSES, ORIGIN)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="above 0"):
            write_soft_labels(folder, IDS, draw_logits(), CLASSES, ORIGIN, temperature=temperature)
        with pytest.raises(ConfigError, match="above 0"):
            labels.take(np.asarray([0]), temperature)
    with exclusive(labels.layout.lock, "a test"), pytest.raises(BusyError, match="soft labels"):
        write_soft_labels(folder, IDS, draw_logits(), CLASSES, ORIGIN)
    np.testing.assert_array_equal(SoftLabels(folder).take(np.arange(9)), labels.take(np.arange(9)))


def test_store_may_be_empty(tmp_path):
    labels = write_soft_labels(tmp_path / "none", [], np.empty((0, 3)), CLASSES, ORIGIN)
    assert labels.find(IDS).tolist() == [-1] * 9
    assert labels.take(labels.find(IDS)).shape == (9, 3)


def test_rows_are_written_in_blocks(tmp_path, monkeypatch):
    from gpt4image.probing import calibration

    monkeypatch.setattr(calibration, "BLOCK", 4)
    labels = write_soft_labels(tmp_path / "big", IDS, draw_logits(), CLASSES, ORIGIN)
    stored = np.load(labels.layout.logits)[labels.find(IDS)]
    np.testing.assert_allclose(stored, log_softmax(draw_logits(), axis=1), rtol=1e-3, atol=1e-5)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from gpt4image.soft_labels import LabelOrigin, LabelSource, store, write_soft_labels
from gpt4image.soft_labels.store import LabelManifest

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after_first(rows):
    yield rows[:2]
    die()

match sys.argv[2]:
    case "ids": store.write_logits = die
    case "logits": store.blocks = after_first
    case "manifest": LabelManifest.save = die
    case "removing": store.replace_folder = die
    case "renaming": Path.rename = die
origin = LabelOrigin(kind="classifier", sources=(LabelSource(name="new", revision="2"),))
write_soft_labels(Path(sys.argv[1]), sys.argv[4:], np.load(sys.argv[3]), ("cat", "dog", "dog\\nwith a line"), origin)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["ids", "logits", "manifest", "removing", "renaming", "never"])
def test_killed_writer_leaves_the_old_or_the_new_labels(labels, tmp_path, moment):
    folder, logits = labels.layout.folder, tmp_path / "new.npy"
    before = labels.take(np.arange(9)).copy()
    np.save(logits, draw_logits(1))
    command = ["-c", KILLED, folder, moment, logits, *IDS]
    result = forked_python(command, check=False)
    assert result.returncode == (0 if moment == "never" else -signal.SIGKILL), result.stderr
    match moment:
        case "never":
            assert SoftLabels(folder).manifest.origin.sources[0].name == "new"
        case "renaming":  # the old labels are gone and the new ones whole, but not yet in their place
            store.finish_interrupted(labels.layout)
            assert SoftLabels(folder).manifest.origin.sources[0].name == "new"
        case _:
            assert SoftLabels(folder).manifest.origin == ORIGIN
            np.testing.assert_array_equal(SoftLabels(folder).take(np.arange(9)), before)
    new = write_soft_labels(folder, IDS, draw_logits(2), CLASSES, ORIGIN)
    np.testing.assert_allclose(new.take(new.find(IDS)), softmax(draw_logits(2), axis=1), atol=2e-3)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["big", "big.lock", "new.npy"]
