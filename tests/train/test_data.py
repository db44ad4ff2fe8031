"""Batches do not depend on workers, processes or resumption, and hold the right text beside each image."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpt4image import embed_descriptions, train_model
from gpt4image.descriptions.description_set import join_texts
from gpt4image.train.backbone import build_backbone
from gpt4image.train.data import (
    Batch,
    BatchPart,
    EpochBatches,
    ImageInputs,
    LabelledInputs,
    ShareInOrder,
    fitting_batch_size,
    labelled_rows,
    make_loader,
    training_rows,
)
from gpt4image.train.guidance import Guidance, vector_sources
from gpt4image.train.transforms import augmented_view, preprocessing
from support.training import observe, same_weights


def flat(batch):
    return [batch.inputs, batch.labels, *batch.vectors, *batch.known, *batch[4:]]


def one_epoch(images, store, recipe, workers, epoch=1, start=0, share=(0, 1)):
    rows = labelled_rows(images, "train")
    config = preprocessing(build_backbone(recipe, 3), recipe.image_size)
    inputs = ImageInputs(images, rows, augmented_view(recipe, config), seed=5)
    guidance = Guidance(vector_sources([store], concatenate=False), texts=recipe.texts, seed=5)
    dataset = LabelledInputs(inputs, images, rows, guidance)
    batches = EpochBatches(len(rows), 8, 5, *share)
    batches.epoch, batches.start = epoch, start
    return list(make_loader(dataset, batches, workers))


def test_batches_do_not_depend_on_workers_or_resumption(images, several_store, small_recipe):
    recipe = small_recipe(color_jitter=0.4, auto_augment="rand-m9", random_erase=0.5)
    alone, helped = one_epoch(images, several_store, recipe, 0), one_epoch(images, several_store, recipe, 2)
    resumed = one_epoch(images, several_store, recipe, 0, start=1)
    assert len(alone) == len(helped) == len(resumed) + 1
    for expected, found in [*zip(alone, helped, strict=True), *zip(alone[1:], resumed, strict=True)]:
        for one, other in zip(flat(expected), flat(found), strict=True):
            assert one is other is None or torch.equal(one, other)
    other_epoch = one_epoch(images, several_store, recipe, 0, epoch=2)
    assert not torch.equal(alone[0].inputs, other_epoch[0].inputs)


def text_by_row(batches):
    return {int(row): text for batch in batches for row, text in zip(batch.rows, batch.vectors[0], strict=True)}


def test_worker_sends_small_tensors_without_shared_memory():
    small, large = torch.arange(3), torch.zeros(2, 3, 128, 128, dtype=torch.uint8)
    brain = torch.ones(4, dtype=torch.bfloat16)
    sent = Batch(large, small, (small * 2, brain), (), torch.zeros(3, 0), small, small, torch.tensor(2.5), None, small)
    _, parts = sent.__reduce__()
    shared = [part.dtype for part in (*parts[:2], *parts[2], *parts[4:8]) if isinstance(part, torch.Tensor)]
    assert shared == [torch.uint8, torch.bfloat16]
    received = deepcopy(sent)  # by the same call as pickle
    assert type(received) is Batch and received.strong is None and received.vectors[1].dtype == torch.bfloat16
    for field in ("inputs", "labels", "soft", "counts", "free"):
        assert torch.equal(getattr(received, field), getattr(sent, field))
        assert getattr(received, field).dtype == getattr(sent, field).dtype
    received.labels[0] = 7  # writable


def test_text_draws_depend_on_epoch_but_not_on_process(images, several_store, small_recipe):
    recipe = small_recipe()
    alone = text_by_row(one_epoch(images, several_store, recipe, 0))
    shared = [text_by_row(one_epoch(images, several_store, recipe, p, share=(p, 2))) for p in range(2)]
    assert shared[0].keys().isdisjoint(shared[1])
    together = shared[0] | shared[1]
    assert together.keys() == alone.keys()
    assert all(torch.equal(alone[row], together[row]) for row in alone)

    later = text_by_row(one_epoch(images, several_store, recipe, 0, epoch=2))
    both = alone.keys() & later.keys()
    changed = sum(not torch.equal(alone[row], later[row]) for row in both)
    assert 0 < changed < len(both)


def test_each_image_has_its_own_text_and_label(images, store, descriptions, small_recipe):
    texts = dict(descriptions.pairs())
    for batch in one_epoch(images, store, small_recipe(), 0):
        columns = batch.rows, batch.labels, batch.vectors[0], batch.known[0]
        for row, label, vector, has_text in zip(*columns, strict=True):
            image_id = images.ids[row].decode()
            assert images.path(int(row)).startswith(images.classes[label])
            assert images.classes[label] in texts[image_id]
            assert has_text
            assert torch.equal(vector, store.lookup([image_id])[0][0])


def test_images_without_text_are_marked(images, descriptions, minilm, tmp_path, small_recipe):
    pairs = list(descriptions.pairs())[::2]
    store = embed_descriptions(join_texts(images, pairs, 0, "half"), minilm, tmp_path / "half")
    known = {image_id for image_id, _ in pairs}
    for batch in one_epoch(images, store, small_recipe(), 0):
        expected = [images.ids[row].decode() in known for row in batch.rows]
        assert batch.known[0].tolist() == expected
        assert batch.vectors[0][~batch.known[0]].abs().sum() == 0
        assert batch.counts.tolist() == [8, 0, sum(expected)]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batches_of_a_single_process(processes):
    def epoch(process, count):
        return list(EpochBatches(30, 8, 3, process, count))

    shares = [epoch(process, processes) for process in range(processes)]
    for number, batch in enumerate(epoch(0, 1)):
        together = [key for share in shares for key in share[number].keys]
        assert sorted(together) == sorted(batch.keys)
        assert {len(share[number].keys) for share in shares} == {8 // processes}
        assert all(np.array_equal(share[number].whole, batch.whole) for share in shares)
    in_order = [key for p in range(processes) for batch in ShareInOrder(11, 2, p, processes) for key in batch.keys]
    assert sorted(position for _, position in in_order) == list(range(11))


def test_every_epoch_shows_each_image_once_in_a_new_order():
    batches = EpochBatches(24, 8, seed=0)
    first = [position for batch in batches for _, position in batch.keys]
    batches.epoch = 1
    second = [position for batch in batches for _, position in batch.keys]
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    assert np.array_equal(first, [p for batch in EpochBatches(24, 8, seed=0) for _, p in batch.keys])


def test_parts_of_a_step_hold_the_positions_of_the_whole_step():
    whole = list(EpochBatches(30, 8, seed=3))
    parts = list(EpochBatches(30, 8, seed=3, parts=4))
    assert len(parts) == 4 * len(whole)
    for number, part in enumerate(parts):
        step = whole[number // 4]
        assert part.keys == step.keys[number % 4 * 2 :][:2]
        assert np.array_equal(part.whole, [position for _, position in step.keys])
        assert part.parts == 4


def test_repeated_images_are_adjacent_and_drawn_separately():
    batches = EpochBatches(24, 8, seed=0, repeats=3)
    seen = []
    for epoch in range(2):
        batches.epoch = epoch
        keys = [key for batch in batches for key in batch.keys]
        assert len(keys) == 24
        assert len({position for _, position in keys}) == 8
        for first in range(0, 24, 3):
            assert len({position for _, position in keys[first : first + 3]}) == 1
        seen += keys
    assert len(set(seen)) == 48


def test_batch_size_shrinks_to_small_image_sets():
    assert fitting_batch_size(64, 1, 100) == 64
    assert fitting_batch_size(64, 1, 11) == 10


def test_repeated_images_draw_separate_texts(images, several_store, small_recipe):
    recipe = small_recipe()
    rows = images.split("train")
    view = augmented_view(recipe, preprocessing(build_backbone(recipe, 3), 32))
    guidance = Guidance(vector_sources([several_store], concatenate=False))
    data = LabelledInputs(ImageInputs(images, rows, view), images, rows, guidance)
    batch = data[BatchPart([(draw, position) for position in range(len(rows)) for draw in range(3)])]
    assert batch.ids.unique(return_counts=True)[1].tolist() == [3] * len(rows)
    for draw in range(3):
        expected = several_store.lookup(images.ids[rows], "random", epoch=draw)[0]
        assert torch.equal(batch.vectors[0][draw::3], expected)
    assert not torch.equal(batch.inputs[0], batch.inputs[1])


@pytest.mark.slow
def test_weights_do_not_depend_on_loader_workers(images, several_store, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, mixup=0.4, drop_path=0.3)
    runs = [train_model(images, several_store, recipe, tmp_path / str(n), workers=n) for n in (0, 2)]
    assert same_weights(*(run.layout.weights for run in runs))


def test_unlabelled_images_train_on_their_alignment(half_labelled, store, small_recipe, tmp_path, monkeypatch):
    images = half_labelled
    in_train = images.split("train")
    unlabelled = set(in_train[images.labels[in_train] < 0].tolist())
    assert len(unlabelled) == len(in_train) // 2 > 4
    batches = observe(monkeypatch, lambda *arguments: arguments[2])
    recipe = small_recipe(epochs=1, unlabelled="align", batch_size=6)
    train_model(images, store, recipe, tmp_path / "run")
    met = {int(row) for batch in batches for row in batch.rows}
    assert met & unlabelled and met - unlabelled
    for batch in batches:
        without = torch.tensor([int(row) in unlabelled for row in batch.rows])
        assert batch.labels[without].tolist() == [-1] * int(without.sum())
        assert batch.counts.tolist() == [6 - int(without.sum()), 0, 6]
    batches.clear()
    train_model(images, store, replace(recipe, unlabelled="skip"), tmp_path / "skip")
    train_model(images, None, recipe, tmp_path / "baseline", arm="baseline")
    assert not {int(row) for batch in batches for row in batch.rows} & unlabelled


def test_images_without_label_and_text_are_skipped(half_labelled, descriptions, minilm, tmp_path):
    images = half_labelled
    in_train = images.split("train")
    unlabelled = in_train[images.labels[in_train] < 0]
    chosen = {images.ids[row].decode() for row in unlabelled[:2]}
    texts = [pair for pair in descriptions.pairs() if pair[0] in chosen]
    few = embed_descriptions(join_texts(images, texts, 0, "few"), minilm, tmp_path / "few")
    guidance = Guidance(vector_sources([few], concatenate=False))
    rows = training_rows(images, guidance, unlabelled=True)
    assert set(rows) == set(in_train[images.labels[in_train] >= 0]) | set(unlabelled[:2])
