"""A check of real images and texts with the packaged weights: measured numbers, and inserted errors."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gpt4image import load_descriptions, load_images
from gpt4image.core.workdir import WorkDir
from gpt4image.embed import EmbeddingStore
from gpt4image.probing.folds import link
from gpt4image.quality import CheckSettings, check_descriptions
from gpt4image.quality.checks.vectors import find_contradictions, find_outliers
from gpt4image.quality.texts import ImageFacts
from gpt4image.soft_labels import label_by_vectors, report_labels
from gpt4image.train.frozen_features import FrozenBackbone
from gpt4image.workflows.demo import packaged_weights
from support import CLIPART12

pytestmark = pytest.mark.slow

IMAGES = 500
FOREIGN = (
    "Invoice number 4711, total due within 30 days, please pay by bank transfer.",
    "The mitochondrion is the powerhouse of the cell and produces ATP.",
    "The stock market fell by three percent on Tuesday after the central bank raised rates.",
    "Gradient descent converges for convex functions with Lipschitz gradients.",
    "Patient reports mild headache after taking 20 mg twice daily.",
)


@pytest.fixture(scope="module")
def images():
    """Distinct training images that lie in one class only."""
    everything = load_images(CLIPART12)
    facts = ImageFacts(everything)
    rows = sorted(row for row in facts.rows.values() if facts.labels[row] >= 0)
    training = [row for row in rows if row in set(everything.split("train").tolist())]
    chosen = np.random.default_rng(0).permutation(training)[:IMAGES]
    return replace(everything, rows=everything.rows.take(pa.array(np.sort(chosen))))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("clipart12")


@pytest.fixture(scope="module")
def report(images, work):
    """The first word of the file name is the series, as in the example's splits."""
    weights = packaged_weights(work / "imagenet.safetensors")
    words = [re.split(r"[^a-z]+", Path(path).name.lower())[0] for path in images.rows["path"].to_pylist()]
    settings = CheckSettings(backbone=FrozenBackbone("tf_efficientnet_lite0", weights, 128), series=link(words))
    return check_descriptions(images, work, load_descriptions(images, "description"), settings)


@pytest.fixture(scope="module")
def vectors(report, images, work):
    store = EmbeddingStore(WorkDir(work).embeddings("minilm"))
    found, has_text = store.lookup(images.ids)
    assert has_text.all()
    return found.numpy()


def test_texts_know_far_more_than_frozen_features(report):
    """Measured on 600 images: texts 84%, features 54%; on all training images, at 160 pixels: 84% and 52%."""
    knowledge = report.knowledge
    assert knowledge.verdict == "more"
    assert 0.70 < knowledge.text.accuracy < 0.90
    assert 0.35 < knowledge.image.accuracy < 0.60
    assert knowledge.text_over_image.low > 0.2
    assert knowledge.mended > 0.5
    assert knowledge.masked.accuracy > knowledge.text.accuracy - 0.06


def test_clean_texts_are_hardly_flagged(report):
    counts = {finding.kind: finding.count for finding in report.findings}
    assert set(counts) <= {"leakage", "contradiction"}
    assert counts.get("contradiction", 0) <= 0.04 * IMAGES
    assert counts["leakage"] <= 0.08 * IMAGES
    assert report.language == "en"


def test_check_and_label_doubt_the_same_labels(report, images, work):
    store = EmbeddingStore(WorkDir(work).embeddings("minilm"))
    issues = report_labels(label_by_vectors(images, [store], work / "labels"), images).issues
    (flagged,) = (finding.image_ids for finding in report.findings if finding.kind == "contradiction")
    assert {issue.image_id for issue in issues} == set(flagged)


def test_swapped_labels_are_found(images, vectors):
    generator = np.random.default_rng(0)
    swapped = generator.choice(IMAGES, 25, replace=False)
    labels = images.labels.astype(np.int64)
    labels[swapped] = (labels[swapped] + generator.integers(1, 12, 25)) % 12
    found = {flag.at for flag in find_contradictions(vectors, labels, np.arange(IMAGES), images.classes)}
    assert len(found & set(swapped.tolist())) >= 9
    assert len(found - set(swapped.tolist())) <= 0.04 * IMAGES


def test_foreign_texts_are_outliers(vectors, minilm):
    everything = np.concatenate([vectors, minilm.encode(FOREIGN)])
    found = {flag.at for flag in find_outliers(everything, np.arange(len(everything)))}
    assert found <= set(range(IMAGES, len(everything)))
    assert len(found) >= 4
