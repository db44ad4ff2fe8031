"""The demo's figure with all draws that were recorded, as the README shows it.

python studies/scarce_figure.py studies/scarce_labels.json docs/demo.svg
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scarce_tables import read_results, right_answers

from gpt4image.compare.records import ArmRecord
from gpt4image.compare.summarize import record_difference
from gpt4image.report.comparison.cases import IMAGES_ALONE, Bar, BarGroup, write_figure
from gpt4image.report.comparison.figures import arm_style
from gpt4image.train.spec import ARMS, REFERENCE, TEXT_LABELS
from gpt4image.workflows.demo import CASES

RECORDED = (
    ("10 a class", "self-training", TEXT_LABELS),
    ("40% wrong", "image-labels", TEXT_LABELS),
    ("all, clean", "image-labels", TEXT_LABELS),
)
"""The demo's cases as they are recorded, the best that images do alone in each, and the labels with texts."""


def read_groups(source: Path) -> Iterator[BarGroup]:
    """Yield what the figure shows of each case."""
    found = read_results(source)
    for shown, (case, images, texts) in zip(CASES, RECORDED, strict=True):
        prefix = f"trained/clipart12/tf_efficientnet_lite0/{case}-"
        draws = [
            entry for key, entry in sorted(found.items()) if key.startswith(prefix) and key[len(prefix) :].isdigit()
        ]
        right = {name: right_answers([draw[name] for draw in draws]) for name in (REFERENCE, images, texts)}
        bars = (
            Bar(
                f"{IMAGES_ALONE if name == images else ''}{ARMS.load(name).title}",
                arm_style(ArmRecord(name=name, title="", runs=[], confusion=[])),
                float(answers.mean()),
                record_difference(name, REFERENCE, right, range(len(draws))) if name != REFERENCE else None,
                name == texts,
            )
            for name, answers in right.items()
        )
        yield BarGroup(shown.title, shown.about, len(draws), tuple(bars))


def main(words: Sequence[str]) -> None:
    """Draw the figure: the file of results, then the SVG."""
    source, target = map(Path, words)
    write_figure(target, list(read_groups(source)))


if __name__ == "__main__":
    main(sys.argv[1:])
