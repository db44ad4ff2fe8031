"""Requests to a model in this process, and their outcomes."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from pathlib import Path

from PIL import Image

from gpt4image.llm.base import DescribeRequest, Sampling
from gpt4image.llm.local.client import LocalDescriber
from gpt4image.llm.picture import Picture, prepare_picture
from support.drawings import COLOURS, SHAPES, draw

QUESTIONS = (
    "Describe the picture.",
    "Which colours does it have, and which parts of it can be seen from the left to the right?",
    "What is it?",
    "Is it a drawing or a photograph? Answer in plain words, without guessing.",
    "Describe the main thing in two sentences; behind it there is nothing but grain and grey and white ground.",
    "A cat or a dog?",
)
IMAGE_TOKENS = 16
ENDLESS = 3000


def picture(number: int) -> Image.Image:
    return draw(list(COLOURS.values())[number % 3], SHAPES[number // 3 % 3], number)


def encoded(image: Image.Image) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return prepare_picture(buffer.getvalue(), "image", None)


def ask(number: int, *turns: str, system: str | None = None, **sampling) -> DescribeRequest:
    settings = Sampling(**{"max_tokens": 24, "temperature": 0, **sampling})
    key, questions = f"{number:032x}", turns or (QUESTIONS[number % len(QUESTIONS)],)
    return DescribeRequest(key, key, f"{number}.png", (encoded(picture(number)),), system, questions, settings, "plain")


def answers(describer: LocalDescriber, *requests: DescribeRequest) -> list:
    """Send requests concurrently; return replies and exceptions."""

    async def all_at_once():
        return await asyncio.gather(*map(describer.describe, requests), return_exceptions=True)

    return asyncio.run(all_at_once())


def sizes(batches: list[dict]) -> list[int]:
    return [len(inputs["input_ids"]) for inputs in batches]


def variant(folder: Path, copy: Path, **generation) -> Path:
    """Copy a model with changes to its generation config."""
    shutil.copytree(folder, copy)
    file = copy / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **generation}))
    return copy
