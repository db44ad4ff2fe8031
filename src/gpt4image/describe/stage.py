"""Plan, confirm and run the describe stage."""

from __future__ import annotations

from collections.abc import Callable

from gpt4image.core.console import counted, say
from gpt4image.describe.estimate import FEW, Estimate, estimate
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import Tasks
from gpt4image.llm.budget import OVER_BUDGET
from gpt4image.llm.prices import FREE

DECLINED = "nothing more was sent"


GOES_ON = "The same command goes on."


REMEDIES = {
    DECLINED: "What was measured is kept.",
    OVER_BUDGET: "Give more with --budget (--estimate says what the rest will take), or bound the longest with a lower "
    "--max-tokens.",
}


"""What to do when a job ends before its time, where it is not to give the same command again."""


def describe(
    job: DescribeJob,
    confirm: Callable[[Estimate], bool] | None = None,
    run: Callable[[Tasks], Tally] | None = None,
) -> Tally:
    """Write every description that is still missing.

    Args:
        job: what is to be done.
        confirm: asked with an estimate before money is spent that no budget limits; without it nothing is asked.
        run: has tasks described; in this process when not given.

    Raises:
        DescribeError: no description can be written. What was answered is kept.
    """
    tasks = job.outside_batches(job.plan())
    say_plan(job, tasks)
    if confirm is not None and len(tasks) > FEW and may_cost(job) and not confirm(estimate(job)):
        tally = Tally(len(tasks), stopped=DECLINED)
        say_outcome(tally)
        return tally
    tasks = job.plan()
    tally = run(tasks) if run else job.run(job.outside_batches(tasks))
    say_outcome(tally)
    return tally


def may_cost(job: DescribeJob) -> bool:
    """Whether money is at stake that no budget limits."""
    price = job.session.price
    return job.options.budget is None and (price is None or price.input + price.output > 0)


def say_plan(job: DescribeJob, tasks: Tasks) -> None:
    """What is to be done, in a line or two."""
    prompts = ", ".join(strategy.name for strategy in job.question.strategies)
    say(
        f"descriptions: {len(tasks):,} to write with {job.question.model} ({prompts}), {tasks.done:,} written before "
        "and not paid for again"
    )
    if job.options.budget is not None and job.session.price is FREE:
        say(
            "What runs on this machine counts as free, so the budget stops nothing. If it passes the images on to a "
            "server that costs money, say what that takes: --price-in and --price-out.",
            style="yellow",
        )
    if tasks.failed:
        say(f"{counted(tasks.failed, 'description')} failed before; to try them again: --retry-failed", style="yellow")
    if under_way := len(job.plan()) - len(tasks):
        say(f"{counted(under_way, 'description')} in batches under way, which --describer batch collects")
    if tasks.without_class:
        say(f"{counted(tasks.without_class, 'description')} left out: the prompt names a class that the image lacks")


def say_outcome(tally: Tally) -> None:
    """What failed and why, and what is left."""
    for line in tally.failure_lines():
        say(line, style="yellow")
    if tally.failures:
        say("Which ones: gpt4image describe check. To try them again: --retry-failed", style="yellow")
    if tally.stopped:
        say(
            f"{tally.total - tally.done:,} are left: {tally.stopped}. {REMEDIES.get(tally.stopped, GOES_ON)}",
            style="yellow",
        )
