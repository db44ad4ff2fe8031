"""The embedding store finds vectors by image id and chooses among several texts."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from gpt4image import EmbeddingStore, embed_descriptions
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import digest
from gpt4image.embed.store import draw_below
from support.texts import described


def test_lookup_finds_vectors_by_image_id(images, descriptions, store, minilm):
    vectors, has_text = store.lookup(images.ids)
    assert has_text.all()
    expected = minilm.encode(descriptions.texts_of(images.rows["id"].to_pylist()))
    torch.testing.assert_close(vectors, torch.from_numpy(expected), atol=2e-3, rtol=0)

    vectors, has_text = store.lookup([images.ids[3], b"f" * 32, images.ids[3].decode()])
    assert has_text.tolist() == [True, False, True]
    assert vectors[1].abs().max() == 0
    assert torch.equal(vectors[0], vectors[2])


def test_store_opens_as_memory_map_and_pickles_as_its_path(store):
    assert isinstance(store.vectors, np.memmap)
    assert store.vectors.dtype == np.float16
    content = pickle.dumps(store)
    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content).vectors, store.vectors)  # noqa: S301 - pickled above


def test_check_rejects_other_descriptions(images, descriptions, store):
    store.check(descriptions)
    with pytest.raises(StoreError, match=r"made from other descriptions.*gpt4image embed"):
        store.check(described(images, ["another text"]))


@pytest.mark.parametrize("content", [b"{", b""])
@pytest.mark.parametrize("damage", ["manifest.json", "vectors.npy", "offsets.npy", "rows.npy"])
def test_damaged_store_error_names_the_fix(images, minilm, tmp_path, damage, content):
    store = embed_descriptions(described(images, ["a", "b"]), minilm, tmp_path / "store")
    (store.layout.folder / damage).write_bytes(content)
    with pytest.raises(StoreError, match=r"[Dd]elete"):
        EmbeddingStore(store.layout.folder)
    with pytest.raises(StoreError, match="no complete embeddings"):
        EmbeddingStore(tmp_path)


@pytest.fixture(scope="module")
def vectors_of(several_store, several_descriptions):
    """Vectors [n, D] of each image's texts by image id, found by the hash of the text."""
    hashes = np.load(several_store.layout.texts).tolist()
    found = {}
    for image_id, text in several_descriptions.pairs():
        vector = several_store.vectors[hashes.index(digest(text).encode())]
        found.setdefault(image_id, []).append(vector.astype(np.float64))
    return found


def some_ids(count):
    return np.asarray([digest(str(number)) for number in range(count)], dtype="S32")


def test_manifest_counts_images_and_texts(several_store, several_descriptions):
    manifest = several_store.manifest
    assert (manifest.images, manifest.texts, manifest.distinct_texts) == (36, 72, 72)
    assert (len(several_store), len(several_descriptions), several_descriptions.texts) == (36, 36, 72)
    several_store.check(several_descriptions)


def test_mean_matches_a_plain_loop(images, several_store, vectors_of):
    found, has_text = several_store.lookup(images.ids)
    assert has_text.all()
    for image_id, vector in zip(images.ids, found.numpy(), strict=True):
        own = vectors_of[image_id.decode()]
        total = np.zeros(several_store.width)
        for other in own:
            total += other
        expected = own[0] if len(own) == 1 else total / np.sqrt((total**2).sum())
        if len(own) == 1:
            assert np.array_equal(vector, expected.astype(np.float32))
        np.testing.assert_allclose(vector, expected, atol=1e-7)


@pytest.mark.parametrize("choose", ["mean", "random"])
def test_vector_does_not_depend_on_the_batch(images, several_store, choose):
    ids = images.ids
    found, _ = several_store.lookup(ids, choose, seed=4, epoch=7)
    shuffled = np.random.default_rng(0).permutation(len(ids))
    assert torch.equal(several_store.lookup(ids[shuffled], choose, seed=4, epoch=7)[0], found[shuffled])
    for image_id, vector in zip(ids, found, strict=True):
        alone, has_text = several_store.lookup([b"f" * 32, image_id], choose, seed=4, epoch=7)
        assert torch.equal(alone[1], vector)
        assert has_text.tolist() == [False, True]
        assert alone[0].abs().max() == 0
    assert [part.shape for part in several_store.lookup([], choose)] == [(0, several_store.width), (0,)]


