"""How far the rehearsal of `gpt4image advise` foretells what training gains: its rule, fitted to recorded gains.

    python studies/label_advice.py rehearse WORK --draws 5    # the draws of labels whose trainings are recorded
    python studies/label_advice.py fit WORK                   # writes studies/label_advice.json

`rehearse` repeats the draws of the trained models in `scarce_labels.json`, whose gains on test images are known. `fit`
pairs rehearsed and recorded gains, fits the rule in `gpt4image.quality.advice`, and counts how often its interval holds
for a kind of case that was left out of the fit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scarce_labels import CASES, EXAMPLES, LITE, Study, open_images
from scarce_tables import read_results, right_answers
from scipy import optimize, stats

from gpt4image import load_encoder
from gpt4image.core.files import read_json, write_json
from gpt4image.core.workdir import WorkDir
from gpt4image.images.simulate import simulate_labels
from gpt4image.quality.advice import GainRule
from gpt4image.quality.rehearsal import rehearse
from gpt4image.soft_labels import ClassTexts
from gpt4image.soft_labels.labeller import find_training_vectors
from gpt4image.soft_labels.methods import Examples
from gpt4image.workflows.inputs import open_image_features

HERE = Path(__file__).parent
RECORDED = ("5 a class", "10 a class", "40% wrong", "all, clean")
ARMS = ("text-labels",)
LEAST_SPREAD = 0.015  # standard deviation of the gain of one run on some 450 test images, allowed for at least
LEAST_SHARE = 0.15  # relative spread between image sets that is allowed for at least: one set cannot show it


def rehearse_draws(study: Study, draws: int, cases: list[str]) -> None:
    """Rehearse recorded draws of a set's labels; finished ones are skipped."""
    images, _, store = open_images(study)
    features = open_image_features(images, study.recipe, WorkDir(study.work / study.name))
    examples = Examples(*ClassTexts.of_names(images.classes).embed([load_encoder("minilm")]))
    for draw in range(draws):
        for case in cases:
            path = study.work / "rehearsed" / study.name / f"{case}-{draw}.json"
            if path.exists():
                continue
            known = find_training_vectors(simulate_labels(images, CASES[case], draw), [store])
            rows = np.arange(len(known.ids))
            found = rehearse(
                known.take(rows),
                features.take(features.find(known.ids)),
                known.labels,
                known.groups(),
                len(images.classes),
                examples,
                seed=draw,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            found.save(path)
            print(path.stem, {arm: round(100 * gain.mean, 1) for arm, gain in found.gains.items()}, flush=True)


def collect(work: Path) -> list[dict[str, Any]]:
    """Return rehearsed and recorded gains, one for each set, case, draw and arm."""
    recorded, found = read_results(HERE / "scarce_labels.json"), []
    for path in sorted((work / "rehearsed").glob("*/*.json")):
        trained = recorded.get(f"trained/{path.parent.name}/{LITE}0/{path.stem}", {})
        gains = read_json(path)["gains"]
        for arm in [arm for arm in ARMS if arm in gains and arm in trained and "baseline" in trained]:
            gain = float(right_answers([trained[arm]]).mean() - right_answers([trained["baseline"]]).mean())
            rehearsed = [gains[arm][key] for key in ("mean", "low", "high")]
            case, draw = path.stem.rsplit("-", 1)
            about = {"set": path.parent.name, "case": case, "draw": int(draw), "arm": arm}
            found.append({**about, "rehearsed": rehearsed, "gain": gain})
    return found


def fit_rule(rehearsed: np.ndarray, gains: np.ndarray, kinds: np.ndarray) -> GainRule:
    """Fit the rule by maximum likelihood, each kind of case with the same weight.

    Args:
        rehearsed: rehearsed gains with both ends of their intervals, float [N, 3].
        gains: recorded gains, float [N].
        kinds: kind of case of each, such as a set and how its labels were taken away [N].
    """
    names, kind_of, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    means, errors = rehearsed[:, 0], (rehearsed[:, 2] - rehearsed[:, 1]) / (2 * stats.norm.ppf(0.975))

    def rule(parameters: np.ndarray) -> GainRule:
        spread, share = np.exp(parameters[1:]).tolist()
        return GainRule(float(parameters[0]), max(spread, LEAST_SPREAD), max(share, LEAST_SHARE), len(names))

    def loss(parameters: np.ndarray) -> float:
        found = rule(parameters)
        variances = np.array([found.variance(*pair) for pair in zip(means, errors, strict=True)])
        losses = (gains - found.slope * means) ** 2 / variances + np.log(variances)
        return float((losses / counts[kind_of]).sum())

    return rule(optimize.minimize(loss, [1.0, np.log(0.02), np.log(0.2)], method="Nelder-Mead").x)


def leave_out(rehearsed: np.ndarray, gains: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return which gains lie within the interval of a rule fitted to the other kinds of cases, bool [N]."""
    held = np.zeros(len(gains), dtype=bool)
    for kind in np.unique(kinds):
        out = kinds == kind
        rule = fit_rule(rehearsed[~out], gains[~out], kinds[~out])
        for at in np.flatnonzero(out).tolist():
            expected = rule.expect(*rehearsed[at].tolist())
            held[at] = expected.low <= gains[at] <= expected.high
    return held


def fit(work: Path) -> None:
    """Fit the rule, count how often its interval holds for a kind of case left out, and keep both with the data."""
    found = collect(work)
    kinds = np.array([f"{each['set']}, {each['case']}" for each in found])
    rehearsed = np.array([each["rehearsed"] for each in found])
    gains = np.array([each["gain"] for each in found])
    rule = fit_rule(rehearsed, gains, kinds)
    held = leave_out(rehearsed, gains, kinds)
    print(rule, f"{held.mean():.1%} of {len(held)} intervals hold for kinds of cases left out")
    for kind in np.unique(kinds):
        for arm in ARMS:
            at = (kinds == kind) & np.array([each["arm"] == arm for each in found])
            if at.any():
                means = f"{100 * rehearsed[at, 0].mean():+.1f} | {100 * gains[at].mean():+.1f}"
                print(f"| {kind} | {arm} | {means} | {held[at].sum()} of {at.sum()} |")
    write_json(HERE / "label_advice.json", {"rule": vars(rule), "held": float(held.mean()), "gains": found})


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["rehearse", "fit"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", default=EXAMPLES, help=f"{EXAMPLES} or a folder of openclipart.py")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=list(RECORDED), choices=list(CASES), help="some of the cases")
    chosen = parser.parse_args()
    if chosen.step == "rehearse":
        rehearse_draws(Study(chosen.work, chosen.images), chosen.draws, chosen.cases)
    else:
        fit(chosen.work)


if __name__ == "__main__":
    main()
