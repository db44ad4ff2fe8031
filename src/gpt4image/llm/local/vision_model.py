"""A vision-language model that answers conversations in batches, one question of each at a time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpt4image.core.console import printable
from gpt4image.core.errors import DescribeError, first_line
from gpt4image.core.files import digest
from gpt4image.llm.base import DescribeRequest, RequestFailedError
from gpt4image.llm.local.loading import Loaded, is_out_of_memory
from gpt4image.llm.local.sampling import Draw, GenerationDefaults

if TYPE_CHECKING:
    import torch
    from PIL import Image


Message = dict[str, Any]


SYSTEM, QUESTION = "You describe what you see.", "What is it?"


OUT_OF_MEMORY = "out of memory"


DEVICE_SIGNS = ("CUDA error", "HIP error")


"""What torch's errors say when every further call to the device would fail."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        text: what was said, without space around it.
        finish_reason: `stop` where the model ended it, `length` where it was cut off.
        tokens_in: tokens read, the picture's among them, padding not.
        tokens_out: tokens written, the end token among them.
    """

    text: str
    finish_reason: str
    tokens_in: int
    tokens_out: int


@dataclass
class Conversation:
    """A conversation about a picture, as far as it has come.

    Attributes:
        request: what is asked.
        image: the picture, RGB.
        abandoned: whether nobody waits for the answers any more.
        answers: answers so far.
    """

    request: DescribeRequest
    image: Image.Image
    abandoned: Callable[[], bool] = bool
    answers: list[Answer] = field(default_factory=list)

    def messages(self, system: bool) -> list[Message]:
        """All that was said up to the next question, as chat templates take it.

        Args:
            system: whether the system message has a turn of its own; else it stands before the first question.
        """
        first, *later = self.request.turns
        said = [self.request.system] if self.request.system else []
        question = first if system else "\n\n".join([*said, first])
        messages = [text_message("system", text) for text in said if system]
        messages.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]})
        for answer, following in zip(self.answers, later, strict=False):
            messages += [text_message("assistant", answer.text), text_message("user", following)]
        return messages

    def goes_on(self, turn: int) -> bool:
        """Whether there is a question in that turn and somebody to hear the answer."""
        silent = bool(self.answers) and not self.answers[-1].text
        return turn < len(self.request.turns) and not silent and not self.abandoned()

    def seed(self) -> int:
        """Seed of the next answer, below 2^63: that of the request, or a new one where it has none."""
        given = self.request.sampling.seed
        if given is None:
            return secrets.randbits(63)
        return int(digest(str(given), self.request.key, str(len(self.answers))), 16) >> 65


def text_message(role: str, text: str) -> Message:
    """A message of text alone."""
    return {"role": role, "content": [{"type": "text", "text": text}]}


class VisionModel:
    """A model that answers batches of conversations.

    Args:
        loaded: the model and its processor.

    Raises:
        DescribeError: it was not made for conversations about pictures.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._model, self._processor, self._tokenizer = loaded.model, loaded.processor, loaded.processor.tokenizer
        self._device, self._dtype, self.commit = loaded.device, loaded.dtype, loaded.commit
        self._system = takes_system(self._processor)
        config = self._model.generation_config
        self._ends = set_end_tokens(config, self._tokenizer)
        self._habits = GenerationDefaults.take_over(config)

    def answer(self, talks: Sequence[Conversation]) -> list[Answer]:
        """Answer the next question of each conversation, all in one batch. Their sampling is the same but for the seed.

        Args:
            talks: the conversations; one that is abandoned meanwhile ends at its next token.
        """
        inputs = self._inputs(talks)
        tokens = self._model.generate(**inputs, **self._settings(talks))
        written = tokens[:, inputs["input_ids"].shape[1] :]
        read = inputs["attention_mask"].sum(dim=1).tolist()
        texts = self._processor.batch_decode(written, skip_special_tokens=True)
        lengths = [self._length(row) for row in written.tolist()]
        return [
            Answer(text.strip(), "stop" if ended else "length", count, length)
            for text, count, (length, ended) in zip(texts, read, lengths, strict=True)
        ]

    def _inputs(self, talks: Sequence[Conversation]) -> Any:  # noqa: ANN401 - transformers.BatchFeature
        """Tokens [B, T], their mask, and the pictures as the model takes them, on its device."""
        prompts = [
            self._processor.apply_chat_template(talk.messages(self._system), add_generation_prompt=True)
            for talk in talks
        ]
        begin = self._tokenizer.bos_token
        begun = begin is not None and prompts[0].startswith(begin)
        settings = {"padding": True, "return_tensors": "pt", **({"add_special_tokens": False} if begun else {})}
        inputs = self._processor(text=prompts, images=[[talk.image] for talk in talks], **settings)
        return inputs.to(self._device, dtype=self._dtype)

    def _settings(self, talks: Sequence[Conversation]) -> dict[str, Any]:
        """Arguments of `generate` but for the inputs."""
        sampling = talks[0].request.sampling
        habits = self._habits.asked(sampling)
        settings: dict[str, Any] = {"max_new_tokens": sampling.max_tokens, "stopping_criteria": [Abandoned(talks)]}
        if habits.draws:
            settings["logits_processor"] = [Draw(habits, [talk.seed() for talk in talks], self._device)]
        if habits.draws or sampling.temperature == 0:
            settings["num_beams"] = 1
        return settings

    def _length(self, tokens: list[int]) -> tuple[int, bool]:
        """Number of tokens written, without what fills the batch up, and whether an end token is the last of them."""
        for position, token in enumerate(tokens):
            if token in self._ends:
                return position + 1, True
        return len(tokens), False


