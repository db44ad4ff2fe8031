"""Every Python block of the extension guide runs, and the parts it registers work by name."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from gpt4image import (
    AlignmentLoss,
    DescriptionStore,
    Recipe,
    describe_images,
    embed_descriptions,
    embed_images,
    load_encoder,
    load_teacher,
    train_model,
)
from gpt4image.compare.predictions import predict_validation_images
from support import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extend.md").read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def guide() -> dict[str, Any]:
    """What is defined once all blocks have run, in their order."""
    scope: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, scope)
    return scope


def random_unit_vectors(seed: int) -> torch.Tensor:
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1)


HAS_TEXT = torch.tensor([True, True, False, True, True, True])


def test_hinge_loss_matches_a_plain_loop(guide):
    z, t = random_unit_vectors(1), random_unit_vectors(2)
    found = AlignmentLoss(guide["hinge_loss"], 0.2)(z, t, HAS_TEXT)
    expected = sum(max(0.0, 0.8 - float(z[i] @ t[i])) ** 2 for i in range(6) if HAS_TEXT[i]) / 5
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_registered_margin_loss_matches_a_plain_loop(guide):
    z, t = random_unit_vectors(3), random_unit_vectors(4)
    t[5] = t[0]  # the same text: not pushed apart
    loss = AlignmentLoss("margin", 0.3, targets="same")
    rows = [i for i in range(6) if HAS_TEXT[i]]
    expected = 0.0
    for i in rows:
        for j in rows:
            if i != j and {i, j} != {0, 5}:
                expected += max(0.0, 0.3 + float(z[i] @ t[j]) - float(z[i] @ t[i]))
    assert loss(z, t, HAS_TEXT).item() == pytest.approx(expected / 5, abs=1e-12)


def test_recipe_takes_a_registered_loss(guide):
    assert Recipe(loss="margin", queue=64).loss == "margin"


def test_heads_of_the_guide_have_a_loss_with_gradients(guide):
    guide["loss"].backward()
    assert all(weight.grad is not None for weight in guide["teacher_head"].parameters())


def test_registered_describer_describes_images(guide, image_set, tmp_path):
    tally = describe_images(image_set, tmp_path, describer="size")
    texts = {record.text for record in DescriptionStore(tmp_path / "descriptions").current()}
    assert tally.answered > 20
    assert texts and all(re.fullmatch(r"A picture of \d+ x \d+ pixels\.", text) for text in texts)


def test_registered_encoder_embeds_descriptions(guide, descriptions, tmp_path):
    store = embed_descriptions(descriptions, load_encoder("letters:26"), tmp_path / "letters")
    assert (store.width, len(store)) == (26, 36)


def test_registered_task_chooses_epochs_and_judges_predictions(guide, images, small_recipe, tmp_path):
    graded = replace(images, task="grading")
    run = train_model(graded, None, small_recipe(epochs=1), tmp_path, arm="baseline")
    found = predict_validation_images(run, graded)
    far = abs(found.logits.argmax(axis=1) - found.labels) / 2
    assert run.task == "grading"
    assert run.best_accuracy == pytest.approx(1 - far.mean()) == pytest.approx(found.measure()["accuracy"])


def test_registered_teacher_embeds_images(guide, images, tmp_path):
    store = embed_images(images, load_teacher("thumbnail:2", device="cpu"), tmp_path / "thumbnail")
    assert store.width == 2 * 2 * 3
