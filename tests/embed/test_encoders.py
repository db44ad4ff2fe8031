"""Text encoders."""

import json
import shutil

import numpy as np
import pytest
import torch

from gpt4image import embed_descriptions, load_encoder
from gpt4image.core.errors import ConfigError
from gpt4image.embed.encoders import minilm_location


def test_revision_changes_with_the_pooling(images, minilm, tmp_path):

    folder = tmp_path / "model"
    shutil.copytree(minilm_location(), folder)
    before = load_encoder(str(folder), device="cpu").revision
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    config.update(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert load_encoder(str(folder), device="cpu").revision != before


def test_open_clip_encoder_matches_open_clip(tmp_path):
    import open_clip

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny")
    torch.save(model.state_dict(), tmp_path / "weights.pt")

    encoder = load_encoder(f"open-clip:tiny/{tmp_path / 'weights.pt'}", device="cpu")
    assert (encoder.width, encoder.max_tokens) == (24, 77)
    texts = ["a red disc", "a blue square " * 40]
    assert encoder.count_tokens(texts) == [5, 122]
    expected = model.encode_text(open_clip.get_tokenizer("tiny")(texts), normalize=True)
    np.testing.assert_allclose(encoder.encode(texts), expected.detach().numpy(), atol=1e-5)
    assert load_encoder(encoder.name, device="cpu").revision == encoder.revision


def test_encoder_errors_name_the_fix():
    with pytest.raises(ConfigError, match="Did you mean 'open-clip'"):
        load_encoder("openclip:RN50/openai")
    with pytest.raises(ConfigError, match="MODEL/PRETRAINED"):
        load_encoder("open-clip:RN50")
    with pytest.raises(ConfigError, match="packaged encoder, minilm"):
        load_encoder("sentence-transformers:no-such-model-anywhere")


def test_vectors_in_bfloat16_stay_close_and_are_another_revision(minilm, descriptions, tmp_path):
    texts = ["A red disc on a pale, noisy ground.", "word " * 60, "An animal with striped fur beside a river"]
    lower = load_encoder("minilm", "cpu", precision="bfloat16")
    vectors, exact = lower.encode(texts), minilm.encode(texts)
    assert vectors.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert 0 < 1 - (vectors * exact).sum(axis=1).min() < 1e-4
    assert lower.revision != minilm.revision and lower.count_tokens(texts) == minilm.count_tokens(texts)
    first = embed_descriptions(descriptions, minilm, tmp_path / "minilm")
    again = embed_descriptions(descriptions, lower, tmp_path / "minilm")
    assert again.manifest.revision == lower.revision != first.manifest.revision
