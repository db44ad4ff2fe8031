"""Texts per second through `embed_descriptions`, compared with the encoder's own bulk call on the same texts.

    python benchmarks/embedding.py                              # texts of one length, clipart12, and two prompts
    python benchmarks/embedding.py --sets clipart12 --texts 200
    python benchmarks/embedding.py --precisions                 # only the encoder, in other number formats

The bulk call is `SentenceTransformer.encode` on the texts of all images, which sorts them by length. In addition,
`embed_descriptions` counts tokens, encodes each distinct text once, and writes the vectors durably. The cost is
processor time.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from paired import add_options, processor_time, ratio, save, take_turns
from sentence_transformers import SentenceTransformer
from torch import nn

from gpt4image import embed_descriptions, load_encoder
from gpt4image.descriptions.description_set import Coverage, DescriptionSet
from gpt4image.embed.encoders import minilm_location

CLIPART12 = Path(__file__).parents[1] / "examples" / "clipart12"
WORDS = ("cat", "dog", "tree", "house", "red", "blue", "round", "small", "large", "bright", "dark", "paper", "line")
BATCH, LENGTH = 64, 60


def clipart12_texts(count: int) -> list[str]:
    """The descriptions of clipart12's training images."""
    texts: list[str] = pq.read_table(CLIPART12 / "train.parquet", columns=["description"])["description"].to_pylist()
    return texts[:count]


def equal_texts(count: int) -> list[str]:
    """Distinct texts with the same number of tokens."""
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, LENGTH)) for _ in range(count)]


def two_prompts(count: int) -> list[str]:
    """Each description, and its first sentence as a short prompt would give it."""
    return [text for full in clipart12_texts(count // 2) for text in (full, full.partition(". ")[0])]


SETS: dict[str, Callable[[int], list[str]]] = {
    "one length": equal_texts,
    "clipart12": clipart12_texts,
    "two prompts": two_prompts,
}


def described(texts: list[str]) -> DescriptionSet:
    """One image for each text."""
    pairs = sorted((hashlib.blake2b(b"%d" % n, digest_size=16).hexdigest(), text) for n, text in enumerate(texts))
    ids, sorted_texts = zip(*pairs, strict=True)
    rows = pa.table({"id": pa.array(ids), "text": pa.array(sorted_texts)})
    return DescriptionSet(rows, "benchmark", Coverage({}, {}, 0, 0, len(texts), 1))


def bulk(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    """The encoder's own call."""
    return np.asarray(model.encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False))


def compare_runner(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the runner and the bulk call on each set."""
    encoder, model = load_encoder("minilm", device="cpu"), SentenceTransformer(minilm_location(), device="cpu")
    rows = []
    for name in asked.sets:
        texts = SETS[name](asked.texts)
        descriptions = described(texts)

        def ours(descriptions: DescriptionSet = descriptions) -> None:
            with tempfile.TemporaryDirectory() as folder:
                embed_descriptions(descriptions, encoder, Path(folder) / "minilm", batch_size=BATCH)

        def theirs(texts: list[str] = texts) -> None:
            bulk(model, texts)

        sides = {"gpt4image": lambda: processor_time(ours), "bulk call": lambda: processor_time(theirs)}
        costs = take_turns(sides, asked.rounds)
        gain = ratio(costs["bulk call"], costs["gpt4image"])
        rate = len(texts) / np.median(costs["gpt4image"])
        print(f"{name}, {len(texts):,} texts ({len(set(texts)):,} distinct): {rate:.0f}/s and core; ", end="")
        print(f"throughput over the bulk call's {gain}", flush=True)
        rows.append({"set": name, "texts": len(texts), "texts_per_second_and_core": float(rate), "throughput": gain})
    return rows


def compare_precisions(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the encoder in other number formats, and measure how much its vectors change."""
    texts = clipart12_texts(asked.texts)
    plain = SentenceTransformer(minilm_location(), device="cpu")
    models = {"float32": plain, "float16": copy.deepcopy(plain).to(torch.float16)}
    models["int8"] = torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain), {nn.Linear}, dtype=torch.qint8)
    encoders = {name: partial(bulk, model) for name, model in models.items()}
    encoders["bfloat16"] = load_encoder("minilm", "cpu", precision="bfloat16").encode  # --embed-precision bfloat16
    vectors = {name: encode(texts).astype(np.float32) for name, encode in encoders.items()}
    sides = {name: (lambda encode=encode: processor_time(lambda: encode(texts))) for name, encode in encoders.items()}
    costs = take_turns(sides, asked.rounds)
    rows = []
    for name in list(encoders)[1:]:
        gain = ratio(costs["float32"], costs[name])
        cosines = (vectors[name] * vectors["float32"]).sum(axis=1) / np.linalg.norm(vectors[name], axis=1)
        distance = float(1 - cosines.min())
        print(f"{name}: throughput over float32's {gain}; largest cosine distance {distance:.1e}", flush=True)
        rows.append({"precision": name, "throughput": gain, "largest_cosine_distance": distance})
    return rows


def main() -> None:
    """Print and save the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--texts", type=int, default=600, help="texts in a set")
    parser.add_argument("--precisions", action="store_true", help="compare number formats of the encoder instead")
    add_options(parser, rounds=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.precisions:
        save("embedding_precision", asked, compare_precisions(asked))
    else:
        save("embedding", asked, compare_runner(asked))


if __name__ == "__main__":
    main()
