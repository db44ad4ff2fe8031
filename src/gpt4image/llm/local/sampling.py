"""Drawing the next token: every answer has random numbers of its own, whoever shares its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt4image.llm.base import Sampling

if TYPE_CHECKING:
    import torch

    Warper = Callable[..., torch.Tensor]


TOP_K = 50


"""What transformers takes where a model's generation config names no other number."""


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """How a model's answers are drawn; those of its generation config stand for what is left to the model.

    Attributes:
        draws: whether tokens are drawn at all; if not, the likeliest is taken.
        temperature: divisor of the logits.
        top_k: number of likeliest tokens that are drawn from; 0 for all.
        top_p: share of the probability that is drawn from.
        min_p: least probability of a token that is drawn, as a share of the likeliest token's.
    """

    draws: bool = False
    temperature: float = 1.0
    top_k: int = TOP_K
    top_p: float = 1.0
    min_p: float = 0.0

    @classmethod
    def take_over(cls, config: Any) -> GenerationDefaults:  # noqa: ANN401 - transformers.GenerationConfig
        """Read them from a generation config, and change it such that transformers itself draws nothing."""
        names = ("temperature", "top_k", "top_p", "min_p")
        said = {name: getattr(config, name, None) for name in names}
        draws = bool(config.do_sample) and said["temperature"] != 0
        habits = cls(draws, **{name: value for name, value in said.items() if value is not None})
        config.update(do_sample=False, **dict.fromkeys(names))
        return habits

    def asked(self, sampling: Sampling) -> GenerationDefaults:
        """How a request's answer is drawn: in this way where it asks for nothing, else in the way it asks for.

        Temperature 0 takes the likeliest token. A temperature above it, or a `top_p`, draws without the model's own
        limits, which go with the model's own temperature: a `top_k` of 1 would undo what is asked.
        """
        if sampling.temperature is None and sampling.top_p is None:
            return self
        temperature = self.temperature if sampling.temperature is None else sampling.temperature
        top_p = 1.0 if sampling.top_p is None else sampling.top_p
        return GenerationDefaults(temperature != 0, temperature, top_k=0, top_p=top_p)

    def warpers(self) -> list[Warper]:
        """What turns logits [B, V] into logits to draw from, in transformers' order."""
        from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        found: list[Warper] = [TemperatureLogitsWarper(float(self.temperature))]
        if self.top_k:
            found.append(TopKLogitsWarper(int(self.top_k)))
        if self.top_p < 1:
            found.append(TopPLogitsWarper(float(self.top_p)))
        if self.min_p:
            found.append(MinPLogitsWarper(float(self.min_p)))
        return found


class Draw:
    """Logits processor after which the likeliest token is one drawn at random (the Gumbel-max trick).

    A row's numbers come from a generator of its own, so a seeded answer does not depend on who is in its batch.

    Args:
        habits: how tokens are drawn.
        seeds: one a row, below 2^63.
        device: where the logits are; other kinds of device draw other numbers.
    """

    def __init__(self, habits: GenerationDefaults, seeds: Sequence[int], device: torch.device) -> None:
        import torch

        self._warpers = habits.warpers()
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] with noise; the argmax of a row is distributed as the softmax of its warped logits."""
        import torch

        for warp in self._warpers:
            scores = warp(input_ids, scores)
        waits = torch.empty_like(scores)
        for row, generator in zip(waits, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores - waits.clamp_min(torch.finfo(waits.dtype).tiny).log()
