"""The describe stage on one page: plan, estimate and confirm, run, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpt4image.core.console import say
from gpt4image.core.format import counted
from gpt4image.core.options import DataOptions
from gpt4image.describe.estimate import FEW, Estimate, estimate
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import Tasks
from gpt4image.llm.budget import EXCEEDED, OVER_BUDGET
from gpt4image.llm.prices import FREE

Run = Callable[[Tasks], Tally]
Confirm = Callable[[Estimate], bool]

DECLINED = "nothing more was sent"
RESUME = "The same command resumes."
REMEDIES = {
    DECLINED: "The measured descriptions are kept.",
    EXCEEDED: (
        "Raise budget (--budget) to the cost of the rest (see --estimate), or make the model think less (--extra-body)."
    ),
    OVER_BUDGET: (
        "Raise budget (--budget) to the cost of the rest (see --estimate), or lower max_tokens (--max-tokens), which "
        "limits the longest answer."
    ),
}
"""Advice for runs that end early, if it is not to run the same command again."""


def describe(job: DescribeJob, confirm: Confirm | None = None, run: Run | None = None) -> Tally:
    """Write every description that is still missing.

    Args:
        job: what is to be done.
        confirm: called with an estimate before money is spent without a budget; None to spend without asking.
        run: the backend, see `select_backend`. Default: this process.

    Raises:
        DescribeError: no image can be described. Answers so far are kept.
    """
    tasks = job.plan()
    print_plan(job, tasks)
    agreed = True
    if confirm is not None and len(tasks) > FEW and may_cost(job):
        agreed = confirm(estimate(job))
        tasks = job.plan()  # the estimate has described a few
    if agreed:
        job.count_trials()
        tally = (run or job.run)(tasks)
        tally.failed_before = tasks.failed.total()
    else:
        tally = Tally(len(tasks), stopped=DECLINED)
        print_trials(job)
    print_outcome(tally)
    return tally


def may_cost(job: DescribeJob) -> bool:
    """Whether the job may spend money without a budget."""
    price = job.session.price
    return job.options.budget is None and (price is None or price.input + price.output > 0)


def select_backend(job: DescribeJob, data: DataOptions, work: Path) -> Run:
    """Return the backend for a job: this process, a vendor's batch interface, or workers.

    Args:
        job: what is to be done.
        data: the options with which workers open the images.
        work: the work directory.
    """
    if job.options.describer == "batch":
        return lambda _: job.run_in_batches(job.unanswered())
    if job.options.engine == "here":
        return job.run
    from gpt4image.describe.workers.launch import run_workers

    return lambda tasks: run_workers(job, tasks, data, work)


def print_plan(job: DescribeJob, tasks: Tasks) -> None:
    """Print the plan."""
    prompts = ", ".join(prompt.name for prompt in job.question.prompts)
    copies = len(job.rows) - len(set(job.images.ids[job.rows].tolist()))
    once = f"; copies are described once ({copies:,} here)" if copies else ""
    say(
        f"descriptions: {len(tasks):,} to write with {job.question.model} ({prompts}), {tasks.done:,} already "
        f"written{once}"
    )
    if job.options.budget is not None and job.session.price is FREE:
        say(
            "Servers on this machine count as free, so the budget has no effect. If yours forwards the images to a "
            "paid service, set its prices: price_in and price_out (--price-in, --price-out).",
            style="yellow",
        )
    if tasks.failed:
        before = Tally(0, failures=tasks.failed)
        say(f"{counted(tasks.failed.total(), 'description')} failed before. {before.retry_line()}", style="yellow")
    if tasks.in_batches:
        under_way = f"{counted(tasks.in_batches, 'description')} in batches under way"
        say(f"{under_way}: to collect them, set describer to batch (--describer batch)")
    if tasks.without_class:
        say(
            f"{counted(tasks.without_class, 'description')} left out, because the prompt names a class and the image "
            "has none"
        )


def print_trials(job: DescribeJob) -> None:
    """Print that trials are not training data."""
    if trials := job.trials():
        say(
            f"trials: {counted(len(trials), 'description')}. Training leaves them out until all images are described "
            "like this, or until use_prompts (--use-prompts) or use_models (--use-models) select them."
        )


def print_outcome(tally: Tally) -> None:
    """Print failures, their causes, and what is left."""
    for line in tally.failure_lines():
        say(line, style="yellow")
    if tally.failures:
        say(f"gpt4image describe check lists them. {tally.retry_line()}", style="yellow")
    for served, count in tally.other_models.most_common():
        say(f"{counted(count, 'answer')} from {served!r}, not from the requested model.", style="yellow")
    if tally.cut_off:
        say(f"{counted(tally.cut_off, 'answer')} cut off: raise max_tokens (--max-tokens).", style="yellow")
    for reason, count in tally.unknown_ends.most_common():
        ended = f"{counted(count, 'answer')} ended with the unknown finish reason {reason!r}"
        say(f"{ended} and may be cut off: gpt4image describe check lists them.", style="yellow")
    if tally.stopped:
        left = counted(tally.total - tally.done, "description")
        remedy = next((advice for start, advice in REMEDIES.items() if tally.stopped.startswith(start)), RESUME)
        say(f"{left} left: {tally.stopped}. {remedy}", style="yellow")
