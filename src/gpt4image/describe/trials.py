"""What one picture costs at several sizes, measured with a call each, once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.describe.cost.estimate import SizeTrial
from gpt4image.describe.describers.base import (
    Counted,
    DescribeRequest,
    EndpointDownError,
    PushbackError,
    RequestFailedError,
)
from gpt4image.describe.store.parts import now
from gpt4image.describe.store.records import DescriptionRecord, payment_of
from gpt4image.describe.tasks import RequestMaker, Tasks
from gpt4image.errors import ImageError

if TYPE_CHECKING:
    from gpt4image.describe.job import DescribeJob

SIZE_TRIAL = "size trial"
FEW_TOKENS = 16


def try_sizes(job: DescribeJob, few: Tasks, sizes: Sequence[int]) -> list[SizeTrial]:
    """Tokens that the largest of a few pictures costs at several sizes up to its own.

    What was measured before is not measured again, and nothing that the budget does not allow.
    """
    whole = RequestMaker(job.images, replace(job.question, max_side=None), few)
    sides = [longest_side(whole, number) for number in range(len(few))]
    largest = int(np.argmax(sides))
    if sides[largest] <= min(sizes, default=0):
        return []
    wanted = {}
    for side in sorted({min(size, sides[largest]) for size in sizes}):
        sampling = replace(job.question.sampling, max_tokens=FEW_TOKENS)
        maker = RequestMaker(job.images, replace(job.question, max_side=side, sampling=sampling), few)
        wanted[side] = maker.record(largest), maker
    known = {(r.image_id, r.prompt_hash, r.settings): r.tokens_in for r in earlier_trials(job)}
    trials = []
    for side, (asked, maker) in wanted.items():
        measured = known.get((asked.image_id, asked.prompt_hash, asked.settings))
        tokens_in = measured or measure(job, asked, maker.request(largest))
        trials += [SizeTrial(side, tokens_in)] if tokens_in else []
    return trials


def earlier_trials(job: DescribeJob) -> Iterator[DescriptionRecord]:
    """Trials of the same model that were paid for before."""
    model = job.question.model
    return (paid for paid in job.store.payments() if paid.error == SIZE_TRIAL and paid.model == model)


def measure(job: DescribeJob, asked: DescriptionRecord, request: DescribeRequest) -> int | None:
    """Tokens that the first question of a request reads, booked; None where they are not counted or it fails."""
    budget = job.budget()
    if not budget.affords(0):
        return None
    call = ask_first(job, request)
    if call is None:
        return None
    cost = budget.pay(call.tokens_in, call.tokens_out)
    with job.store.writer() as writer:
        writer.write(payment_of(asked, SIZE_TRIAL, call.tokens_in, call.tokens_out, cost, now()))
    return call.tokens_in


def ask_first(job: DescribeJob, request: DescribeRequest) -> Counted | None:
    """Have the first question of a request answered, well or not; None where the server does not take it."""
    try:
        return job.session.loop.run(job.session.describers[0].describe(replace(request, turns=request.turns[:1])))
    except RequestFailedError as error:
        return error
    except (EndpointDownError, PushbackError):
        return None


def picture_pixels(maker: RequestMaker, number: int) -> int:
    """Width x height of a task's picture as it is sent; 0 where it cannot be read."""
    try:
        picture = maker.request(number).picture
    except ImageError:
        return 0
    return picture.width * picture.height


def longest_side(maker: RequestMaker, number: int) -> int:
    """Longest side in pixels of a task's picture; 0 where it cannot be read."""
    try:
        picture = maker.request(number).picture
    except ImageError:
        return 0
    return max(picture.width, picture.height)
