"""What is asked about an image: model, prompts, class names, sampling. All other settings affect only speed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import read_brought_json
from gpt4image.core.tables import compose
from gpt4image.describe.options import DescribeOptions
from gpt4image.descriptions.class_texts import ClassTexts
from gpt4image.descriptions.prompts import Prompt, PromptValues, load_prompts
from gpt4image.descriptions.prompts.choices import Choices
from gpt4image.descriptions.prompts.prompt import read_prompt_file
from gpt4image.descriptions.prompts.values import speak
from gpt4image.images.clips import FrameChoice
from gpt4image.images.table import ImageTable
from gpt4image.llm.base import Sampling

RESERVED_FIELDS = {
    "model": "set model (--model)",
    "messages": "set prompts (--prompts) or prompt_file (--prompt-file)",
    "max_tokens": "set max_tokens (--max-tokens)",
    "max_completion_tokens": "set max_tokens (--max-tokens)",
    "temperature": "set temperature (--temperature)",
    "top_p": "set top_p (--top-p)",
    "seed": "set seed (--seed)",
    "n": "set samples (--samples)",
    "stream": "streaming is not supported",
    "api_key": "set key_env (--key-env), which keeps the key out of files",
}
"""Fields of a request's body that are set by other options, with these options."""
OF_CLIP = (
    "These {} pictures are frames of one video clip, in the order of time. The image or picture in the request below "
    "is the whole clip: say also what moves, and what changes from the first frame to the last."
)
OF_FRAME = "This picture is a frame of a video clip."


@dataclass(frozen=True)
class Question:
    """Everything that determines the answers.

    Attributes:
        model: the requested model.
        prompts: prompts, each asked about every image.
        values: values of their placeholders.
        sampling: sampling parameters.
        samples: number of answers per prompt.
        max_side: longest side in pixels of the pictures sent; None for their original size.
        retry_temperature: temperature of a retry. Default: that of `sampling`.
        pictures: whether the images are sent; False for questions about the classes.
        frames: which frames are sent, if the images are clips.

    Raises:
        ConfigError: an invalid setting or combination.
    """

    model: str
    prompts: tuple[Prompt, ...]
    values: PromptValues
    sampling: Sampling
    samples: int = 1
    max_side: int | None = 768
    retry_temperature: float | None = None
    pictures: bool = True
    frames: FrameChoice | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples must be at least 1, not {self.samples}.")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ConfigError(f"{self.samples} samples at temperature 0 would be identical: set a temperature above 0.")
        if self.max_side is not None and self.max_side < 1:
            raise ConfigError(f"max_side (--max-side) must be at least 1, not {self.max_side}.")
        self.values.check(self.prompts)

    @cached_property
    def settings(self) -> str:
        """Sampling, picture size and frames as JSON."""
        return self.settings_with(self.sampling)

    def settings_with(self, sampling: Sampling) -> str:
        """Return the settings with another sampling, keys sorted, because they are part of identities."""
        frames = {"frames": self.frames.name} if self.frames and self.pictures else {}
        return json.dumps({**sampling.to_dict(), "max_side": self.max_side, **frames}, sort_keys=True)

    def introduce(self, turns: tuple[str, ...], frames: int) -> tuple[str, ...]:
        """Return the questions, with an introduction if the pictures are frames of a clip."""
        if self.frames is None or not frames:
            return turns
        return (f"{OF_CLIP.format(frames) if frames > 1 else OF_FRAME}\n\n{turns[0]}", *turns[1:])

    def identity(self, prompt: Prompt, label: int, sample: int) -> str | None:
        """Return the identity of the question about an image of a class; None if the prompt needs a missing class.

        The key of a description is a hash of this and the image, so any change means new requests. Only placeholders
        that the prompt uses count, so renaming a class affects only that class.
        """
        values = self.values.of(label)
        if not prompt.placeholders <= values.keys():
            return None
        used = {name: values[name] for name in sorted(prompt.placeholders)}
        return json.dumps([self.model, prompt.hash, used, self.settings, sample])


def read_prompts(options: DescribeOptions) -> tuple[Prompt, ...]:
    """Read the prompts that the options name. Default: all prompts of the user's file, else `plain`.

    Raises:
        ConfigError: a prompt is unknown or invalid.
    """
    if not options.prompts and options.prompt_file is not None:
        return tuple(read_prompt_file(options.prompt_file))
    return tuple(load_prompts(options.prompts or ("plain",), options.prompt_file))


def read_values(
    images: ImageTable, options: DescribeOptions, confused: Mapping[int, tuple[int, ...]] | None
) -> PromptValues:
    """Return the values of the prompts' placeholders for every class.

    Args:
        images: the images.
        options: the user's settings; their file of class names overrides the folder names.
        confused: labels of the classes that each class is confused with, by label.

    Raises:
        ConfigError: the file of class names is invalid or has an unknown class, or the file of classes to pick from
            cannot be read.
    """
    given = {} if options.class_names is None else read_class_names(options.class_names)
    listed = ClassTexts.read(options.classes) if options.classes else ClassTexts.of_names(images.classes)
    unknown = sorted(set(given) - set(map(compose, (*images.classes, *listed.names))))
    if unknown:
        raise ConfigError(f"{options.class_names}: {unknown[0]!r} is no class of {images.source}.")
    names = tuple(given.get(compose(name), speak(name)) for name in images.classes)
    choices = Choices(
        listed.names,
        tuple(given.get(compose(name), speak(name)) for name in listed.names),
        tuple(" ".join(" ".join(listed.written(name)).split()) for name in listed.names),
    )
    neighbours = {label: tuple(names[other] for other in others) for label, others in (confused or {}).items()}
    return PromptValues(names, neighbours, choices)


def read_extra_body(path: Path) -> str:
    """Read further fields of a request's body as JSON, keys sorted. ConfigError names an invalid file."""
    fields = read_object(path, 'request fields, such as {"reasoning_effort": "low"}')
    for name in sorted(fields.keys() & RESERVED_FIELDS.keys()):
        raise ConfigError(f"{path}: {name} cannot be set here: {RESERVED_FIELDS[name]}.")
    return json.dumps(fields, sort_keys=True)


def read_class_names(path: Path) -> dict[str, str]:
    """Read the class names for prompts, by class. ConfigError names an invalid file."""
    what = 'names by class, such as {"n01440764": "tench"}'
    names = read_object(path, what)
    if not all(isinstance(name, str) for name in names.values()):
        raise ConfigError(f"{path} must contain {what}.")
    return {compose(name): spoken for name, spoken in names.items()}


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a non-empty JSON object. ConfigError names an invalid file and the expected content."""
    found = read_brought_json(path, ConfigError, parse_constant=_reject_constant)
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{path} must contain a JSON object of {what}.")
    return found


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
