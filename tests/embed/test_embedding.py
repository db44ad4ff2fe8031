"""Each distinct text once, the same bytes after any interruption, found by image id."""

import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from gpt4image import EmbeddingStore, embed_descriptions, load_encoder
from gpt4image.core.errors import ConfigError, DescriptionError, StoreError
from gpt4image.descriptions.description_set import join_texts
from gpt4image.embed.runner import encode_batch

STORED = ("vectors.npy", "texts.npy", "ids.npy", "offsets.npy", "rows.npy", "manifest.json")


class CountingEncoder:
    """A real encoder that counts what it is given."""

    def __init__(self, inner) -> None:
        self.inner, self.texts = inner, []
        self.name, self.revision, self.width, self.max_tokens = (
            inner.name,
            inner.revision,
            inner.width,
            inner.max_tokens,
        )

    def count_tokens(self, texts):
        return self.inner.count_tokens(texts)

    def encode(self, texts):
        self.texts += texts
        return self.inner.encode(texts)


def described(images, texts):
    return join_texts(images, zip(images.rows["id"].to_pylist(), texts, strict=False), 0, "test")


def test_vectors_are_found_by_image_id(images, descriptions, store, minilm):
    vectors, has_text = store.lookup(images.ids)
    assert has_text.all()
    expected = minilm.encode(descriptions.texts_of(images.rows["id"].to_pylist()))
    torch.testing.assert_close(vectors, torch.from_numpy(expected), atol=2e-3, rtol=0)

    vectors, has_text = store.lookup([images.ids[3], b"f" * 32, images.ids[3].decode()])
    assert has_text.tolist() == [True, False, True]
    assert vectors[1].abs().max() == 0
    assert torch.equal(vectors[0], vectors[2])


def test_each_distinct_text_is_encoded_once_and_long_ones_first(images, minilm, tmp_path):
    encoder = CountingEncoder(minilm)
    texts = ["short", "a somewhat longer text", "short", "a text that is the longest of them all"] * 9
    found = described(images, texts)
    store = embed_descriptions(found, encoder, tmp_path / "store", batch_size=2)
    assert encoder.texts == ["a text that is the longest of them all", "a somewhat longer text", "short"]
    assert (store.manifest.distinct_texts, len(store)) == (3, 36)

    grown = described(images, [*texts[:-1], "a new text"])
    encoder.texts.clear()
    again = embed_descriptions(grown, encoder, tmp_path / "store", batch_size=2)
    assert encoder.texts == ["a new text"]
    torch.testing.assert_close(again.lookup(images.ids[:4])[0], store.lookup(images.ids[:4])[0])
    encoder.texts.clear()
    embed_descriptions(grown, encoder, tmp_path / "store")
    assert encoder.texts == []


def test_opens_without_copy_and_pickles_small(store):
    assert isinstance(store.vectors, np.memmap)
    assert store.vectors.dtype == np.float16
    content = pickle.dumps(store)
    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content).vectors, store.vectors)  # noqa: S301 - our own


def test_store_of_other_descriptions_is_refused(images, descriptions, store):
    store.check(descriptions)
    with pytest.raises(StoreError, match=r"made of other descriptions.*gpt4image embed"):
        store.check(described(images, ["another text"]))


@pytest.mark.parametrize("content", [b"{", b""])
@pytest.mark.parametrize("damage", ["manifest.json", "vectors.npy", "offsets.npy", "rows.npy"])
def test_damaged_store_is_an_error_that_says_what_to_do(images, minilm, tmp_path, damage, content):
    store = embed_descriptions(described(images, ["a", "b"]), minilm, tmp_path / "store")
    (store.layout.folder / damage).write_bytes(content)
    with pytest.raises(StoreError, match=r"[Dd]elete"):
        EmbeddingStore(store.layout.folder)
    with pytest.raises(StoreError, match="no finished embeddings"):
        EmbeddingStore(tmp_path)


def test_nothing_to_embed(images, minilm, tmp_path):
    with pytest.raises(DescriptionError, match="no image has a text"):
        embed_descriptions(described(images, []), minilm, tmp_path / "store")


def test_truncation_is_counted_and_shown(images, minilm, tmp_path, capsys):
    long = "word " * 400
    store = embed_descriptions(described(images, [long, "short", long + "end"]), minilm, tmp_path / "store")
    assert store.manifest.truncated == 2
    assert store.manifest.longest == {images.ids[2].decode(): 403, images.ids[0].decode(): 402}
    output = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 texts are longer than the 256 tokens" in output
    assert "--long-text pool" in output


def test_pooling_reads_long_texts_whole(images, minilm, tmp_path):
    start, end = "red apple " * 127, "ocean storm " * 127
    text = start + end
    assert minilm.count_tokens([text])[0] > minilm.max_tokens
    parts = minilm.encode([start, end])
    weights = np.asarray(minilm.count_tokens([start, end]))[:, None]
    expected = (parts * weights).sum(axis=0)
    pooled = encode_batch(["short", text], minilm, "pool")
    np.testing.assert_allclose(pooled[0], minilm.encode(["short"])[0], atol=1e-5)
    np.testing.assert_allclose(pooled[1], expected / np.linalg.norm(expected), atol=1e-3)
    assert abs(pooled[1] @ parts[1]) > abs(minilm.encode([text])[0] @ parts[1]) + 0.1

    store = embed_descriptions(described(images, [text]), minilm, tmp_path / "store", long_text="pool")
    assert (store.manifest.truncated, store.manifest.long_text) == (0, "pool")


def test_pooling_reads_texts_without_spaces_whole(minilm):
    text = "\u6d77\u5927" * 600
    other_end = text[:600] + "\u5c71\u706b" * 300
    first, second = encode_batch([text, other_end], minilm, "pool")
    assert minilm.count_tokens([text])[0] > 2 * minilm.max_tokens
    assert abs(first @ second) < 0.999


def test_other_pooling_is_another_encoder(images, minilm, tmp_path):
    import json
    import shutil

    from gpt4image.embed.encoders import minilm_location

    folder = tmp_path / "model"
    shutil.copytree(minilm_location(), folder)
    before = load_encoder(str(folder), device="cpu").revision
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    config.update(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert load_encoder(str(folder), device="cpu").revision != before


def test_tiny_open_clip_model_from_its_config(tmp_path):
    import json

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
    with pytest.raises(ConfigError, match="--encoder minilm"):
        load_encoder("no-such-model-anywhere")


EMBED = """
import sys, time
from pathlib import Path
from gpt4image import embed_descriptions, load_descriptions, load_encoder, load_images
images = load_images(sys.argv[1])
encoder = load_encoder("minilm", device="cpu")
slow = encoder.encode
def encode(texts):
    time.sleep(0.15)
    print("batch", flush=True)
    return slow(texts)
encoder.encode = encode
embed_descriptions(load_descriptions(images, sys.argv[2]), encoder, Path(sys.argv[3]), batch_size=1)
"""


def test_killed_runs_go_on_and_end_in_the_same_bytes(
    images, descriptions, descriptions_file, image_set, minilm, tmp_path
):
    script = tmp_path / "embed.py"
    script.write_text(EMBED)
    folder = tmp_path / "store"
    command = [sys.executable, str(script), str(image_set), str(descriptions_file), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        assert process.stdout.readline() == "batch\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    last = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(descriptions) - 17 <= last.stdout.count("batch") <= len(descriptions) - 16 + 1

    whole = embed_descriptions(descriptions, minilm, tmp_path / "whole", batch_size=1)
    for name in STORED:
        assert (folder / name).read_bytes() == (whole.layout.folder / name).read_bytes(), name
