"""Batches with labelled and unlabelled images: shares, length of an epoch, draws, processes and resumption."""

import numpy as np
import pytest
import torch

from gpt4image.core.errors import TrainingError
from gpt4image.soft_labels import label_by_texts
from gpt4image.train.build import mixes_unlabelled, validation_targets
from gpt4image.train.data import training_rows
from gpt4image.train.guidance import Guidance
from gpt4image.train.mixed_batches import MixedBatches
from support.labelling_parts import make_store, make_table


def make(labelled=6, unlabelled=94, images=100, share=0.5, batch=20, **settings):
    return MixedBatches(
        np.arange(labelled), labelled + np.arange(unlabelled), images, share, batch_size=batch, seed=3, **settings
    )


def epochs(batches, count=1):
    found = []
    for epoch in range(count):
        batches.epoch = epoch
        found += list(batches)
    return found


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "share", "expected"),
    [(6, 94, 0.5, 10), (80, 20, 0.5, 16), (6, 0, 0.5, 20), (0, 94, 0.5, 0), (6, 94, 1.0, 20), (6, 94, 0.01, 1)],
)
def test_each_batch_holds_the_wanted_share_of_labelled_images(labelled, unlabelled, share, expected):
    parts = epochs(make(labelled, unlabelled, share=share))
    assert len(parts) == 5
    for part in parts:
        assert sum(position < labelled for _, position in part.keys) == expected
        assert len(part.keys) == 20


def test_every_arm_trains_for_the_steps_of_the_whole_training_set():
    assert len(make(6, 0)) == len(make(6, 94)) == len(make(6, 30)) == 5


def test_each_pass_over_the_images_is_another_draw_and_shows_each_once():
    keys = [key for part in epochs(make(), 6) for key in part.keys]
    assert len(keys) == len(set(keys))
    for draw in range(10):
        assert sorted(p for d, p in keys if d == draw and p < 6) == list(range(6))
    assert sorted(p for d, p in keys if d == 0 and p >= 6) == list(range(6, 100))


def test_repeated_augmentation_shows_copies_as_further_draws():
    part = epochs(make(repeats=2))[0]
    labelled = sorted(key for key in part.keys if key[1] < 6)
    assert len(labelled) == 10
    positions = [position for _, position in labelled]
    assert all(positions.count(position) == 2 for position in positions)
    assert {draw for draw, _ in labelled} == {0, 1}


def test_processes_and_parts_share_the_batches_of_a_single_process():
    whole = epochs(make())
    shares = [epochs(make(process=process, processes=2, parts=2)) for process in range(2)]
    assert len(shares[0]) == 2 * len(whole)
    for step, part in enumerate(whole):
        together = [key for share in shares for piece in share[2 * step : 2 * step + 2] for key in piece.keys]
        assert sorted(together) == sorted(part.keys)
        assert all(len(piece.keys) == 5 for share in shares for piece in share)
        assert np.array_equal(shares[0][2 * step].whole, part.whole)


def test_resumed_epoch_goes_on_as_the_whole_one():
    whole, resumed = make(), make()
    resumed.epoch = whole.epoch = 4
    resumed.start = 3
    assert [part.keys for part in whole][3:] == [part.keys for part in resumed]


@pytest.mark.slow
def test_text_labels_stand_in_for_missing_labels_and_for_wrong_ones_in_validation(tmp_path):
    generator = np.random.default_rng(0)
    true = np.arange(240) % 3
    given = np.where(generator.random(240) < 0.35, (true + 1) % 3, true)
    splits = np.where(np.arange(240) < 200, "train", "validation")
    images = make_table(given.tolist(), ["ant", "bee", "cow"], splits.tolist())
    texts = [f"{('ant', 'bee', 'cow')[label]} kind {row % 7} n{row}" for row, label in enumerate(true.tolist())]
    labels = label_by_texts(images, [make_store(images, texts, tmp_path / "words")], tmp_path / "text")
    rows = images.split("validation")
    plain = validation_targets(images, rows, Guidance())
    np.testing.assert_array_equal(plain, np.eye(3)[given[rows]])
    found = validation_targets(images, rows, Guidance(soft_labels=(labels,)))
    assert (found.argmax(axis=1) == true[rows]).mean() > (given == true)[rows].mean() + 0.2
    predictions = torch.from_numpy(true[rows])
    expected = sum(found[row, label] for row, label in enumerate(true[rows])) / len(rows)
    assert float(torch.from_numpy(found).gather(1, predictions[:, None]).mean()) == pytest.approx(expected)


def test_no_label_at_all_is_enough_with_labels_in_their_place(tmp_path):
    images = make_table([-1] * 30, ["ant", "bee"])
    with pytest.raises(TrainingError, match=r"No training image of .* has a label"):
        training_rows(images, Guidance(), unlabelled=True)

    class AllOfThem:
        def find(self, ids):
            return np.arange(len(ids))

    assert len(training_rows(images, Guidance(soft_labels=(AllOfThem(),)), unlabelled=True)) == 30


def test_unlabelled_images_mix_in_only_if_the_recipe_takes_them(half_labelled, images, small_recipe):
    assert mixes_unlabelled(half_labelled, small_recipe())
    assert not mixes_unlabelled(half_labelled, small_recipe(unlabelled="skip"))
    assert not mixes_unlabelled(images, small_recipe())
