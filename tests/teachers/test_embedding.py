"""Teacher vectors: each image once, equal bytes after an interruption, looked up by id, read like those of texts."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from gpt4image import EmbeddingStore, embed_images, load_images, load_teacher
from gpt4image.core.errors import ConfigError, DataError, ImageError, StoreError
from gpt4image.core.files import ResumableArray
from gpt4image.train.guidance import is_text, vector_sources
from support.teacher_parts import CountingTeacher, kill_while_writing, pick, prepare, same_bytes, to_unit

CLOSE = {"atol": 2e-3, "rtol": 0}


@pytest.fixture(scope="module")
def teacher_store(images, resnet, tmp_path_factory):
    return embed_images(images, resnet, tmp_path_factory.mktemp("teacher") / "store", batch_size=3)


def test_vectors_are_found_by_image_id(images, resnet, teacher_store):
    train = images.split("train")
    vectors, known = teacher_store.lookup(images.ids)
    assert np.array_equal(np.flatnonzero(known), train)
    assert vectors[~known].abs().max() == 0
    expected = to_unit(resnet.predict(prepare(images, train, resnet.preparation.plain)))
    np.testing.assert_allclose(vectors[known], expected, **CLOSE)
    np.testing.assert_allclose(np.linalg.norm(vectors[known], axis=1), 1, atol=1e-3)
    assert teacher_store.vectors.dtype == np.float16
    assert pickle.loads(pickle.dumps(teacher_store)).width == resnet.width  # noqa: S301 - our own


def test_training_reads_the_vectors_beside_the_text(images, store, teacher_store):
    assert (is_text(store), is_text(teacher_store)) == (True, False)
    sources = vector_sources((store, teacher_store), concatenate=True)
    assert [source.width for source in sources] == [384, teacher_store.width]
    ids = images.ids[images.split("train")]
    taken = sources[1].take(sources[1].find(ids), "random", 0, np.arange(len(ids)))
    np.testing.assert_array_equal(taken, teacher_store.lookup(ids)[0])


def test_text_stores_without_kind_can_be_read(store, tmp_path):
    shutil.copytree(store.layout.folder, tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_text())
    assert manifest.pop("kind") == "text"
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest))
    assert EmbeddingStore(tmp_path / "old").manifest == store.manifest


def test_order_and_copies_do_not_change_the_vectors(images, resnet, teacher_store, tmp_path):
    order = np.random.default_rng(0).permutation(np.concatenate([np.arange(len(images)), images.split("train")[:7]]))
    counting = CountingTeacher(resnet)
    shuffled = embed_images(pick(images, order), counting, tmp_path / "store", batch_size=5)
    assert sum(counting.seen) == len(shuffled) == len(images.split("train"))
    assert shuffled.manifest.text_hash == teacher_store.manifest.text_hash
    np.testing.assert_allclose(shuffled.lookup(images.ids)[0], teacher_store.lookup(images.ids)[0], **CLOSE)


def test_workers_do_not_change_the_bytes_and_batches_hardly_the_vectors(images, resnet, tmp_path):
    stores = [
        embed_images(images, resnet, tmp_path / f"{batch}-{workers}", batch_size=batch, workers=workers, views=2)
        for batch, workers in ((4, 0), (4, 2), (1, 0), (64, 0))
    ]
    assert same_bytes(*stores[:2])
    for other in stores[2:]:
        assert other.manifest == stores[0].manifest
        np.testing.assert_array_equal(other._rows, stores[0]._rows)
        np.testing.assert_allclose(np.float32(other.vectors), np.float32(stores[0].vectors), **CLOSE)


def test_views_depend_on_seed_and_id_alone(images, resnet, teacher_store, tmp_path):
    train = images.split("train")
    store = embed_images(images, resnet, tmp_path / "store", views=3, seed=5, batch_size=4)
    assert (len(store), store.manifest.texts, store.manifest.distinct_texts) == (len(train), 60, 60)
    for place in (train[0], train[-1]):
        picture, own = images.image(int(place)), images.ids[place]
        chances = [np.random.default_rng([5, number, int(own, 16)]) for number in (1, 2)]
        shown = [resnet.preparation.plain(picture), *(resnet.preparation.view(picture, chance) for chance in chances)]
        vectors = store.all_vectors(store.find([own]))
        np.testing.assert_allclose(vectors, to_unit(resnet.predict(torch.stack(shown))), **CLOSE)
        assert np.abs(vectors[1] - vectors[2]).max() > 0.01
    assert (
        len({tuple(store.lookup(images.ids[train[:1]], "random", 0, epoch)[0][0].tolist()) for epoch in range(40)}) == 3
    )
    first = store.all_vectors(store.find(images.ids[train]))[::3]
    np.testing.assert_allclose(first, teacher_store.lookup(images.ids[train])[0], **CLOSE)


def test_only_new_images_and_views_are_computed(images, resnet, tmp_path):
    train, counting = images.split("train"), CountingTeacher(resnet)

    def seen(table, **options) -> tuple[EmbeddingStore, int]:
        counting.seen.clear()
        return embed_images(table, counting, tmp_path / "store", batch_size=4, **options), sum(counting.seen)

    few, count = seen(pick(images, train[5:]))
    assert count == len(few) == 15
    grown, count = seen(images)
    assert (count, len(grown)) == (5, 20)
    np.testing.assert_array_equal(grown.lookup(images.ids[train[5:]])[0], few.lookup(images.ids[train[5:]])[0])
    np.testing.assert_allclose(
        grown.lookup(images.ids[train[:5]])[0],
        to_unit(resnet.predict(prepare(images, train[:5], resnet.preparation.plain))),
        **CLOSE,
    )
    assert seen(images)[1] == 0
    both, count = seen(images, splits=("train", "test"))
    assert count == 9
    np.testing.assert_array_equal(both.lookup(images.ids[train])[0], grown.lookup(images.ids[train])[0])
    views, count = seen(images, views=2)
    assert (count, views.manifest.texts) == (20, 40)
    assert seen(images, views=2)[1] == 0
    assert seen(images, views=2, seed=1)[1] == 20


def test_other_weights_under_the_same_name_are_computed_again(images, resnet, tmp_path):
    counting = CountingTeacher(resnet)
    embed_images(images, counting, tmp_path / "store")
    counting.revision = "other"
    embed_images(images, counting, tmp_path / "store")
    assert sum(counting.seen) == 40


@pytest.mark.parametrize("damage", ["manifest.json", "vectors.npy", "ids.npy", "offsets.npy", "rows.npy"])
def test_damaged_store_is_an_error_and_is_computed_again(images, resnet, teacher_store, tmp_path, damage):
    shutil.copytree(teacher_store.layout.folder, tmp_path / "store")
    (tmp_path / "store" / damage).write_bytes(b"{")
    with pytest.raises(StoreError, match=r"[Dd]elete"):
        EmbeddingStore(tmp_path / "store")
    assert same_bytes(embed_images(images, resnet, tmp_path / "store", batch_size=3), teacher_store)


@pytest.fixture
def own_set(image_set, tmp_path):
    """A copy of the images of which one was truncated and one replaced after they were listed."""
    folder = tmp_path / "set"
    shutil.copytree(image_set, folder)
    table = load_images(folder, validation_share=0.2, test_share=0.25)
    cut, other, *_ = (folder / table.path(int(place)) for place in table.split("train"))
    cut.write_bytes(cut.read_bytes()[:100])
    shutil.copy(folder / table.path(int(table.split("test")[0])), other)
    return table


def test_unreadable_images_are_skipped_with_a_warning_or_stop_the_work(own_set, images, resnet, tmp_path, capsys):
    train, counting = own_set.split("train"), CountingTeacher(resnet)
    with pytest.raises(ImageError, match=r"has changed since the images were listed.*on_bad_image to skip"):
        embed_images(own_set, resnet, tmp_path / "strict", on_bad_image="fail")

    partial = embed_images(own_set, counting, tmp_path / "store", views=2, batch_size=3)
    assert "left out: 2 images that cannot be read, such as " in " ".join(capsys.readouterr().err.split())
    assert (len(partial), partial.manifest.texts, sum(counting.seen)) == (18, 36, 36)
    assert partial.find(own_set.ids[train[:2]]).tolist() == [-1, -1]
    assert (partial.find(own_set.ids[train[2:]]) >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(partial.all_vectors(np.arange(18)), axis=1), 1, atol=1e-3)

    counting.seen.clear()
    whole = embed_images(images, counting, tmp_path / "store", views=2, batch_size=3)
    assert (sum(counting.seen), len(whole)) == (4, 20)
    direct = embed_images(images, resnet, tmp_path / "direct", views=2, batch_size=3)
    np.testing.assert_allclose(whole.lookup(images.ids)[0], direct.lookup(images.ids)[0], **CLOSE)
    with pytest.raises(ImageError, match="None of the images can be read, such as"):
        embed_images(pick(own_set, train[:2]), resnet, tmp_path / "none")


def test_invalid_settings_are_rejected(images, resnet, run_teacher, tmp_path):
    def refused(message, error=ConfigError, table=images, teacher=resnet, **options):
        with pytest.raises(error, match=message):
            embed_images(table, teacher, tmp_path / "store", **options)

    refused("Views must be 1 or more", views=0)
    refused("seed 0 or more", seed=-1)
    refused("batch_size must be 1 or more", batch_size=0)
    refused("splits must be some of train, validation, test, not training", splits=("training",))
    refused("splits must be", splits=())
    refused("has no images in train", DataError, pick(images, images.split("test")))
    refused("gives logits, not features: label_images", teacher=run_teacher)
    for value, message in ((np.nan, "not finite"), (0.0, "features that are zero")):
        broken = CountingTeacher(resnet)
        broken.predict = lambda shown, value=value: np.full((len(shown), resnet.width), value, np.float32)
        refused(message, teacher=broken)


@pytest.mark.slow
@pytest.mark.parametrize(("after", "workers", "left"), [(0, 0, 40), (3, 0, 16), (2, 1, 24), (-1, 0, 0)])
def test_killed_embedding_resumes_and_ends_in_the_same_bytes(
    images, image_set, resnet, resnet_weights, tmp_path, after, workers, left
):
    folder, counting = tmp_path / "store", CountingTeacher(resnet)
    teacher = {"name": "timm:test_resnet", "device": "cpu", "checkpoint": resnet_weights, "image_size": 32}
    kill_while_writing(embed_images, after, image_set, teacher, folder, batch_size=1, views=2, workers=workers)
    assert not folder.exists()
    resumed = embed_images(images, counting, folder, batch_size=1, views=2)
    assert sum(counting.seen) == left
    assert same_bytes(resumed, embed_images(images, resnet, tmp_path / "whole", batch_size=1, views=2))
    assert {path.name for path in tmp_path.iterdir()} == {"store", "store.lock", "whole", "whole.lock"}


def test_interrupted_work_on_other_images_is_discarded(images, resnet, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    train = images.split("train")
    some, others = pick(images, train[3:]), pick(images, train[:-3])
    with monkeypatch.context() as patch:
        patch.setattr(ResumableArray, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_images(some, resnet, tmp_path / "store")
    again = embed_images(others, resnet, tmp_path / "store")
    assert same_bytes(again, embed_images(others, resnet, tmp_path / "whole"))


def test_clip_vectors_can_be_stored(images, clip_name, tmp_path):
    teacher = load_teacher(clip_name, "cpu")
    store = embed_images(images, teacher, tmp_path / "store")
    expected = teacher.predict(prepare(images, images.split("train"), teacher.preparation.plain))
    np.testing.assert_allclose(store.lookup(images.ids[images.split("train")])[0], to_unit(expected), **CLOSE)
