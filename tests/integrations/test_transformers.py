"""Descriptions in a training by transformers' Trainer."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from torchvision import transforms
from transformers import AutoModelForImageClassification, Trainer, TrainerCallback, TrainingArguments, ViTConfig
from transformers import ViTForImageClassification as Vit

from gpt4image.integrations import text_targets
from gpt4image.integrations.transformers import PROJECTOR_FILE, TextAlignedTrainer

PREPARE = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])


@pytest.fixture(scope="module")
def dataset(image_set: Path) -> datasets.Dataset:
    paths = sorted(image_set.rglob("*.png"))
    classes = sorted({path.parent.name for path in paths})
    rows = {
        "picture": [{"bytes": path.read_bytes(), "path": None} for path in paths],
        "labels": [classes.index(path.parent.name) for path in paths],
    }
    return datasets.Dataset.from_dict(rows).cast_column("picture", datasets.Image())


@pytest.fixture(scope="module")
def targets(dataset, store):
    return text_targets(dataset, store.layout.folder)


def prepared(dataset: datasets.Dataset) -> datasets.Dataset:
    def prepare(rows):
        return {"pixel_values": [PREPARE(p.convert("RGB")) for p in rows["picture"]], "labels": rows["labels"]}

    return dataset.with_transform(prepare)


def make_model() -> Vit:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return Vit(ViTConfig(image_size=16, patch_size=8, num_labels=3, **sizes))


def arguments(folder: Path, **changes) -> TrainingArguments:
    settings = {
        "output_dir": str(folder), "per_device_train_batch_size": 12, "num_train_epochs": 2, "report_to": [],
        "remove_unused_columns": False, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
        "logging_steps": 1, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
    }  # fmt: skip
    return TrainingArguments(**{**settings, **changes})


def losses(trainer: Trainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.slow
def test_alignment_is_added_to_the_models_own_loss(dataset, targets, tmp_path):
    aligned = TextAlignedTrainer(
        make_model(), arguments(tmp_path), train_dataset=prepared(dataset), text_targets=targets
    )
    before = aligned.text_alignment.head.projector[0].weight.clone()
    aligned.train()
    plain = Trainer(make_model(), arguments(tmp_path), train_dataset=prepared(dataset))
    plain.train()
    assert losses(aligned)[0] > losses(plain)[0] + 0.1
    assert not torch.equal(before, aligned.text_alignment.head.projector[0].weight)
    assert not torch.equal(plain.model.classifier.weight, aligned.model.classifier.weight)


@pytest.mark.slow
def test_columns_that_the_trainer_drops_as_unused_do_not_take_the_positions_along(dataset, targets, tmp_path):
    rows = dataset.map(lambda row: {"pixel_values": PREPARE(row["picture"].convert("RGB")).numpy()})
    rows = rows.with_format("torch", columns=["pixel_values", "labels"])
    settings = arguments(tmp_path, remove_unused_columns=True, num_train_epochs=1)
    trainer = TextAlignedTrainer(make_model(), settings, train_dataset=rows, text_targets=targets)
    plain = Trainer(make_model(), settings, train_dataset=rows)
    assert trainer.train().training_loss > plain.train().training_loss + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("function", [None, "own"])
def test_accumulated_gradients_average_the_alignment_loss(function, dataset, targets, tmp_path):
    def own(outputs, labels, num_items_in_batch=None):
        total = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
        return total / (num_items_in_batch if num_items_in_batch is not None else len(labels))

    seen = []
    for steps in (1, 2):
        settings = arguments(
            tmp_path, gradient_accumulation_steps=steps, max_steps=1, max_grad_norm=0, optim="sgd", learning_rate=1.0
        )
        trainer = TextAlignedTrainer(
            make_model(), settings, train_dataset=prepared(dataset.select([0] * 24)), text_targets=text_targets(
                dataset.select([0] * 24), targets.store.layout.folder
            ), text_settings={"loss": "cosine", "projector": "linear"}, compute_loss_func=own if function else None,
        )  # fmt: skip
        torch.manual_seed(3)
        torch.nn.init.normal_(trainer.text_alignment.head.projector[0].weight)
        trainer.train()
        seen.append(trainer.text_alignment.head.projector[0].weight.detach().clone())
    assert torch.allclose(*seen, atol=1e-6)  # the parts are equal, so their mean is any of them


@pytest.mark.slow
def test_checkpoints_are_plain_models_and_resume_the_projector(dataset, targets, tmp_path):
    def train(folder, resume=None, epochs=2):
        settings = arguments(folder, save_strategy="epoch", num_train_epochs=epochs)
        torch.manual_seed(5)
        trainer = TextAlignedTrainer(make_model(), settings, train_dataset=prepared(dataset), text_targets=targets)

        class AtStart(TrainerCallback):
            def on_train_begin(self, *_, **__):
                trainer.at_start = {name: value.clone() for name, value in trainer.text_alignment.state_dict().items()}

        trainer.add_callback(AtStart())
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = train(tmp_path / "whole")
    first = tmp_path / "whole" / "checkpoint-3"
    make_model().save_pretrained(tmp_path / "plain")
    assert set(load_file(first / "model.safetensors")) == set(load_file(tmp_path / "plain" / "model.safetensors"))
    assert AutoModelForImageClassification.from_pretrained(first).num_labels == 3
    resumed = train(tmp_path / "resumed", resume=str(first))
    assert_same_state(load_file(first / PROJECTOR_FILE), resumed.at_start)
    assert not torch.equal(whole.at_start[WEIGHT], resumed.at_start[WEIGHT])


WEIGHT = "head.projector.0.weight"


def assert_same_state(first, second):
    assert set(first) == set(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