class Abandoned:
    """Stopping criterion: a conversation that nobody waits for ends, and does not hold up its batch."""

    def __init__(self, talks: Sequence[Conversation]) -> None:
        self._talks = talks

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        """Which rows end, bool [B], or [B x beams]."""
        import torch

        gone = torch.tensor([talk.abandoned() for talk in self._talks], device=input_ids.device)
        return gone.repeat_interleave(len(input_ids) // len(gone))


def set_end_tokens(config: Any, tokenizer: Any) -> frozenset[int]:  # noqa: ANN401 - of transformers
    """Have batches filled up on the left, where no answer begins, and return the tokens that end an answer."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    return frozenset(config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id])


def takes_system(processor: Any) -> bool:  # noqa: ANN401 - transformers.ProcessorMixin
    """Whether the chat template takes a system message. DescribeError when it takes no question about a picture."""
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    if (failure := render_failure(processor, [question], QUESTION)) is not None:
        raise DescribeError(
            f"The model has no chat template for questions about pictures: {printable(failure)} Choose one that was "
            "made for conversations; the name of such a model often ends in -Instruct, -it or -hf."
        )
    return render_failure(processor, [text_message("system", SYSTEM), question], SYSTEM) is None


def render_failure(processor: Any, messages: list[Message], probe: str) -> str | None:  # noqa: ANN401 - likewise
    """Why a template does not show a text that stands in messages; None if it does."""
    try:
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    except Exception as error:  # templates raise jinja's errors, and errors of their own
        return first_line(error)
    return None if probe in prompt else "it leaves out what is asked."


def converse(model: VisionModel, talks: Sequence[Conversation]) -> None:
    """Ask all questions of some conversations, turn by turn, each turn in one batch.

    A conversation ends early when it is abandoned or an answer is empty.
    """
    for turn in range(max(len(talk.request.turns) for talk in talks)):
        going_on = [talk for talk in talks if talk.goes_on(turn)]
        if going_on:
            for talk, answer in zip(going_on, model.answer(going_on), strict=True):
                talk.answers.append(answer)


def what_failed(error: Exception) -> RequestFailedError:
    """What an error on a batch means for its requests.

    Raises:
        DescribeError: the device has failed; nothing can be answered in this process any more.
    """
    if is_out_of_memory(error):
        return RequestFailedError(OUT_OF_MEMORY, first_line(error), retryable=False)
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in DEVICE_SIGNS):
        raise DescribeError(
            f"The device has failed: {printable(first_line(error))} Give the same command again: what is answered is "
            "kept. If it fails again, update the device's driver and torch, or take another model."
        ) from None
    return RequestFailedError("the model failed", f"{type(error).__name__}: {first_line(error)}", retryable=False)


def free_memory() -> None:
    """Give memory that nothing uses any more back to the device."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
