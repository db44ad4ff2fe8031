"""A recorded set as a describer: what was answered once is answered again, without a server and without cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt4image.describe.describers.base import DescribeRequest, Reply, RequestFailedError
from gpt4image.describe.describers.recording import Recording
from gpt4image.describe.prompts import Strategy
from gpt4image.errors import DescribeError

NOT_RECORDED = "not recorded"
MOST_AT_ONCE = 64


class ReplayDescriber:
    """Answers from a recorded set.

    An answer is found by image, prompt and number of the sample, whatever the sampling and the size of the picture
    were. The answers of a conversation come as the one text that was made of them.

    Args:
        recording: an exported folder, one of its files, or a work directory.
        model: the recorded model; may be left out where there is one.
        strategies: the prompts that are going to be asked, for `check`.

    Raises:
        DescriptionError: the recording is broken (file and row are named).
        DescribeError: it holds no answer, or not of that model; the message lists the models.
    """

    name = "replay"

    def __init__(self, recording: Path | str, *, model: str | None = None, strategies: Sequence[Strategy] = ()) -> None:
        self._recording = Recording(Path(recording), model)
        self._strategies = strategies
        self.model, self.place, self.most_at_once = self._recording.model, str(recording), MOST_AT_ONCE

    async def check(self) -> None:
        """Find out whether the prompts were recorded. DescribeError names those that were."""
        for strategy in self._strategies:
            self._require(strategy.hash, f"{strategy.name!r} as it is now")

    async def describe(self, request: DescribeRequest) -> Reply:
        """The recorded answer."""
        self._require(request.prompt_hash, f"of hash {request.prompt_hash}")
        found = self._recording.find(request.key, request.image_id, request.prompt_hash, request.sample)
        if found is None:
            raise RequestFailedError(NOT_RECORDED, f"{request.name}, sample {request.sample}", again=False)
        return Reply(
            texts=(found["text"],),
            finish_reason=found["finish_reason"],
            tokens_in=found["tokens_in"],
            tokens_out=found["tokens_out"],
            model=found["served_model"] or self.model,
        )

    async def close(self) -> None:
        """There is nothing to let go of."""

    def _require(self, prompt_hash: str, called: str) -> None:
        """DescribeError unless a prompt was recorded; another text under the same name is another prompt."""
        prompts = self._recording.prompts
        if prompt_hash not in prompts:
            recorded = ", ".join(f"{name} ({known or 'hash not known'})" for known, name in sorted(prompts.items()))
            raise DescribeError(
                f"{self.place} holds no answer of {self.model} to the prompt {called}. Recorded: {recorded}. Ask one "
                "of these in the words that were recorded: --prompts NAME, --prompt-file FILE."
            )
