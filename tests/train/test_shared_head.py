"""The shared head: the model's classifier on its texts, against plain loops, and a deployed model that is as it was."""

import math

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from gpt4image import AlignedModel, AlignmentHead, Recipe, train_model
from gpt4image.core.errors import ConfigError
from gpt4image.tasks.classification import CLASSIFICATION
from gpt4image.train.build import build_reader
from gpt4image.train.data import Batch
from gpt4image.train.objective import Objective
from support.tensors import draw_vectors
from support.training import StoppedError, observe, same_weights

LABELS, KNOWN, SMOOTHING, WEIGHT = [0, 2, -1, 1, 0], [True, True, True, False, True], 0.1, 0.7


def make_model():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    head = AlignmentHead(nn.Linear(4, 6), reader=nn.Linear(6, 4))
    return AlignedModel(backbone, head, classifier=backbone[3]).double()


def make_batch():
    known = torch.tensor(KNOWN)
    text = draw_vectors(2, 5, 6)
    text[~known] = float("nan")
    counts = torch.tensor([4.0, 0.0, 4.0], dtype=torch.float64)
    return Batch(
        inputs=draw_vectors(1, 5, 12).view(5, 3, 2, 2),
        labels=torch.tensor(LABELS),
        vectors=(text,),
        known=(known,),
        soft=torch.zeros(5, 0),
        ids=torch.arange(5),
        rows=torch.arange(5),
        counts=counts,
    )


def classify(model, batch, shared_head):
    recipe = Recipe(label_smoothing=SMOOTHING, shared_head=shared_head)
    return Objective(recipe, CLASSIFICATION, 3, Accelerator(cpu=True)).losses(model, batch)[0]


def by_loops(model, batch):
    """Cross-entropy of the classifier on each labelled text, divided by the labelled images."""
    reader, classifier = model.heads[0].reader, model.backbone[3]
    total = 0.0
    for text, known, label in zip(batch.vectors[0].tolist(), KNOWN, LABELS, strict=True):
        if not known or label < 0:
            continue
        length = math.sqrt(sum(x * x for x in text))
        features = [
            sum(w * x / length for w, x in zip(row, text, strict=True)) + bias
            for row, bias in zip(reader.weight.tolist(), reader.bias.tolist(), strict=True)
        ]
        logits = [
            sum(w * x for w, x in zip(row, features, strict=True)) + bias
            for row, bias in zip(classifier.weight.tolist(), classifier.bias.tolist(), strict=True)
        ]
        log_sum = math.log(sum(map(math.exp, logits)))
        for number, logit in enumerate(logits):
            share = (1 - SMOOTHING) * (number == label) + SMOOTHING / 3
            total += share * (log_sum - logit)
    return total / sum(label >= 0 for label in LABELS)


def test_classifier_on_texts_equals_loops_with_its_gradient():
    model, batch = make_model(), make_batch()
    found = classify(model, batch, WEIGHT) - classify(model, batch, 0.0)
    assert found.item() == pytest.approx(WEIGHT * by_loops(model, batch), rel=1e-6)
    found.backward()
    learned = [*model.heads[0].reader.parameters(), *model.backbone[3].parameters()]
    for parameter in learned:
        for at in range(0, parameter.numel(), 5):
            values, gradient = parameter.data.view(-1), parameter.grad.view(-1)[at].item()
            before, step = values[at].item(), 1e-5
            moved = []
            for change in (step, -step):
                values[at] = before + change
                moved.append(by_loops(model, batch))
            values[at] = before
            assert gradient == pytest.approx(WEIGHT * (moved[0] - moved[1]) / (2 * step), rel=1e-4, abs=1e-7)
    assert model.backbone[1].weight.grad.abs().max() < 1e-12  # the features are reached through the classifier alone


def test_features_of_images_are_caught_and_not_those_of_texts():
    model, batch = make_model(), make_batch()
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        forward = AlignedModel.forward
        patch.setattr(AlignedModel, "forward", lambda *a: seen.append(forward(*a)) or seen[-1])
        classify(model, batch, WEIGHT)
    expected = model.backbone[:3](batch.inputs)
    torch.testing.assert_close(seen[0].features, expected)
    with pytest.raises(ConfigError, match="was not run"):
        model.input_tap.take()


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"mixup": 0.3}, {"align_at": ("layer3", "features"), "balance": 0.5, "ema_decay": 0.9}]
)
def test_shared_head_trains_resumes_and_leaves_the_deployed_model_as_it_was(
    images, store, small_recipe, tmp_path, monkeypatch, more
):
    def train(name, shared_head, stop_after=None):
        recipe = small_recipe(shared_head=shared_head, **more)
        with monkeypatch.context() as patch:
            observe(patch, lambda *_: None, stop_after)
            return train_model(images, store, recipe, tmp_path / name, checkpoint_seconds=0)

    plain, whole = train("plain", 0.0), train("whole", 1.0)
    shapes = [{key: value.shape for key, value in load_file(run.layout.weights).items()} for run in (plain, whole)]
    assert shapes[0] == shapes[1]
    assert not same_weights(plain.layout.weights, whole.layout.weights)
    assert load_file(plain.layout.heads).keys() == load_file(whole.layout.heads).keys()
    with pytest.raises(StoppedError):
        train("stopped", 1.0, stop_after=2)
    assert same_weights(train("stopped", 1.0).layout.weights, whole.layout.weights)


def test_shared_head_says_what_it_needs(small_recipe):
    with pytest.raises(ConfigError, match="set weight above 0, or shared_head to 0"):
        small_recipe(shared_head=1.0, weight=0.0)

    class Convolution(nn.Module):
        def get_classifier(self):
            return nn.Conv2d(4, 3, 1)

    with pytest.raises(ConfigError, match="classifier is a Conv2d: set shared_head to 0"):
        build_reader(Convolution(), 6)
