"""What a whole set will cost, measured on a few images before anything else is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.core.console import counted
from gpt4image.core.errors import DescribeError
from gpt4image.core.format import rough_duration, short
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.tasks import RequestMaker, Tasks, longest_side
from gpt4image.descriptions.store.records import DescriptionRecord, payment_of
from gpt4image.descriptions.store.shards import now
from gpt4image.llm.base import Counted, DescribeRequest, EndpointDownError, RateLimitedError, RequestFailedError
from gpt4image.llm.prices import Price

if TYPE_CHECKING:
    from gpt4image.describe.job import DescribeJob


@dataclass(frozen=True)
class SizeTrial:
    """What one picture costs at another size.

    Attributes:
        max_side: longest side in pixels.
        tokens_in: tokens that the question with it reads.
    """

    max_side: int
    tokens_in: int


@dataclass(frozen=True)
class Estimate:
    """What the descriptions that are still to be written will take.

    Attributes:
        measured: answers it rests on.
        remaining: descriptions that are still to be written.
        tokens_in: mean tokens read for a description; None where the server does not count.
        tokens_out: mean tokens written, likewise.
        luck: how far the mean cost of a description may be from the measured one, as a share of it: half the width of
            its 95 % interval, by Student's t; None where one answer, or none, tells.
        seconds: mean time for a description.
        at_once: requests that were under way at a time when the time was taken.
        max_concurrency: requests under way at a time, at most.
        price: what tokens cost; None where it is not known.
        max_side: longest side in pixels of the pictures sent; None for any size.
        trials: other sizes.
    """

    measured: int
    remaining: int
    tokens_in: float | None
    tokens_out: float | None
    luck: float | None
    seconds: float
    at_once: int
    max_concurrency: int
    price: Price | None
    max_side: int | None
    trials: tuple[SizeTrial, ...] = ()

    def dollars(self, *, batch: bool = False) -> float | None:
        """US dollars for what is left; None where price or tokens are not known."""
        if self.price is None or self.tokens_in is None or self.tokens_out is None:
            return None
        one = self.price.cost(round(self.tokens_in * 1000), round(self.tokens_out * 1000), batch=batch) or 0.0
        return one / 1000 * self.remaining

    @property
    def time_span(self) -> tuple[float, float]:
        """Seconds for what is left: if as many requests at a time as possible take as long as one, and as measured."""
        total = self.seconds * self.remaining
        return total / self.max_concurrency, total / self.at_once

    def lines(self) -> list[str]:
        """The estimate for a person to read."""
        head = f"left to write: {counted(self.remaining, 'description')} (measured on {self.measured:,})"
        return [head, *self._token_lines(), *self._money_lines(), self._time_line(), *self._size_lines()]

    def _token_lines(self) -> list[str]:
        if self.tokens_in is None or self.tokens_out is None:
            return ["tokens: this server does not count them"]
        totals = (short(self.tokens_in * self.remaining), short(self.tokens_out * self.remaining))
        return [
            f"tokens: {self.tokens_in:.0f} read and {self.tokens_out:.0f} written a description; "
            f"{totals[0]} and {totals[1]} in all"
        ]

    def _money_lines(self) -> list[str]:
        online, batch = self.dollars(), self.dollars(batch=True)
        if self.price is None or online is None:
            return ["money: the price of this model is not known; give it with --price-in and --price-out"]
        if not online:
            return [f"money: none ({self.price.source or 'a price of 0'})"]
        as_of = f", prices of {self.price.as_of}" if self.price.as_of else ""
        half = f"; ${batch:,.2f} by the batch interface (--describer batch)" if self.price.batch is not None else ""
        return [f"money: ${online:,.2f} online{self._range(online)}{half}{as_of}"]

    def _range(self, dollars: float) -> str:
        """Between what it is likely to be, where more than one measured description says so."""
        if not self.luck:
            return ""
        return f" (${max(0.0, dollars * (1 - self.luck)):,.2f} to ${dollars * (1 + self.luck):,.2f}, 95 % interval)"

    def _time_line(self) -> str:
        fast, slow = self.time_span
        span = (
            rough_duration(slow)
            if self.at_once >= self.max_concurrency
            else f"{rough_duration(fast)} to {rough_duration(slow)}"
        )
        return f"time: {span} (a description took {self.seconds:.2f} s, {self.at_once} at a time)"

    def _size_lines(self) -> list[str]:
        if not self.trials:
            return []
        sizes = ", ".join(f"{trial.tokens_in:,} at {trial.max_side}" for trial in self.trials)
        now = "now as they are" if self.max_side is None else f"now {self.max_side}"
        return [f"picture size (--max-side, {now}): one picture and its question read {sizes} pixels"]


def make_estimate(
    records: Sequence[DescriptionRecord],
    remaining: int,
    elapsed: float,
    max_concurrency: int,
    price: Price | None,
    max_side: int | None,
    trials: Sequence[SizeTrial] = (),
) -> Estimate:
    """Estimate from answers.

    Args:
        records: measured descriptions, answered ones at least one.
        remaining: descriptions that are still to be written.
        elapsed: seconds that they took all together.
        max_concurrency: requests under way at a time, at most.
        price: what tokens cost.
        max_side: longest side in pixels of the pictures sent.
        trials: other sizes.
    """
    seconds = mean([record.seconds for record in records]) or 0.0
    under_way = seconds * len(records) / max(elapsed, 1e-9)
    return Estimate(
        measured=len(records),
        remaining=remaining,
        tokens_in=mean([record.tokens_in for record in records]),
        tokens_out=mean([record.tokens_out for record in records]),
        luck=relative_reach([price.cost(record.tokens_in, record.tokens_out) for record in records] if price else []),
        seconds=seconds,
        at_once=min(max(1, round(under_way)), max_concurrency),
        max_concurrency=max_concurrency,
        price=price,
        max_side=max_side,
        trials=tuple(trials),
    )


def relative_reach(costs: Sequence[float | None]) -> float | None:
    """Half the width of the 95 % interval of a mean cost, as a share of it; None where it cannot be told."""
    from scipy import stats

    known = np.asarray([cost for cost in costs if cost is not None])
    if len(known) < max(2, len(costs)) or not known.mean():
        return None
    reach = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / len(known) ** 0.5
    return float(reach / known.mean())


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of values; None where one is unknown.

    >>> mean([1, 2]), mean([1, None])
    (1.5, None)
    """
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


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
    asked, ignore = replace(request, turns=request.turns[:1]), lambda answer: None
    try:
        return job.session.loop.run(job.session.describers[0].describe(asked, ignore))
    except RequestFailedError as error:
        return error
    except (EndpointDownError, RateLimitedError):
        return None


