"""The heads of a run are kept beside it, and put images and texts where training put them."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gpt4image import open_run, train_model
from gpt4image.align.text import Moments, TextTransform
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.train import run as run_module
from gpt4image.train.text_space import open_text_space


@pytest.fixture
def observed(monkeypatch):
    """The trainers of the runs that a test trains."""
    seen = []
    write = run_module.write_result

    def keep(trainer, *rest):
        seen.append(trainer)
        write(trainer, *rest)

    monkeypatch.setattr(run_module, "write_result", keep)
    return seen


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"projector": "mlp-ln", "projector_hidden": 20, "ema_decay": 0.5},
        {"text_space": "whitened", "text_adapter": True, "projector": "linear"},
        {"align_at": ("layer3", "features")},
        {"freeze": ("conv1", "bn1", "act1", "maxpool", "layer1"), "cached_views": 2},
    ],
)
def test_projection_equals_that_of_the_trained_model(images, store, small_recipe, tmp_path, observed, changes):
    recipe = small_recipe(keep="last", **changes)
    run = train_model(images, store, recipe, tmp_path / "run", features=tmp_path / "features")
    space = open_text_space(run)
    pixels = torch.randn(3, 3, 32, 32)
    trained = observed[0].kept_model.eval().cpu()
    number = 1 if "align_at" in changes else 0  # the head at the classifier's input
    if "cached_views" in changes:  # the trained part has no stem: compare what follows it
        with torch.inference_mode():
            features = space.model(pixels).features
            expected = trained.heads[0](features)
    else:
        with torch.inference_mode():
            expected = trained(pixels).projected[number]
    with torch.inference_mode():
        torch.testing.assert_close(space.projection(pixels), expected, rtol=1e-4, atol=1e-5)
    assert space.record.tap is None


def test_texts_are_changed_as_in_training(images, store, small_recipe, tmp_path, minilm):
    run = train_model(images, store, small_recipe(text_space="centred"), tmp_path / "run")
    texts = ["a red disc", "a blue bar"]
    train = images.ids[images.split("train")]
    known = store.take(store.find(train)[store.find(train) >= 0])
    centred = TextTransform("centred", Moments.of([torch.from_numpy(known)]))(torch.from_numpy(minilm.encode(texts)))
    expected = torch.nn.functional.normalize(centred).numpy()
    assert open_text_space(run).encode(texts, [minilm]) == pytest.approx(expected, abs=2e-3)  # stored in float16


def test_heads_hold_nothing_of_the_losses_and_resume_like_the_rest(images, store, small_recipe, tmp_path):
    recipe = small_recipe(queue=8, loss="clip", learn_temperature=True)
    run = train_model(images, store, recipe, tmp_path / "run")
    names = load_file(run.layout.heads).keys()
    assert names and all(name.startswith("0.projector.") for name in names)
    assert "heads" not in "".join(load_file(run.layout.weights))


def test_encoders_side_by_side_are_all_asked(images, store, descriptions, small_recipe, tmp_path, monkeypatch):
    from gpt4image import embed_descriptions
    from gpt4image.train import text_space
    from support.training import LetterEncoder

    letters = embed_descriptions(descriptions, LetterEncoder(), tmp_path / "letters")
    recipe = small_recipe(several_encoders="concatenated")
    run = train_model(images, [store, letters], recipe, tmp_path / "run")
    loaded = {"letters": LetterEncoder()}
    real = text_space.load_encoder
    monkeypatch.setattr(text_space, "load_encoder", lambda name: loaded.get(name) or real(name, device="cpu"))
    vectors = open_text_space(run).encode(["a red disc"])
    assert vectors.shape == (1, 384 + 26)
    assert np.linalg.norm(vectors[0, 384:]) == pytest.approx(0.5**0.5, abs=1e-5)


def test_run_without_a_text_space_says_what_to_do(images, store, small_recipe, tmp_path):
    baseline = train_model(images, None, small_recipe(), tmp_path / "baseline", arm="baseline")
    with pytest.raises(ConfigError, match=r"no text space.*arm described"):
        open_text_space(baseline)
    run = train_model(images, store, small_recipe(), tmp_path / "run")
    content = run.layout.heads.read_bytes()
    run.layout.heads.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match="damaged"):
        open_text_space(run)
    run.layout.heads.unlink()
    with pytest.raises(StoreError, match="earlier version"):
        open_text_space(open_run(tmp_path / "run"))


def test_changed_encoder_is_refused(images, store, small_recipe, tmp_path, monkeypatch):
    from gpt4image.train import text_space
    from support.training import LetterEncoder

    run = train_model(images, store, small_recipe(), tmp_path / "run")
    monkeypatch.setattr(text_space, "load_encoder", lambda name: LetterEncoder())
    with pytest.raises(ConfigError, match="minilm has changed"):
        open_text_space(run).load_encoders()
