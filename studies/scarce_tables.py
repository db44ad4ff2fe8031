"""Results of `scarce_labels.py`: read, gathered into one file, and shown as Markdown tables."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gpt4image.compare.summarize import GROUPS, VERSIONS
from gpt4image.core.files import atomic_write, read_json
from gpt4image.probing.intervals import paired_interval
from gpt4image.train.spec import REFERENCE

Draws = dict[str, dict[int, dict[str, Any]]]
"""Results by arm and draw."""


def right_answers(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return right answers, float [S, T], of some draws."""
    return np.array([list(map(int, each["test"])) for each in entries], dtype=float)


def read_results(source: Path) -> dict[str, Any]:
    """Read all results, of a file of `collect` or of a folder of work, by kind, image set, backbone, case and draw."""
    if source.is_file():
        return dict(json.loads(source.read_text()))
    root = source / "results"
    paths = sorted(root.rglob("*.json"))
    return {path.relative_to(root).as_posix().removesuffix(".json"): read_json(path) for path in paths}


def collect(work: Path, target: Path) -> None:
    """Add all results of a folder to a file."""
    about = {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
    found = {**(read_results(target) if target.exists() else {}), **read_results(work), "versions": about}
    lines = (f"{json.dumps(key)}: {json.dumps(found[key])}" for key in sorted(found))
    with atomic_write(target) as file:
        file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())


def print_tables(
    source: Path,
    order: Sequence[str],
    sets: Sequence[str],
    backbones: Sequence[str],
    cases: Sequence[str],
    arms: Sequence[str],
    against: str | None = None,
) -> None:
    """Print every arm's accuracy and its difference to labels alone or to another arm, over the draws that are there.

    In brackets is the share of right labels among those that an arm gives; `s` are the median seconds of a run.

    Args:
        source: results.
        order: the cases in their order.
        sets: image sets to show; all if none is named, as with the others.
        backbones: backbones to show.
        cases: cases to show.
        arms: arms to show.
        against: the arm that the others are compared with, labels alone by default.
    """
    found = read_results(source)
    shown: dict[tuple[str, str], dict[tuple[str, str], Draws]] = {}
    for key, by_arm in found.items():
        kind, _, rest = key.partition("/")
        if kind not in ("heads", "trained"):
            continue
        name, backbone, case_draw = rest.split("/")
        case, _, draw = case_draw.rpartition("-")
        if not all(part in chosen for part, chosen in ((name, sets), (backbone, backbones), (case, cases)) if chosen):
            continue
        for arm, entry in by_arm.items():
            if not arms or arm in arms:
                draws = shown.setdefault((kind, name), {}).setdefault((backbone, case), {})
                draws.setdefault(arm, {})[int(draw)] = entry
    for (kind, name), rows in shown.items():
        reference = against or ("labels alone" if kind == "heads" else REFERENCE)
        columns = list(dict.fromkeys(arm for draws in rows.values() for arm in draws))
        columns.sort(key=lambda arm: arm != reference)
        print(f"\n{kind}, {name}\n\n{header('model', 'labels', 'draws', 's', *columns)}")
        for (backbone, case), draws in sorted(rows.items(), key=lambda row: (row[0][0], order.index(row[0][1]))):
            most = max(map(len, draws.values()))
            cells = [cell(draws, arm, reference, most) for arm in columns]
            seconds = [each["seconds"] for runs in draws.values() for each in runs.values() if "seconds" in each]
            spent = f"{np.median(seconds):.0f}" if seconds else ""
            print(f"| {backbone} | {case} | {most} | {spent} | {' | '.join(cells)} |")
        if kind == "trained" and name != "clipart12":
            print_groups(found[f"images/{name}"], rows, columns)


def header(*titles: str) -> str:
    """Return the first two lines of a table."""
    return f"| {' | '.join(titles)} |\n{'| --- ' * len(titles)}|"


def cell(draws: Draws, arm: str, reference: str, most: int) -> str:
    """Return an arm's accuracy, its difference to the reference, and the share of right labels, of a case."""
    if arm not in draws:
        return ""
    text = f"{right_answers(list(draws[arm].values())).mean():.1%}"
    common = sorted(draws[arm].keys() & draws.get(reference, {}).keys()) if arm != reference else []
    if common:
        ours, theirs = (right_answers([draws[each][draw] for draw in common]) for each in (arm, reference))
        gap = paired_interval(ours - theirs)
        text += f", {100 * gap.mean:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
    known = [each["right"] for each in draws[arm].values() if "right" in each]
    text += f" [{np.mean(known):.1%}]" if known else ""
    text += " [none given]" if any(each.get("labelled") == 0 for each in draws[arm].values()) else ""
    return text + (f", {len(draws[arm])} draws" if len(draws[arm]) < most else "")


def print_groups(about: Mapping[str, Any], rows: Mapping[tuple[str, str], Draws], arms: Sequence[str]) -> None:
    """Print accuracies of classes with many, medium and few training images, as comparisons group them."""
    labels, train = np.array(about["test"]), np.array(about["train"])
    numbers = np.select([train >= least for least in GROUPS.values()], range(len(GROUPS)))[labels]
    groups = {name: numbers == number for number, name in enumerate(GROUPS) if (numbers == number).any()}
    sizes = [f"{name} ({chosen.sum()})" for name, chosen in groups.items()]
    print(f"\n{header('model', 'labels', 'arm', 'all', 'mean of classes', *sizes)}")
    for (backbone, case), draws in rows.items():
        for arm in arms:
            if arm not in draws:
                continue
            right = right_answers(list(draws[arm].values())).mean(axis=0)
            classes = np.mean([right[labels == label].mean() for label in np.unique(labels)])
            shares = [right.mean(), classes, *(right[chosen].mean() for chosen in groups.values())]
            print(f"| {backbone} | {case} | {arm} | {' | '.join(f'{share:.1%}' for share in shares)} |")