FEW = 8


"""Descriptions that an estimate is measured on."""


def estimate(job: DescribeJob, *, sizes: tuple[int, ...] = ()) -> Estimate:
    """Measure what the whole set will take on a few descriptions, which are kept.

    Args:
        job: what is to be done.
        sizes: longest sides of pictures whose tokens are measured, one call each.

    Raises:
        DescribeError: none of the few could be described.
    """
    few = job.spread(FEW)
    started = time.monotonic()
    asked = job.run_missing(few, title=f"Measure {len(few)}")
    elapsed = time.monotonic() - started
    records = [record for record in job.records_of(few) if record.answered]
    if not records:
        reasons = ", ".join(sorted({outcome_of(record) for record in job.records_of(few)}))
        raise DescribeError(f"None of the {len(few)} descriptions that were tried could be written: {reasons}.")
    trials = try_sizes(job, few, sizes)
    measured = elapsed if asked else sum(record.seconds for record in records)
    most, price, side = job.session.max_concurrency, job.session.price, job.question.max_side
    return make_estimate(records, len(job.outside_batches(job.plan())), measured, most, price, side, trials)


def outcome_of(record: DescriptionRecord) -> str:
    """What became of a failed description, in words."""
    return f"{record.error} ({record.detail})" if record.detail else str(record.error)