def test_random_draws_every_text_and_nothing_else(images, several_store, vectors_of):
    drawn = [several_store.lookup(images.ids, "random", seed=1, epoch=epoch)[0].numpy() for epoch in range(40)]
    for image_id, vectors in zip(images.ids, np.stack(drawn, axis=1), strict=True):
        own = np.asarray(vectors_of[image_id.decode()], dtype=np.float32)
        assert {vector.tobytes() for vector in vectors} == {vector.tobytes() for vector in own}


def test_single_text_returns_its_stored_vector(images, store):
    expected = store.vectors[np.load(store.layout.rows)[store.find(images.ids)]].astype(np.float32)
    for choose in ("mean", "random"):
        assert np.array_equal(store.lookup(images.ids, choose, seed=2, epoch=3)[0].numpy(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("over", ["images", "epochs", "seeds"])
def test_draws_are_uniform_and_independent(count, over):
    draws, counts, one = 20_000, np.full(20_000, count), some_ids(1)
    if over == "images":
        first, second = (draw_below(counts, some_ids(draws), seed=0, epoch=epoch) for epoch in (0, 1))
    else:
        keys = [{"seed": 0, "epoch": 0} | {over[:-1]: number} for number in range(draws)]
        first = np.concatenate([draw_below(counts[:1], one, **key) for key in keys])
        second = np.roll(first, 1)
    assert (first.min(), first.max()) == (0, count - 1)
    pairs = np.bincount(first * count + second, minlength=count**2)
    assert chisquare(np.bincount(first)).pvalue > 1e-3
    assert chisquare(pairs).pvalue > 1e-3


def test_draws_match_a_plain_loop():
    """SplitMix64 over seed, epoch and the id's four words. With other draws no unfinished run would resume exactly."""

    def drawn(count, image_id, seed, epoch):
        hashed = 0
        for word in (seed, epoch, *(int.from_bytes(image_id[at : at + 8], "little") for at in (0, 8, 16, 24))):
            hashed = ((hashed ^ word) + 0x9E3779B97F4A7C15) % 2**64
            hashed = (hashed ^ hashed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            hashed = (hashed ^ hashed >> 27) * 0x94D049BB133111EB % 2**64
            hashed ^= hashed >> 31
        return (hashed >> 32) * count >> 32

    counts = np.asarray([1, 2, 3, 5, 10, 1000, 2**31, 2**32 - 1])
    expected = [drawn(int(n), i, 5, 11) for n, i in zip(counts, some_ids(8).tolist(), strict=True)]
    assert draw_below(counts, some_ids(8), seed=5, epoch=11).tolist() == expected
    assert expected[:6] == [0, 0, 1, 4, 2, 775]


def test_draws_depend_on_every_word_of_an_id():
    ids = [b"a" * 32, *(b"a" * at + b"b" + b"a" * (31 - at) for at in range(32))]
    drawn = draw_below(np.full(33, 2**31), np.asarray(ids, dtype="S32"), seed=0, epoch=0)
    assert len(set(drawn.tolist())) == 33


def test_unknown_choice_of_texts_lists_the_known_ones(images, store):
    with pytest.raises(ConfigError, match=r"Unknown choice of texts 'randon'\. Did you mean 'random'"):
        store.lookup(images.ids, "randon")


def test_store_in_an_older_format_is_rejected_and_rebuilt(images, descriptions, store, minilm, tmp_path):
    """Stores of one text an image had no offsets, and no count of texts."""
    folder = tmp_path / "store"
    shutil.copytree(store.layout.folder, folder)
    (folder / "offsets.npy").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["texts"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"does not match this version.*Delete .* and embed again"):
        EmbeddingStore(folder)
    again = embed_descriptions(descriptions, minilm, folder)
    assert torch.equal(again.lookup(images.ids)[0], store.lookup(images.ids)[0])


def test_index_that_does_not_match_the_manifest_is_rejected(several_store, tmp_path):
    shutil.copytree(several_store.layout.folder, tmp_path / "store")
    for name in ("ids", "offsets", "rows"):
        path = tmp_path / "store" / f"{name}.npy"
        whole = np.load(path)
        np.save(path, whole[:-1])
        with pytest.raises(StoreError, match="does not match its manifest"):
            EmbeddingStore(tmp_path / "store")
        np.save(path, whole)
    assert len(EmbeddingStore(tmp_path / "store")) == 36
