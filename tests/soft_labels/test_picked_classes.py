"""Classes that an LLM picked: read from the store, trusted as far as labels show, used with texts and alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from gpt4image.core.errors import StoreError
from gpt4image.descriptions.picks import PickedClasses, read_picks
from gpt4image.descriptions.prompts.choices import Choices, Pick
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.soft_labels import describe_text_labels, label_by_texts
from gpt4image.soft_labels.methods import fit_confidence, pick_log_probabilities
from support.labelling_parts import WordEncoder, image_id, informative_texts, make_store, make_table

CLASSES = ("ant", "bee", "cow")
TRUE = np.arange(240) % 3
LISTED = Choices(CLASSES, CLASSES)


def record(number: int, pick: Pick, created: str = "2026-01-01", **fields) -> DescriptionRecord:
    values = {"prompt": "classify", "model": "m", "pick": pick.to_json(), "created": created, **fields}
    return DescriptionRecord(f"{number:032x}", image_id(number), "said", **values)


def stored(folder, *records) -> DescriptionStore:
    store = DescriptionStore(folder)
    with store.writer() as writer:
        writer.write(*records)
    return store


def picked(share_right: float, *, seed: int = 0, none: int = 0) -> PickedClasses:
    """Picks of which a share is right; the first few name none of the classes."""
    generator = np.random.default_rng(seed)
    wrong = (TRUE + generator.integers(1, 3, 240)) % 3
    names = np.where(generator.random(240) < share_right, TRUE, wrong)
    shares = np.eye(3, dtype=np.float32)[names]
    shares[:none] = 0
    ids = np.asarray([image_id(number) for number in range(240)], "S32")
    order = np.argsort(ids)
    return PickedClasses(ids[order], shares[order], {("classify", "m"): 240})


def test_picks_match_classes_in_composed_and_decomposed_characters(tmp_path):
    listed = Choices(("cafe\u0301", "bus"), ("cafe\u0301", "bus"))
    pick = listed.pick("Caf\u00e9.")
    assert pick.name == "cafe\u0301"
    weighed = replace(pick, probabilities={"cafe\u0301": 0.9})
    store = stored(tmp_path, record(0, pick), record(1, weighed))
    np.testing.assert_allclose(read_picks(store, ("bus", "caf\u00e9")).shares[:, 1], [1.0, 0.9], atol=1e-4)


def test_picks_of_the_latest_list_count_and_several_of_an_image_are_averaged(tmp_path):
    old, new = Choices(("ant", "elk"), ("ant", "elk")), LISTED
    store = stored(
        tmp_path,
        record(0, old.pick("elk"), "2026-01-01"),
        record(1, new.pick("bee"), "2026-01-02"),
        record(2, new.pick("none"), "2026-01-03"),
        replace(record(3, new.pick("cow"), model="other"), key="a" * 32),
        replace(record(3, Pick("ant", new.digest, {"ant": 0.5, "cow": 0.2, None: 0.2}), "2026-01-04"), key="b" * 32),
        DescriptionRecord("c" * 32, image_id(4), "a text", prompt="plain"),
    )
    found = read_picks(store, CLASSES)
    shares = found.take(np.asarray([image_id(number) for number in range(5)], "S32"))
    np.testing.assert_allclose(shares, [[0] * 3, [0, 1, 0], [0] * 3, [0.25, 0.05, 0.6], [0] * 3], atol=1e-4)
    assert found.origins == {("classify", "m"): 3, ("classify", "other"): 1}
    assert found.named.sum() == 2
    assert "3 images, none of them for 1: classify by m (3), classify by other (1)" in found.line()
    assert read_picks(store, CLASSES, models=["other"]).ids.tolist() == [image_id(3).encode()]
    assert read_picks(store, CLASSES, prompts=["plain"]) is None


def test_damaged_pick_is_an_error_that_shows_it(tmp_path):
    broken = replace(record(0, LISTED.pick("ant")), pick='{"class": 3}')
    with pytest.raises(StoreError, match=r"damaged pick: '\{\"class\": 3\}'"):
        read_picks(stored(tmp_path, broken), CLASSES)


def test_confidence_is_the_most_probable_one_of_a_plain_search():
    shares, labels = picked(0.8).take(np.asarray([image_id(number) for number in range(240)], "S32")), TRUE

    def posterior(confidence: float) -> float:
        total = 7 * math.log(confidence + (1 - confidence) / 3) + 3 * math.log((1 - confidence) * 2 / 3)
        for row, label in zip(shares.tolist(), labels.tolist(), strict=True):
            total += math.log(confidence * row[label] + (1 - confidence * sum(row)) / 3)
        return total

    best = max(np.linspace(0.001, 0.999, 999), key=posterior)
    assert fit_confidence(shares, labels) == pytest.approx(best, abs=2e-3)
    alone = fit_confidence(shares[:0], labels[:0])
    assert np.exp(pick_log_probabilities(shares[:1], alone)).max() == pytest.approx(0.7, abs=1e-3)
    np.testing.assert_allclose(np.exp(pick_log_probabilities(shares, 0.6)).sum(axis=1), 1, atol=1e-6)


def label(tmp_path, given, picks, texts=None, name="text", **settings):
    images = make_table(given, CLASSES)
    store = make_store(images, texts or informative_texts(TRUE, CLASSES), tmp_path / f"words-{name}")
    encoders = settings.pop("encoders", [WordEncoder()])
    labels = label_by_texts(images, [store], tmp_path / name, encoders=encoders, picks=picks, **settings)
    return images, labels


def share_right(images, labels, rows=slice(None)) -> float:
    positions = labels.find(images.ids)
    answers = labels.take(positions).argmax(axis=1)
    return float(((answers == TRUE) & (positions >= 0))[rows].mean())


@pytest.mark.slow
def test_good_picks_make_up_for_texts_that_say_little_and_the_output_says_so(tmp_path):
    few = np.where(np.arange(240) < 30, TRUE, -1)
    vague = [f"w{number % 7} w{number % 11} number{number}" for number in range(240)]
    images, labels = label(tmp_path, few, picked(0.85), vague)
    assert share_right(images, labels, slice(30, None)) > 0.8
    estimate = labels.manifest.estimate
    assert "the LLM's picks" in estimate.method
    assert estimate.picked == 240
    assert estimate.picks.low < 0.85 < estimate.picks.high
    assert "the LLM itself picked a class for 240 images" in "\n".join(describe_text_labels(labels))


@pytest.mark.slow
def test_picks_that_know_nothing_do_no_harm(tmp_path):
    few = np.where(np.arange(240) < 60, TRUE, -1)
    images, labels = label(tmp_path, few, picked(1 / 3, seed=1))
    without = label(tmp_path, few, None, name="without")
    assert share_right(images, labels) > share_right(*without) - 0.02


@pytest.mark.slow
def test_picks_and_class_names_label_images_without_any_label(tmp_path):
    vague = [
        f"{CLASSES[row % 3]} w{row % 7} number{row}" if row % 2 else f"w{row % 7} number{row}" for row in range(240)
    ]
    images, labels = label(tmp_path, [-1] * 240, picked(0.8), vague)
    assert labels.manifest.estimate.method.startswith("the LLM's picks and a classifier fitted to them")
    alone = (picked(0.8).take(images.ids).argmax(axis=1) == TRUE).mean()
    assert share_right(images, labels) > alone + 0.02
    useless = label(tmp_path, [-1] * 240, picked(0.8), [f"w{row % 7} number{row}" for row in range(240)], "useless")
    assert share_right(*useless) > alone - 0.02


@pytest.mark.slow
def test_other_picks_make_other_labels_and_the_same_none(tmp_path):
    few = np.where(np.arange(240) < 30, TRUE, -1)
    _, first = label(tmp_path, few, picked(0.8))
    _, same = label(tmp_path, few, picked(0.8))
    assert first.manifest == same.manifest
    _, other = label(tmp_path, few, picked(0.8, seed=2))
    assert other.manifest.origin != first.manifest.origin


def test_picks_alone_are_the_labels_and_none_is_no_label(tmp_path):
    few = np.where(np.arange(240) % 8 == 7, TRUE, -1)
    images, picks = make_table(few, CLASSES), picked(0.8, none=10)
    labels = label_by_texts(images, (), tmp_path / "picks", picks=picks, kind="picks")
    positions = labels.find(images.ids)
    shares = picks.take(images.ids)
    assert (positions[:7] < 0).all()
    free = np.flatnonzero((few < 0) & (positions >= 0))
    np.testing.assert_array_equal(labels.take(positions[free]).argmax(axis=1), shares[free].argmax(axis=1))
    estimate = labels.manifest.estimate
    right = (shares.argmax(axis=1) == TRUE)[free].mean()
    assert estimate.accuracy.low < right < estimate.accuracy.high
    assert "the LLM's picks alone" in "\n".join(describe_text_labels(labels))
    assert json.loads(labels.layout.manifest.read_text())["origin"]["kind"] == "picks"


def test_picks_alone_replace_wrong_labels(tmp_path):
    wrong = np.random.default_rng(3).random(240) < 0.4
    given = np.where(wrong, (TRUE + 1) % 3, TRUE)
    images = make_table(given, CLASSES)
    labels = label_by_texts(images, (), tmp_path / "picks", picks=picked(0.9), kind="picks")
    estimate = labels.manifest.estimate
    assert estimate.replaced
    assert estimate.wrong.low < wrong.mean() < estimate.wrong.high
    assert share_right(images, labels) > 0.85


def test_picks_alone_label_where_nothing_else_is_known(tmp_path):
    images = make_table([-1] * 240, CLASSES)
    labels = label_by_texts(images, (), tmp_path / "picks", picks=picked(0.8), kind="picks", form="soft")
    assert share_right(images, labels) == pytest.approx(0.8, abs=0.07)
    assert labels.take(labels.find(images.ids)).max() == pytest.approx(0.7, abs=0.01), "the stated default"


def test_images_with_a_pick_and_no_text_are_labelled_by_the_pick_alone(tmp_path):
    given, picks = np.where(np.arange(240) < 60, TRUE, -1), picked(0.8, none=3)
    silent = np.arange(240) % 4 == 0
    texts = [[] if none else text for none, text in zip(silent, informative_texts(TRUE, CLASSES), strict=True)]
    images, labels = label(tmp_path, given, picks, texts)
    positions, shares = labels.find(images.ids), picks.take(images.ids)
    assert np.flatnonzero(positions < 0).tolist() == [0], "neither a text nor a pick"
    free = silent & (given < 0)
    np.testing.assert_array_equal(labels.take(positions[free]).argmax(axis=1), shares[free].argmax(axis=1))
    assert share_right(images, labels, ~silent) > share_right(images, labels, silent) + 0.1
    estimate = labels.manifest.estimate
    assert (estimate.labelled, estimate.unlabelled) == (59, 180)
    assert estimate.accuracy.low < share_right(images, labels, given < 0) < estimate.accuracy.high
    assert "for images without a text, the LLM's picks alone" in estimate.method
