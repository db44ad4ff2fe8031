"""Control texts: what changes with the seed, what stays, and what is encoded again."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from gpt4image.core.errors import DescriptionError
from gpt4image.core.options import SimulationOptions
from gpt4image.embed.controls import control_texts, embed_control
from gpt4image.images.simulate import simulate_labels

NAMES = ["a circle", "a square", "a star"]


def texts_by_id(descriptions):
    found = defaultdict(list)
    for image_id, text in descriptions.pairs():
        found[image_id].append(text)
    return dict(found)


def groups_of(images, by_label):
    """Ids of each split, or of each label in each split."""
    found = defaultdict(set)
    columns = (images.rows[name].to_pylist() for name in ("id", "label", "split"))
    for image_id, label, split in zip(*columns, strict=True):
        found[(split, label) if by_label else split].add(image_id)
    return found.values()


@pytest.mark.parametrize("kind", ["shuffled", "shuffled-within-class"])
def test_shuffled_texts_stay_together_and_in_their_group(kind, images, several_descriptions):
    before = texts_by_id(several_descriptions)
    after = texts_by_id(control_texts(kind, several_descriptions, images, NAMES, 0))
    assert before.keys() == after.keys() and before != after
    for ids in groups_of(images, by_label=kind == "shuffled-within-class"):
        dealt, own = ([tuple(each[i]) for i in sorted(ids) if i in each] for each in (after, before))
        assert Counter(dealt) == Counter(own)


def test_texts_shuffled_among_all_images_leave_their_class(images, descriptions):
    labels = dict(zip(images.rows["id"].to_pylist(), images.rows["label"].to_pylist(), strict=True))
    label_of = {text: labels[image_id] for image_id, text in descriptions.pairs()}
    after = control_texts("shuffled", descriptions, images, NAMES, 0)
    assert any(label_of[text] != labels[image_id] for image_id, text in after.pairs())


def test_random_words_have_the_lengths_and_the_vocabulary_of_the_texts(images, several_descriptions):
    words = {word for _, text in several_descriptions.pairs() for word in text.split()}
    before = texts_by_id(several_descriptions)
    after = texts_by_id(control_texts("random-words", several_descriptions, images, NAMES, 0))
    assert {i: [len(t.split()) for t in texts] for i, texts in before.items()} == {
        i: [len(t.split()) for t in texts] for i, texts in after.items()
    }
    assert {word for texts in after.values() for text in texts for word in text.split()} <= words


def test_class_names_are_those_of_the_labels_that_a_run_has(images, descriptions):
    few = simulate_labels(images, SimulationOptions(labels_per_class=2), 0)
    found = texts_by_id(control_texts("class-name", descriptions, few, NAMES, 0))
    labels = dict(zip(few.rows["id"].to_pylist(), few.rows["label"].to_pylist(), strict=True))
    described = {image_id for image_id, _ in descriptions.pairs()}
    assert found == {i: [NAMES[label]] for i, label in labels.items() if label >= 0 and i in described}
    none = simulate_labels(images, SimulationOptions(labels_per_class=0), 0)
    trained = set(none.rows.filter(np.array(none.rows["split"].to_pylist()) == "train")["id"].to_pylist())
    assert not trained & texts_by_id(control_texts("class-name", descriptions, none, NAMES, 0)).keys()


@pytest.mark.parametrize("kind", ["shuffled", "shuffled-within-class", "random-words", "random-vectors"])
def test_each_seed_draws_anew_and_the_same_seed_the_same(kind, images, descriptions, store, minilm, tmp_path):
    def embed(folder, seed):
        return embed_control(
            kind, store, descriptions, images, NAMES, lambda: minilm, tmp_path / folder, seed=seed, batch_size=8
        )

    first, again, other = embed("a", 0), embed("b", 0), embed("c", 1)
    assert len({each.manifest.text_hash for each in (store, first, other)}) == 3
    assert first.manifest == again.manifest and np.array_equal(first.vectors, again.vectors)
    assert len(first) == len(store) and first.width == store.width and first.manifest.encoder == "minilm"
    lengths = np.linalg.norm(first.vectors.astype(float), axis=1)
    assert lengths == pytest.approx(np.ones(len(lengths)), abs=1e-3)


def test_shuffled_vectors_are_copied_and_finished_ones_need_no_encoder(
    images, descriptions, store, minilm, tmp_path, monkeypatch
):
    monkeypatch.setattr(type(minilm), "encode", lambda *_: pytest.fail("encoded a known text"))
    settings = (store, descriptions, images, NAMES)
    found = embed_control("shuffled", *settings, lambda: minilm, tmp_path / "s", seed=0)
    own, shuffled = texts_by_id(descriptions), texts_by_id(control_texts("shuffled", descriptions, images, NAMES, 0))
    owner = {texts[0]: image_id for image_id, texts in own.items()}
    ids = list(shuffled)
    dealt = [owner[shuffled[image_id][0]] for image_id in ids]
    assert np.array_equal(found.take(found.find(ids)), store.take(store.find(dealt)))
    unused = embed_control("shuffled", *settings, lambda: pytest.fail("loaded"), tmp_path / "s", seed=0)
    assert unused.manifest == found.manifest


def test_random_vectors_are_independent_of_the_texts(images, descriptions, store, tmp_path):
    found = embed_control("random-vectors", store, descriptions, images, NAMES, lambda: None, tmp_path / "v", seed=0)
    vectors = found.take(np.arange(len(found)))
    assert np.abs(vectors @ vectors.T - np.eye(len(found))).max() < 6 / store.width**0.5


def test_class_names_without_labels_are_an_error(images, descriptions, store, minilm, tmp_path):
    from dataclasses import replace

    import pyarrow as pa

    none = pa.array([-1] * len(images), pa.int32())
    column = images.rows.schema.get_field_index("label")
    unlabelled = replace(images, rows=images.rows.set_column(column, "label", none))
    with pytest.raises(DescriptionError, match="no image with a description has a label"):
        embed_control("class-name", store, descriptions, unlabelled, NAMES, lambda: minilm, tmp_path / "c", seed=0)
