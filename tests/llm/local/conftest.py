"""Describers on the tiny model, and reference answers by transformers alone."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
)

from gpt4image.llm.local import client
from gpt4image.llm.local.client import LocalDescriber
from support.local_requests import IMAGE_TOKENS


@pytest.fixture
def local():
    """Make describers that are closed at the end."""
    made = []

    def make(folder: Path, **options) -> LocalDescriber:
        made.append(LocalDescriber(str(folder), device="cpu", **options))
        return made[-1]

    yield make
    for describer in made:
        asyncio.run(describer.close())


@pytest.fixture
def describer(local, tiny_vlm):
    return local(tiny_vlm, batch_size=4)


@pytest.fixture(scope="session")
def reference(tiny_vlm) -> Callable:
    """Answer a hand-written prompt by transformers alone: text, prompt tokens, completion tokens."""
    processor = AutoProcessor.from_pretrained(tiny_vlm)
    model = AutoModelForImageTextToText.from_pretrained(tiny_vlm).eval()

    def answer(prompt: str, image: Image.Image, **settings) -> tuple[str, int, int]:
        tokens = processor.tokenizer(prompt.replace("<image>", "<image>" * IMAGE_TOKENS), add_special_tokens=False)
        pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"]
        ids = torch.tensor([tokens["input_ids"]])
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            **{"max_new_tokens": 24, "do_sample": False, **settings},
        )[0, ids.shape[1] :]
        return processor.tokenizer.decode(written, skip_special_tokens=True).strip(), ids.shape[1], len(written)

    return answer


@pytest.fixture
def batches(monkeypatch) -> list[dict]:
    """Record every call of `generate`: inputs, model (weakly), and tokens at the end.

    Requests made at the same time share a batch, however long it takes to open their pictures: these are opened one
    after the other, before the first batch is put together.
    """

    async def call_now(function: Callable, *arguments: object) -> object:
        return function(*arguments)

    monkeypatch.setattr(client.asyncio, "to_thread", call_now)
    seen, generate = [], LlavaForConditionalGeneration.generate

    def watched(self, **inputs):
        seen.append({**inputs, "model": weakref.ref(self)})
        seen[-1]["tokens"] = generate(self, **inputs)
        return seen[-1]["tokens"]

    monkeypatch.setattr(LlavaForConditionalGeneration, "generate", watched)
    return seen
