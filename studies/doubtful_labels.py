"""Which fit should label where labels are wrong: with all labels, without doubtful ones, or both pooled?

    python studies/doubtful_labels.py WORK --draws 4

Makes labels of clipart12's training images wrong. For each fit or pool it prints the share of right posterior labels,
and the estimated share of wrong given ones minus the true one (as the posterior has it, without the bootstrap's
correction), in percent. What is fitted is kept in WORK.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from label_estimates import SimulatedSet, spoil_clipart12

from gpt4image.probing.cross_fit import Refits
from gpt4image.probing.folds import FOLDS
from gpt4image.probing.label_noise import fit_noise_model
from gpt4image.soft_labels.labelling import ROBUST, ROBUST_STRENGTH, _choose
from gpt4image.soft_labels.methods import FitSettings, Rows

CASES = ("20% wrong", "40% wrong", "40% wrong, pairwise")
POOLS = {
    "all labels": ("all",),
    "trimmed once, 30%": ("once",),
    "trimmed three times, half": ("three",),
    "T from three trims, both pooled": ("three", "all"),
    "T from all labels, both pooled": ("all", "three"),
}


def fit(drawn: SimulatedSet, seed: int, path: Path) -> dict[str, np.ndarray]:
    """Return out-of-fold log-probabilities [N, C] of each fit, or open what an earlier call kept."""
    if not path.exists():
        classes = len(drawn.names.labels)
        rows = Rows.of(drawn.vectors, drawn.given, drawn.groups, classes, drawn.names)
        settings = FitSettings(None, FOLDS, seed, None)
        best, logits = _choose(rows, settings)
        found = {"all": logits}
        for name, refits in (("once", Refits(trims=1, trimmed=0.3, rounds=2)), ("three", ROBUST)):
            method = replace(best, refits=refits, strength=ROBUST_STRENGTH)
            found[name] = method.out_of_fold(rows, settings).logits[: rows.count]
        np.savez(path, **found)
    return dict(np.load(path))


def main() -> None:
    """Print a table for each kind of errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    chosen = parser.parse_args()
    for case in chosen.cases:
        print(f"\n{case}: right labels, error of the estimated share of wrong ones; by draw")
        right: dict[str, list[float]] = {name: [] for name in POOLS}
        errors: dict[str, list[float]] = {name: [] for name in POOLS}
        for draw in range(chosen.draws):
            drawn = spoil_clipart12(chosen.work, case, draw)
            fits = fit(drawn, draw, chosen.work / f"doubtful-{case.replace(' ', '-')}-{draw}.npz")
            for name, parts in POOLS.items():
                classifiers = [fits[part] for part in parts]
                posterior = fit_noise_model(classifiers, drawn.given).posterior(classifiers, drawn.given)
                wrong = 1 - np.exp(posterior)[np.arange(len(drawn.given)), drawn.given].mean()
                right[name].append(100 * float((posterior.argmax(axis=1) == drawn.true).mean()))
                errors[name].append(100 * float(wrong - (drawn.given != drawn.true).mean()))
        for name in POOLS:
            of_draws = ("  ".join(f"{value:{form}}" for value in found) for form, found in (
                (".1f", right[name]), ("+.1f", errors[name])))  # fmt: skip
            print(f"{name:32} {np.mean(right[name]):.1f} {np.mean(errors[name]):+.1f}   {' | '.join(of_draws)}")


if __name__ == "__main__":
    main()
