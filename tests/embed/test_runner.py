"""Embedding encodes each distinct text once and resumes after any interruption."""

import numpy as np
import pytest
import torch

from gpt4image import embed_descriptions
from gpt4image.core.errors import DescriptionError
from gpt4image.descriptions.description_set import join_texts
from gpt4image.embed.runner import encode_batch
from support.forks import ForkedPython, forked_python
from support.texts import described

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


def test_embedding_no_texts_is_an_error(images, minilm, tmp_path):
    with pytest.raises(DescriptionError, match="no image has a text"):
        embed_descriptions(described(images, []), minilm, tmp_path / "store")


def test_truncation_is_counted_and_shown(images, minilm, tmp_path, capsys):
    long = "word " * 400
    store = embed_descriptions(described(images, [long, "short", long + "end"]), minilm, tmp_path / "store")
    assert store.manifest.truncated == 2
    assert store.manifest.longest == {images.ids[2].decode(): 403, images.ids[0].decode(): 402}
    output = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 texts are longer than the 256 tokens" in output
    assert "set long_text to pool" in output


def test_pooling_covers_long_texts(images, minilm, tmp_path):
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


def test_pooling_covers_texts_without_spaces(minilm):
    text = "\u6d77\u5927" * 600
    other_end = text[:600] + "\u5c71\u706b" * 300
    first, second = encode_batch([text, other_end], minilm, "pool")
    assert minilm.count_tokens([text])[0] > 2 * minilm.max_tokens
    assert abs(first @ second) < 0.999


EMBED = """
import signal, sys
from pathlib import Path
from gpt4image import embed_descriptions, load_descriptions, load_encoder, load_images
images = load_images(sys.argv[1])
encoder = load_encoder("minilm", device="cpu")
plain, batches = encoder.encode, 0
def encode(texts):
    global batches
    batches += 1
    print("batch", flush=True)
    if batches == int(sys.argv[4]):
        signal.pause()
    return plain(texts)
encoder.encode = encode
embed_descriptions(load_descriptions(images, sys.argv[2]), encoder, Path(sys.argv[3]), batch_size=1)
"""


@pytest.mark.slow
def test_killed_run_resumes_and_ends_in_the_same_bytes(
    images, descriptions, descriptions_file, image_set, minilm, tmp_path
):
    script = tmp_path / "embed.py"
    script.write_text(EMBED)
    folder = tmp_path / "store"
    command = [script, image_set, descriptions_file, folder]
    process = ForkedPython([*command, 20])
    for _ in range(20):
        assert process.stdout.readline() == "batch\n"
    process.kill()
    process.wait()
    assert not folder.exists()
    last = forked_python([*command, 0])
    assert len(descriptions) - 17 <= last.stdout.count("batch") <= len(descriptions) - 16 + 1

    whole = embed_descriptions(descriptions, minilm, tmp_path / "whole", batch_size=1)
    for name in STORED:
        assert (folder / name).read_bytes() == (whole.layout.folder / name).read_bytes(), name


def test_shared_and_truncated_texts_are_counted_once(images, minilm, tmp_path):
    a, b = (images.ids[i].decode() for i in range(2))
    pairs = [(a, "word " * 300), (a, "word " * 400), (a, "short"), (b, "short"), (b, "word " * 300)]
    manifest = embed_descriptions(join_texts(images, pairs, 0, "test"), minilm, tmp_path / "store").manifest
    assert (manifest.images, manifest.texts, manifest.distinct_texts, manifest.truncated) == (2, 5, 3, 2)
    assert manifest.longest == {a: 402, b: 302}
