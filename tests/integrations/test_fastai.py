"""Descriptions in a fastai training."""

from __future__ import annotations

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner
from fastai.data.core import DataLoaders
from fastai.data.transforms import get_image_files, parent_label
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import CategoryBlock, DataBlock, ImageBlock
from torch import nn
from torch.nn import CrossEntropyLoss

from gpt4image.core.errors import ConfigError
from gpt4image.integrations import text_labels, text_targets
from gpt4image.integrations.fastai import TextAlignmentCallback, TextLabelCallback


@pytest.fixture
def dls(image_set) -> DataLoaders:
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=Resize(16),
        batch_tfms=aug_transforms(size=16),
    )  # fmt: skip
    return block.dataloaders(image_set, bs=8, num_workers=0, device="cpu", seed=1)


@pytest.fixture
def targets(dls, store):
    return text_targets(dls.train_ds, store.layout.folder)


def make_learner(dls) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 24), nn.ReLU(), nn.Linear(24, 3))
    learner = Learner(dls, model, loss_func=CrossEntropyLoss())
    learner.logger = lambda *_: None
    return learner


def fit(learner: Learner, *callbacks, epochs=2) -> Learner:
    with learner.no_bar():
        learner.fit(epochs, lr=1e-2, cbs=callbacks)
    return learner


def test_alignment_is_added_and_its_projector_trained(dls, targets):
    callback = TextAlignmentCallback(targets, weight=0.5)
    learner = fit(make_learner(dls), callback, epochs=1)
    first = {name: value.clone() for name, value in callback.alignment.state_dict().items()}
    fit(learner, callback, epochs=1)  # as fine_tune does: fit twice
    assert not torch.equal(first["head.projector.0.weight"], callback.alignment.state_dict()["head.projector.0.weight"])
    assert all(torch.isfinite(torch.as_tensor(row[0])) for row in learner.recorder.values)


def test_every_sample_meets_its_own_text(dls, targets):
    items = list(dls.train_ds.items)
    seen = []

    class Watch(TextAlignmentCallback):
        def after_loss(self):
            for position, label in zip(self._index.tolist(), self.learn.yb[0].tolist(), strict=True):
                seen.append((dls.vocab[label], items[position].parent.name))
            super().after_loss()

    fit(make_learner(dls), Watch(targets), epochs=1)
    assert seen and all(label == folder for label, folder in seen)


def test_learner_is_left_as_it_was(dls, targets, tmp_path):
    learner = fit(make_learner(dls), TextAlignmentCallback(targets))
    assert "do_item" not in vars(dls.train)
    assert not any(part._forward_pre_hooks for part in learner.model.modules())
    assert len(dls.train.one_batch()) == 2
    learner.path = tmp_path
    learner.export("model.pkl")
    assert (tmp_path / "model.pkl").exists()


def test_targets_of_another_set_are_refused(dls, image_set, store):
    callback = TextAlignmentCallback(text_targets(get_image_files(image_set), store.layout.folder))
    with pytest.raises(ConfigError, match=r"text_targets\(dls.train_ds\)"):
        fit(make_learner(dls), callback)


@pytest.mark.slow
def test_text_labels_replace_the_given_ones_in_training_only(dls, targets, store, tmp_path):
    given = [-1 if row % 3 else dls.vocab.o2i[parent_label(path)] for row, path in enumerate(dls.train_ds.items)]
    labels = text_labels(targets, given, list(dls.vocab), work=tmp_path)
    seen = []

    class Watch(Callback):
        order = 1

        def before_batch(self):
            seen.append((self.training, self.y.is_floating_point()))

    learner = make_learner(dls)
    loss = learner.loss_func
    fit(learner, TextLabelCallback(labels), Watch(), epochs=1)
    assert {(True, True), (False, False)} == set(seen)
    assert learner.loss_func is loss
    fit(learner, TextAlignmentCallback(targets, labels, weight=0.5), epochs=1)
    assert learner.loss_func is loss
    other = text_targets(dls.valid_ds, store.layout.folder)
    labels = text_labels(other, [-1] * len(dls.valid_ds), list(dls.vocab), work=tmp_path)
    with pytest.raises(ConfigError, match="the labels were made for"):
        fit(learner, TextLabelCallback(labels))
