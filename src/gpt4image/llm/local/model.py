"""Answer conversations about pictures in batches: one question of each conversation at a time."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpt4image.core.errors import DescribeError, first_line
from gpt4image.core.files import digest
from gpt4image.core.format import printable
from gpt4image.llm.base import ChatAnswer, DescribeRequest, RequestFailedError
from gpt4image.llm.local.loading import LoadedModel, is_out_of_memory
from gpt4image.llm.local.sampling import GenerationDefaults, GumbelSampler

if TYPE_CHECKING:
    import torch
    from PIL import Image

Message = dict[str, Any]

# Probe texts for chat templates; they must appear in the rendered prompt.
SYSTEM, QUESTION = "You describe what you see.", "What is it?"
OUT_OF_MEMORY = "out of memory"

# How torch's errors begin after which every further call to the device fails too.
DEVICE_SIGNS = ("CUDA error", "HIP error")


@dataclass(eq=False)
class Conversation:
    """A conversation about a picture, or the frames of a clip, with the answers so far.

    Attributes:
        request: the questions.
        images: the pictures, RGB.
        answers: answers so far, without surrounding space. `tokens_in` includes the picture but no padding, and
            `tokens_out` includes the end token.
    """

    request: DescribeRequest
    images: Sequence[Image.Image]
    answers: list[ChatAnswer] = field(default_factory=list, init=False)

    def abandoned(self) -> bool:
        """Return whether no caller waits for the answers any more."""
        return False

    def messages(self, separate_system: bool) -> list[Message]:
        """Return the conversation up to the next question, in the form of chat templates.

        Args:
            separate_system: whether the system message gets its own turn; otherwise it precedes the first question.
        """
        first, *later = self.request.turns
        system = [self.request.system] if self.request.system else []
        question = first if separate_system else "\n\n".join([*system, first])
        messages = [text_message("system", text) for text in system if separate_system]
        pictures = [{"type": "image"} for _ in self.images]
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": question}]})
        for answer, following in zip(self.answers, later, strict=False):
            messages += [text_message("assistant", answer.text), text_message("user", following)]
        return messages

    def continues(self, turn: int) -> bool:
        """Return whether the turn has a question and a caller waits for its answer."""
        empty = bool(self.answers) and not self.answers[-1].text
        return turn < len(self.request.turns) and not empty and not self.abandoned()

    def seed(self) -> int:
        """Return the seed of the next answer, below 2^63; a random one if the request has none."""
        seed = self.request.sampling.seed
        if seed is None:
            return secrets.randbits(63)
        return int(digest(str(seed), self.request.key, str(len(self.answers))), 16) >> 65


def text_message(role: str, text: str) -> Message:
    """Return a message without a picture."""
    return {"role": role, "content": [{"type": "text", "text": text}]}


class VisionModel:
    """Answers batches of conversations.

    Args:
        loaded: the model and its processor.

    Raises:
        DescribeError: the model does not support conversations about pictures.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._model, self._processor, self._tokenizer = loaded.model, loaded.processor, loaded.processor.tokenizer
        self._device, self._dtype, self.commit = loaded.device, loaded.dtype, loaded.commit
        self._separate_system = takes_system(self._processor)
        config = self._model.generation_config
        self._end_tokens = set_end_tokens(config, self._tokenizer)
        self._defaults = GenerationDefaults.take_over(config)

    def converse(self, conversations: Sequence[Conversation]) -> None:
        """Ask all questions of some conversations, turn by turn, each turn in one batch.

        The conversations share all sampling parameters but the seed. One ends early when it is abandoned or an answer
        is empty.
        """
        for conversation in conversations:
            conversation.answers.clear()  # from an earlier attempt in a larger batch
        for turn in range(max(len(conversation.request.turns) for conversation in conversations)):
            batch = [conversation for conversation in conversations if conversation.continues(turn)]
            if batch:
                for conversation, answer in zip(batch, self._answer(batch), strict=True):
                    conversation.answers.append(answer)

    def _answer(self, batch: Sequence[Conversation]) -> list[ChatAnswer]:
        """Answer the next question of each conversation. One that is abandoned meanwhile ends at its next token."""
        inputs = self._inputs(batch)
        tokens = self._model.generate(**inputs, **self._settings(batch))  # [B, T + new tokens]
        written = tokens[:, inputs["input_ids"].shape[1] :]
        read = inputs["attention_mask"].sum(dim=1).tolist()
        texts = self._processor.batch_decode(written, skip_special_tokens=True)
        lengths = [self._length(row) for row in written.tolist()]
        return [
            ChatAnswer(text.strip(), "stop" if ended else "length", count, length)
            for text, count, (length, ended) in zip(texts, read, lengths, strict=True)
        ]

    def _inputs(self, batch: Sequence[Conversation]) -> Any:  # noqa: ANN401 - transformers.BatchFeature
        """Return tokens [B, T], their mask [B, T] and the pictures as model inputs, on its device."""
        prompts = [
            self._processor.apply_chat_template(
                conversation.messages(self._separate_system), add_generation_prompt=True
            )
            for conversation in batch
        ]
        # Some templates write the begin token themselves; the tokenizer must not add a second one.
        begin = self._tokenizer.bos_token
        has_begin = begin is not None and prompts[0].startswith(begin)
        settings = {"padding": True, "return_tensors": "pt", **({"add_special_tokens": False} if has_begin else {})}
        images = [list(conversation.images) for conversation in batch]
        inputs = self._processor(text=prompts, images=images, **settings)
        return inputs.to(self._device, dtype=self._dtype)

    def _settings(self, batch: Sequence[Conversation]) -> dict[str, Any]:
        """Return the arguments of `generate` apart from the inputs."""
        sampling = batch[0].request.sampling
        defaults = self._defaults.override(sampling)
        settings: dict[str, Any] = {"max_new_tokens": sampling.max_tokens, "stopping_criteria": [Abandoned(batch)]}
        if defaults.do_sample:
            seeds = [conversation.seed() for conversation in batch]
            settings["logits_processor"] = [GumbelSampler(defaults, seeds, self._device)]
        if defaults.do_sample or sampling.temperature == 0:
            settings["num_beams"] = 1
        return settings

    def _length(self, tokens: list[int]) -> tuple[int, bool]:
        """Return the number of tokens without padding, and whether the last of them is an end token."""
        for position, token in enumerate(tokens):
            if token in self._end_tokens:
                return position + 1, True
        return len(tokens), False


