"""Sample the next token. Every answer has its own random numbers, whatever else is in its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt4image.llm.base import Sampling

if TYPE_CHECKING:
    import torch

    Warper = Callable[..., torch.Tensor]

# transformers' value where a generation config names none.
TOP_K = 50


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """A model's sampling parameters; they fill in what a request leaves open.

    Attributes:
        do_sample: sample tokens; otherwise decode greedily.
        temperature: divisor of the logits.
        top_k: number of likeliest tokens to sample from; 0 for all.
        top_p: probability mass to sample from.
        min_p: minimum probability of a token, relative to the likeliest token's.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = TOP_K
    top_p: float = 1.0
    min_p: float = 0.0

    @classmethod
    def take_over(cls, config: Any) -> GenerationDefaults:  # noqa: ANN401 - transformers.GenerationConfig
        """Read the defaults from a generation config, and switch off transformers' own sampling in it."""
        names = ("temperature", "top_k", "top_p", "min_p")
        values = {name: value for name in names if (value := getattr(config, name, None)) is not None}
        defaults = cls(bool(config.do_sample) and values.get("temperature") != 0, **values)
        config.update(do_sample=False, **dict.fromkeys(names))
        return defaults

    def override(self, sampling: Sampling) -> GenerationDefaults:
        """Return the parameters for a request.

        Temperature 0 decodes greedily. A temperature above 0, or a `top_p`, samples without the model's own limits,
        which are meant for its own temperature: a `top_k` of 1 would undo the request.
        """
        if sampling.temperature is None and sampling.top_p is None:
            return self
        temperature = self.temperature if sampling.temperature is None else sampling.temperature
        top_p = 1.0 if sampling.top_p is None else sampling.top_p
        return GenerationDefaults(temperature != 0, temperature, top_k=0, top_p=top_p)

    def warpers(self) -> list[Warper]:
        """Return the functions that turn logits [B, V] into logits to sample from, in transformers' order."""
        from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        warpers: list[Warper] = [TemperatureLogitsWarper(float(self.temperature))]
        if self.top_k:
            warpers.append(TopKLogitsWarper(int(self.top_k)))
        if self.top_p < 1:
            warpers.append(TopPLogitsWarper(float(self.top_p)))
        if self.min_p:
            warpers.append(MinPLogitsWarper(float(self.min_p)))
        return warpers


class GumbelSampler:
    """Logits processor that adds Gumbel noise, so that greedy decoding samples (the Gumbel-max trick).

    Every row has its own generator, so a seeded answer does not depend on the rest of its batch.

    Args:
        defaults: sampling parameters.
        seeds: one per row, below 2^63.
        device: device of the logits; other kinds of device give other random numbers.
    """

    def __init__(self, defaults: GenerationDefaults, seeds: Sequence[int], device: torch.device) -> None:
        import torch

        self._warpers = defaults.warpers()
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return noisy logits [B, V]; the argmax of a row is distributed as the softmax of its warped logits."""
        import torch

        for warp in self._warpers:
            scores = warp(input_ids, scores)
        # -log(Exponential(1)) is Gumbel-distributed; the clamp keeps the logarithm of a drawn 0 finite.
        waits = torch.empty_like(scores)
        for row, generator in zip(waits, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores - waits.clamp_min(torch.finfo(waits.dtype).tiny).log()
