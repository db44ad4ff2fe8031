"""Which fit should label where labels are wrong: with all labels, without doubtful ones, or both pooled?

    python studies/doubtful_labels.py WORK --draws 4
    python studies/doubtful_labels.py WORK --draws 2 --bundled

Makes labels of clipart12's training images wrong. For each fit or pool it prints the share of right posterior labels,
and the estimated share of wrong given ones minus the true one (as the posterior has it, without the bootstrap's
correction), in percent. What is fitted is kept in WORK. With `--bundled` it does
that to two sets that scikit-learn comes with, whose labels are right: is the error the estimate's, or clipart12's?
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
from gpt4image.probing.logistic_regression import standardise
from gpt4image.soft_labels.labelling import ROBUST, ROBUST_STRENGTH, _choose
from gpt4image.soft_labels.methods import Examples, FitSettings, Rows

CASES = ("20% wrong", "40% wrong", "40% wrong, pairwise")
BUNDLED = [f"{name}, {share}% wrong" for name in ("digits", "breast cancer") for share in (0, 10, 20, 30, 40)]
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
        classes = int(drawn.true.max()) + 1
        names = drawn.names if len(drawn.names.vectors) else None
        rows = Rows.of(drawn.vectors, drawn.given, drawn.groups, classes, names)
        settings = FitSettings(None, FOLDS, seed, None)
        best, logits = _choose(rows, settings)
        found = {"all": logits}
        for name, refits in (("once", Refits(trims=1, trimmed=0.3, rounds=2)), ("three", ROBUST)):
            method = replace(best, refits=refits, strength=ROBUST_STRENGTH)
            found[name] = method.out_of_fold(rows, settings).logits[: rows.count]
        np.savez(path, **found)
    return dict(np.load(path))


def bundled(name: str, share: float, draw: int) -> SimulatedSet:
    """Make labels of 1,000 images of digits, or of 569 findings of breast cancer, wrong at random."""
    from sklearn import datasets

    found = datasets.load_digits() if name == "digits" else datasets.load_breast_cancer()
    rows = np.random.default_rng(0).permutation(len(found.target))[:1000]
    vectors = found.data if name == "digits" else (found.data - found.data.mean(axis=0)) / found.data.std(axis=0)
    true, classes, generator = found.target[rows], len(found.target_names), np.random.default_rng(draw)
    wrong = generator.random(len(rows)) < share
    given = np.where(wrong, (true + generator.integers(1, classes, len(rows))) % classes, true)
    no_names = Examples(np.empty((0, vectors.shape[1])), np.empty(0, np.int64))
    return SimulatedSet(standardise(vectors)[rows], true, given, no_names, "symmetric", np.arange(len(rows)))


def main() -> None:
    """Print a table for each kind of errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--bundled", action="store_true", help="other sets than clipart12")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    for case in BUNDLED if chosen.bundled else chosen.cases:
        print(f"\n{case}: right labels, error of the estimated share of wrong ones; by draw")
        right: dict[str, list[float]] = {name: [] for name in POOLS}
        errors: dict[str, list[float]] = {name: [] for name in POOLS}
        for draw in range(chosen.draws):
            if chosen.bundled:
                name, share = case.split(", ")
                drawn = bundled(name, float(share.split("%")[0]) / 100, draw)
            else:
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