class Abandoned:
    """Stopping criterion: an abandoned conversation ends and does not hold up its batch."""

    def __init__(self, batch: Sequence[Conversation]) -> None:
        self._batch = batch

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        """Return which rows end, bool [B], or [B x beams]."""
        import torch

        ended = torch.tensor([conversation.abandoned() for conversation in self._batch], device=input_ids.device)
        return ended.repeat_interleave(len(input_ids) // len(ended))


def set_end_tokens(config: Any, tokenizer: Any) -> frozenset[int]:  # noqa: ANN401 - of transformers
    """Pad on the left, so that all answers begin in the same column; return the tokens that end an answer."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    return frozenset(config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id])


def takes_system(processor: Any) -> bool:  # noqa: ANN401 - transformers.ProcessorMixin
    """Return whether the chat template shows a system message. Raise DescribeError if it shows no question."""
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    if (failure := render_failure(processor, [question], QUESTION)) is not None:
        raise DescribeError(
            f"The model has no chat template for questions about pictures: {printable(failure)} Choose an "
            "instruction-tuned model; their names often end in -Instruct, -it or -hf."
        )
    return render_failure(processor, [text_message("system", SYSTEM), question], SYSTEM) is None


def render_failure(processor: Any, messages: list[Message], probe: str) -> str | None:  # noqa: ANN401 - likewise
    """Return why the rendered template lacks the text `probe`; None if it contains it."""
    try:
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    except Exception as error:  # templates raise jinja's errors, and errors of their own
        return first_line(error)
    return None if probe in prompt else "it leaves out the question."


def classify_failure(error: Exception) -> RequestFailedError:
    """Classify the error of a batch.

    Raises:
        DescribeError: the device has failed; nothing can be answered in this process any more.
    """
    if is_out_of_memory(error):
        return RequestFailedError(OUT_OF_MEMORY, first_line(error), retryable=False)
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in DEVICE_SIGNS):
        raise DescribeError(
            f"The device has failed: {printable(first_line(error))} Run the same command again; all answers so far are "
            "kept. If it fails again, update the device's driver and torch, or choose another model."
        ) from None
    return RequestFailedError("the model failed", f"{type(error).__name__}: {first_line(error)}", retryable=False)


def free_memory() -> None:
    """Return unused memory to the device."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
