"""Descriptions in a Lightning training."""

from __future__ import annotations

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from gpt4image.core.errors import ConfigError
from gpt4image.integrations.lightning import TextAlignmentCallback


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(768, 24), nn.ReLU(), nn.Linear(24, 3))
        self.seen = []

    def training_step(self, batch, batch_idx):
        pixels, labels = batch
        loss = F.cross_entropy(self.model(pixels), labels)
        self.seen.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.05)  # the projector is not in it


def fit(module, callback, dataset, epochs=2, checkpoint=None):
    torch.manual_seed(1)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(dataset, batch_size=12), ckpt_path=checkpoint)
    return trainer


def test_alignment_is_added_and_its_projector_trained(folder, targets):
    module, callback = Classifier(), TextAlignmentCallback(targets, model="model", weight=0.5)
    trainer = fit(module, callback, targets.indexed(folder))
    assert trainer.callback_metrics["alignment"] > 0
    short = TextAlignmentCallback(targets, model="model", weight=0.5)
    fit(Classifier(), short, targets.indexed(folder), epochs=1)
    weight = "head.projector.0.weight"
    assert not torch.equal(short.state_dict()[weight], callback.state_dict()[weight])
    plain = Classifier()
    fit(plain, lightning.Callback(), folder)
    assert not torch.equal(plain.model[1].weight, module.model[1].weight)
    assert plain.seen[0] == module.seen[0]  # the module's own loss is what it was


def test_module_is_left_as_it_was(folder, targets):
    module = Classifier()
    names = set(module.state_dict())
    fit(module, TextAlignmentCallback(targets, model="model"), targets.indexed(folder))
    assert set(module.state_dict()) == names
    assert module.training_step.__func__ is Classifier.training_step
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_checkpoint_holds_the_plain_module_and_resumes_the_projector(folder, targets, tmp_path):
    dataset, checkpoint = targets.indexed(folder), tmp_path / "part.ckpt"

    class Saving(TextAlignmentCallback):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint(checkpoint)

    fit(Classifier(), Saving(targets, model="model"), dataset, epochs=1)
    stored = torch.load(checkpoint, weights_only=False)
    assert set(stored["state_dict"]) == set(Classifier().state_dict())
    resumed, rest = Classifier(), Saving(targets, model="model")
    fit(resumed, rest, dataset, epochs=3, checkpoint=checkpoint)
    straight, whole = Classifier(), Saving(targets, model="model")
    fit(straight, whole, dataset, epochs=3)
    for name, value in straight.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name
    for name, value in whole.state_dict().items():
        assert torch.allclose(value.float(), rest.state_dict()[name].float(), atol=1e-6), name


def test_dataset_without_positions_is_refused(targets):
    with pytest.raises(ConfigError, match=r"train on targets.indexed\(dataset\)"):
        fit(Classifier(), TextAlignmentCallback(targets, model="model"), [(torch.zeros(3, 16, 16), 0.5)] * 3)
