"""Estimate the cost of the whole set from a few images, before anything else is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gpt4image.core.errors import DescribeError, ImageError
from gpt4image.core.format import as_end, compact, counted, duration, money
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.tasks import RequestMaker, Tasks, request_or_error
from gpt4image.descriptions.store.records import DescriptionRecord, payment_of
from gpt4image.descriptions.store.shards import now
from gpt4image.images.clips import FrameChoice
from gpt4image.llm.base import Counted, DescribeRequest, EndpointDownError, RateLimitedError, RequestFailedError
from gpt4image.llm.prices import Price
from gpt4image.llm.rate_limiter import START

FEW = 8
"""Number of descriptions to measure."""

CANDIDATES = 64
"""Number of first tasks from which these are chosen by picture size."""

SIZE_TRIAL = "size trial"
SIZE_TRIAL_TOKENS = 16
"""Maximum tokens of the answers in size trials, in which only the input tokens matter."""


@dataclass(frozen=True)
class Estimate:
    """Cost and time of the descriptions that remain to be written.

    Attributes:
        records: the measured answers, at least one.
        remaining: number of descriptions that remain to be written.
        elapsed: seconds that all measured ones took together.
        max_concurrency: maximum number of open requests.
        price: what tokens cost; None where it is not known.
        max_side: longest side in pixels of the pictures sent; None for no limit.
        frames: which frames are sent, if clips are described.
        trials: input tokens of a picture and its question, by longest side in pixels.
    """

    records: Sequence[DescriptionRecord]
    remaining: int
    elapsed: float
    max_concurrency: int
    price: Price | None
    max_side: int | None
    trials: Mapping[int, int] = field(default_factory=dict)
    frames: FrameChoice | None = None

    @property
    def tokens_in(self) -> float | None:
        """Mean input tokens per description; None if the server does not count them."""
        return mean([record.tokens_in for record in self.records])

    @property
    def tokens_out(self) -> float | None:
        """Mean output tokens per description; None if the server does not count them."""
        return mean([record.tokens_out for record in self.records])

    @property
    def seconds(self) -> float:
        """Mean seconds per description."""
        return mean([record.seconds for record in self.records]) or 0.0

    @property
    def at_once(self) -> int:
        """Mean number of open requests during the measurement, but at least the number with which every run begins."""
        open_requests = self.seconds * len(self.records) / max(self.elapsed, 1e-9)
        return min(max(round(open_requests), min(START, len(self.records))), self.max_concurrency)

    @property
    def margin(self) -> float | None:
        """Half the width of the 95% confidence interval of the mean cost (Student's t), as a share of that mean.

        None for fewer than two answers, or if price or tokens are unknown.
        """
        from scipy import stats

        costs = [self.price.cost(record.tokens_in, record.tokens_out) for record in self.records] if self.price else []
        known = np.asarray([cost for cost in costs if cost is not None])
        if len(known) < max(2, len(costs)) or not known.mean():
            return None
        half_width = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / len(known) ** 0.5
        return float(half_width / known.mean())

    def dollars(self, *, batch: bool = False) -> float | None:
        """Return US dollars for the remaining descriptions; None if price or tokens are unknown."""
        if self.price is None or self.tokens_in is None or self.tokens_out is None:
            return None
        # Prices take whole tokens, and a thousand descriptions round better than one.
        thousand = self.price.cost(round(self.tokens_in * 1000), round(self.tokens_out * 1000), batch=batch) or 0.0
        return thousand / 1000 * self.remaining

    @property
    def time_span(self) -> tuple[float, float]:
        """Seconds for the remaining descriptions, with concurrency growing to its maximum and as measured."""
        left, limit, fastest = float(self.remaining), min(START, self.max_concurrency), 0.0
        while left > 0 and limit < self.max_concurrency:  # it doubles every round trip, see `RateLimiter`
            fastest += self.seconds * min(1.0, left / limit)
            left, limit = left - limit, min(2 * limit, self.max_concurrency)
        fastest += self.seconds * max(0.0, left) / self.max_concurrency
        slowest = self.seconds * self.remaining / self.at_once
        return min(fastest, slowest), slowest

    def lines(self) -> list[str]:
        """Return the estimate as lines of text."""
        head = f"remaining: {counted(self.remaining, 'description')} (estimated from {len(self.records):,})"
        clips = [f"clips: {self.frames.words}, in one request; fewer cost less (--frames)"] if self.frames else []
        return [head, *clips, self._token_line(), self._money_line(), self._time_line(), *self._size_lines()]

    def fields(self) -> dict[str, object]:
        """Return the estimate as JSON values: tokens per description, dollars and seconds for all remaining ones."""
        return {
            "remaining": self.remaining,
            "measured_on": len(self.records),
            "frames": self.frames and self.frames.count,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "dollars": self.dollars(),
            "batch_dollars": self.dollars(batch=True),
            "seconds": self.time_span,
        }

    def _token_line(self) -> str:
        if self.tokens_in is None or self.tokens_out is None:
            return "tokens: not counted by this server"
        read, written = (compact(tokens * self.remaining) for tokens in (self.tokens_in, self.tokens_out))
        per_description = f"{self.tokens_in:.0f} input and {self.tokens_out:.0f} output per description"
        return f"tokens: {per_description}; {read} input and {written} output in total"

    def _money_line(self) -> str:
        online, batch = self.dollars(), self.dollars(batch=True)
        if self.price is None or online is None:
            return "money: the price of this model is unknown: set price_in and price_out (--price-in, --price-out)"
        if not online:
            return f"money: none ({self.price.source or 'a price of 0'})"
        interval = ""
        if margin := self.margin:
            low, high = max(0.0, online * (1 - margin)), online * (1 + margin)
            interval = f" ({money(low)} to {money(high)}, 95% interval)"
        half = f"; {money(batch)} by the batch interface (--describer batch)" if self.price.batch is not None else ""
        as_of = f", prices of {self.price.as_of}" if self.price.as_of else ""
        changes = f"; the price changes on {self.price.changes}" if self.price.changes else ""
        return f"money: {money(online)} online{interval}{half}{as_of}{changes}"

    def _time_line(self) -> str:
        fast, slow = map(duration, self.time_span)
        pace = f"a description took {self.seconds:.2f} s, {self.at_once} at a time"
        if slow == fast:
            return f"time: {slow} ({pace})"
        return (
            f"time: {fast} to {slow}, with up to {self.max_concurrency:,} concurrent requests or as few as measured "
            f"({pace})"
        )

    def _size_lines(self) -> list[str]:
        if not self.trials:
            return []
        sizes = ", ".join(f"{tokens:,} at {side}" for side, tokens in self.trials.items())
        now = "now original size" if self.max_side is None else f"now {self.max_side}"
        what = "the frames of a clip and their question" if self.frames else "one picture and its question"
        return [f"picture size, max_side (--max-side), {now}: input tokens of {what}: {sizes} pixels"]


def estimate(job: DescribeJob, *, sizes: Sequence[int] = ()) -> Estimate:
    """Estimate the whole set from a few descriptions, which are kept.

    Args:
        job: what is to be done.
        sizes: longest sides in pixels to measure with one request each.

    Raises:
        DescribeError: none of them could be described.
    """
    few = spread_by_size(job, FEW)
    started = time.monotonic()
    asked = job.run_trial(few, title=f"Measure {len(few)}")
    elapsed = time.monotonic() - started
    records = [record for record in job.records_of(few) if record.answered]
    if not records:
        reasons = "; ".join(sorted({outcome_of(record) for record in job.records_of(few)})) or asked.stopped
        raise DescribeError(f"None of the {len(few)} descriptions that were tried could be written: {as_end(reasons)}")
    return Estimate(
        records,
        remaining=len(job.plan()),
        elapsed=elapsed if asked.total else sum(record.seconds for record in records),
        max_concurrency=job.session.max_concurrency,
        price=job.session.price,
        max_side=job.question.max_side,
        trials=try_sizes(job, few, sizes),
        frames=job.question.frames,
    )


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values; None if one is unknown.

    >>> mean([1, 2]), mean([1, None])
    (1.5, None)
    """
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def spread_by_size(job: DescribeJob, count: int) -> Tasks:
    """Choose some of the first tasks with representative picture sizes; always the same ones.

    The cost of a picture depends on its size. The tasks are sorted by size and cut into equal shares, and the middle
    task represents each share.
    """
    tasks = job.first(CANDIDATES)
    maker = RequestMaker(job.images, job.question, tasks)
    pixels = [sum(map(math.prod, picture_sizes(maker, number))) for number in range(len(tasks))]
    order = np.argsort(pixels, kind="stable")
    middles = ((np.arange(count) + 0.5) * len(tasks) / count).astype(np.int64) if len(tasks) > count else slice(None)
    return tasks.part(np.sort(order[middles]))


def picture_sizes(maker: RequestMaker, number: int) -> list[tuple[int, int]]:
    """Return width and height in pixels of a task's pictures as sent; none if they cannot be read."""
    request = request_or_error(maker, number)
    return [] if isinstance(request, ImageError) else [(each.width, each.height) for each in request.pictures]


def try_sizes(job: DescribeJob, few: Tasks, sizes: Sequence[int]) -> dict[int, int]:
    """Measure the tokens of the largest of a few pictures at several sizes up to its own, by longest side.

    Earlier trials are not repeated, and trials that the budget does not cover are skipped.
    """
    unscaled = RequestMaker(job.images, replace(job.question, max_side=None), few)
    sides = [max(map(max, picture_sizes(unscaled, number)), default=0) for number in range(len(few))]
    largest = int(np.argmax(sides))
    if sides[largest] <= min(sizes, default=0):
        return {}
    known = {
        (paid.image_id, paid.prompt_hash, paid.settings): paid.tokens_in
        for paid in job.store.payments()
        if paid.error == SIZE_TRIAL and paid.model == job.question.model
    }
    sampling = replace(job.question.sampling, max_tokens=SIZE_TRIAL_TOKENS)
    trials = {}
    for side in sorted({min(size, sides[largest]) for size in sizes}):
        maker = RequestMaker(job.images, replace(job.question, max_side=side, sampling=sampling), few)
        asked = maker.record(largest)
        tokens_in = known.get((asked.image_id, asked.prompt_hash, asked.settings))
        if tokens_in := tokens_in or measure(job, asked, maker.request(largest)):
            trials[side] = tokens_in
    return trials


def measure(job: DescribeJob, asked: DescriptionRecord, request: DescribeRequest) -> int | None:
    """Ask the first question of a request and charge it.

    Returns:
        Its input tokens; None if the budget does not cover it or the server does not count them.
    """
    budget = job.budget()
    if not budget.affords(0):
        return None
    describer, first = job.session.describers[0], replace(request, turns=request.turns[:1])
    answer: Counted
    try:
        answer = job.session.loop.run(describer.describe(first, lambda answer: None))
    except RequestFailedError as error:
        answer = error
    except (EndpointDownError, RateLimitedError):
        return None
    cost = budget.pay(answer.tokens_in, answer.tokens_out)
    with job.store.writer() as writer:
        writer.write(payment_of(asked, SIZE_TRIAL, answer.tokens_in, answer.tokens_out, cost, now()))
    return answer.tokens_in


def outcome_of(record: DescriptionRecord) -> str:
    """Return why a description failed."""
    return f"{record.error}: {record.detail}" if record.detail else str(record.error)
