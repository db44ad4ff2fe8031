"""The texts of a store as a description set: all of them, or those of some prompts and models."""

from dataclasses import replace

import numpy as np
import pytest

from gpt4image.core.errors import ConfigError, DescriptionError
from gpt4image.core.files import digest
from gpt4image.descriptions.description_set import described_set
from gpt4image.descriptions.store import DescriptionStore
from support.stored import ask, fill


@pytest.fixture(scope="module")
def work(images, tmp_path_factory):
    """Two prompts of one model, two samples of another."""
    return fill(tmp_path_factory.mktemp("work"), images, ask("m/1"), ask("m2", ["plain"], samples=2))


def texts_of(found) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for image_id, text in found.pairs():
        texts.setdefault(image_id, []).append(text)
    return texts


def test_described_set_sorts_the_texts_of_an_image(work, images, monkeypatch):
    monkeypatch.setattr("gpt4image.descriptions.description_set.PAIRS_AT_ONCE", 7)
    found = described_set(work, images)
    expected: dict[str, list[str]] = {}
    for record in work.current():
        expected.setdefault(record.image_id, []).append(record.text)
    assert texts_of(found) == expected
    assert {len(texts) for texts in expected.values()} == {4}
    assert (found.texts, len(found)) == (144, 36)
    assert found.source == f"descriptions of {work.folder.parent}"


@pytest.mark.parametrize(
    ("choice", "starts"),
    [
        ({"prompts": ["questions"]}, ["questions 0 of m/1"]),
        ({"models": ["m2"]}, ["plain 0 of m2", "plain 1 of m2"]),
        ({"prompts": ["plain"], "models": ["m/1"]}, ["plain 0 of m/1"]),
        ({"prompts": ["questions", "plain"], "models": ["m/1"]}, ["plain 0 of m/1", "questions 0 of m/1"]),
        ({"prompts": ["questions"], "models": ["m2"]}, []),
    ],
)
def test_described_set_filters_by_prompt_and_model(work, images, choice, starts):
    found = texts_of(described_set(work, images, **choice))
    assert len(found) == (36 if starts else 0)
    assert all([text.split("\n")[0] for text in texts] == starts for texts in found.values())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"prompts": ["plane"]}, r"Unknown prompt 'plane'\. Did you mean 'plain'\? Known: plain, questions\."),
        ({"models": ["m2", "gpt"]}, r"Unknown model 'gpt'\..*Known: m/1, m2\."),
    ],
)
def test_unknown_prompt_or_model_lists_the_known_ones(work, images, choice, message):
    with pytest.raises(ConfigError, match=message):
        described_set(work, images, **choice)


def test_failures_dropped_and_superseded_texts_are_left_out(images, tmp_path):
    store = fill(tmp_path, images, ask("m", ["plain"]))
    first, second, third, *_ = store.current()
    store.mark([first.key], "drop", "refusal")
    with store.writer() as writer:
        writer.write(replace(second, text="newer", created="2026-05-01T00:00:00.000000+00:00"))
        writer.write(replace(third, key=digest("x"), prompt="questions", text="half", error="time limit"))
    found = texts_of(described_set(store, images))
    assert first.image_id not in found
    assert found[second.image_id] == ["newer"]
    assert found[third.image_id] == [third.text]
    with pytest.raises(ConfigError, match=r"Known: plain\."):
        described_set(store, images, prompts=["questions"])


def test_texts_of_unknown_images_count_as_orphans(work, images):
    fewer = replace(images, rows=images.rows.take(np.arange(30)))
    found = described_set(work, fewer, models=["m2"])
    assert (len(found), found.coverage.orphans) == (30, 12)
    assert sum(found.coverage.with_text.values()) == 30


def test_empty_store_is_an_error(images, tmp_path):
    with pytest.raises(DescriptionError, match="holds no descriptions"):
        described_set(DescriptionStore(tmp_path / "descriptions"), images)
