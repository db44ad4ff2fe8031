"""Send the result of a comparison to experiment trackers."""

from __future__ import annotations

from pathlib import Path

from gpt4image.compare.records import Comparison
from gpt4image.report import verdict
from gpt4image.train.tracking import Tracking


def track_comparison(tracking: Tracking, comparison: Comparison, report: Path) -> None:
    """Send the result of a comparison to trackers, and the report to those that store files."""
    difference = comparison.difference
    trackers = tracking.open("comparison", {"verdict": verdict(comparison).text, "device": comparison.device})
    score = f"test_{comparison.score.replace(' ', '_')}"
    seeds = sorted({run.seed for arm in comparison.arms for run in arm.runs})
    for seed in seeds:  # in ascending order: W&B ignores figures of steps before the latest
        accuracies = {arm.name: run.test_accuracy for arm in comparison.arms for run in arm.runs if run.seed == seed}
        trackers.log({f"{score}/{name}": accuracy for name, accuracy in accuracies.items()}, seed)
    interval = {"mean": difference.mean, "low": difference.low, "high": difference.high}
    trackers.log({f"difference/{name}": value for name, value in interval.items()}, seeds[-1] + 1)
    trackers.attach(report)
    trackers.finish()
