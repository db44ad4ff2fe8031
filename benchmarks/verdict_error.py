"""Error rate and power of a comparison's verdict: simulated studies with the variance of recorded runs.

    python benchmarks/verdict_error.py

Every study has a baseline, an arm with descriptions, and either the arm's five controls or three more arms, and is
judged by the code that judges comparisons. An arm is right about an image with a seed if a normal variable exceeds a
threshold; the correlations among arms, images and seeds are fitted to the test predictions of recorded runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from paired import add_options, save
from scipy import optimize, stats

from gpt4image.compare.records import Difference
from gpt4image.compare.summarize import compare_with_baseline
from gpt4image.probing.intervals import mean_squares
from gpt4image.probing.verdicts import beats_all

RECORDED = Path(__file__).parents[1] / "studies" / "scarce_labels.json"
RUNS = "trained/clipart12/tf_efficientnet_lite0"  # of `python studies/scarce_labels.py train WORK --draws 10`
CASES, DRAWS = ("all, clean", "40% wrong", "10 a class", "5 a class"), 10
FITTED = ("baseline", "text-labels")
BASELINE, DESCRIBED = "baseline", "described"
CONTROLS = ("class-name", "shuffled", "shuffled-within-class", "random-words", "random-vectors")
OTHERS = ("text-labels", "described+text-labels", "self-training")
MARGIN = 0.01


@dataclass(frozen=True)
class Spread:
    """Shares of the variance of the latent score by source; the rest differs for every prediction.

    Attributes:
        accuracy: accuracy of the baseline.
        image: how hard an image is for all arms.
        arm_image: how much harder an image is for one arm.
        seed_image: how much harder a seed, such as its order of images, makes an image for all arms.
        seed: how well a seed, such as its draw of labels, suits all arms.
        arm_seed: how much better a seed suits one arm.
    """

    accuracy: float
    image: float
    arm_image: float
    seed_image: float
    seed: float
    arm_seed: float

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Spread:
        """Fit to the predictions of two arms, 1 where right, float [S, N] each."""
        seeds, images = first.shape
        across = ~np.eye(seeds, dtype=bool)

        def together(a: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> float:
            """Return the correlation of latent scores behind the share of images that both are right about."""
            both = float((a @ b.T / images)[pairs].mean())
            cuts = [float(stats.norm.ppf(arm.mean())) for arm in (a, b)]

            def excess(rho: float) -> float:
                covariance = [[1.0, rho], [rho, 1.0]]
                return float(stats.multivariate_normal.cdf(cuts, cov=covariance)) - both

            return float(optimize.brentq(excess, -0.9, 0.99))

        image = together(first, second, across)
        own = (together(first, first, across) + together(second, second, across)) / 2
        same = together(first, second, ~across)
        slopes = [float(stats.norm.pdf(stats.norm.ppf(arm.mean()))) for arm in (first, second)]
        shared = float(np.cov(first.mean(axis=1), second.mean(axis=1))[0, 1]) / (slopes[0] * slopes[1])
        squares = mean_squares(second - first)[0]
        apart = (squares[0] - squares[2]) / images / (slopes[0] ** 2 + slopes[1] ** 2)
        seed, arm_seed = max(shared, 0.0), max(float(apart), 0.0)
        return cls(float(first.mean()), image, max(own - image, 0.0), max(same - image - seed, 0.0), seed, arm_seed)

    def draw(
        self, gains: Mapping[str, float], seeds: int, images: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Draw predictions, 1 where right, float [S, N], of a baseline and of arms with the given gains over it."""

        def normal(share: float, *shape: int) -> np.ndarray:
            return share**0.5 * generator.standard_normal(shape)

        common = normal(self.image, 1, images) + normal(self.seed, seeds, 1) + normal(self.seed_image, seeds, images)
        parts = self.image + self.arm_image + self.seed_image + self.seed + self.arm_seed
        right = {}
        for arm, gain in {BASELINE: 0.0, **gains}.items():
            own = normal(self.arm_image, 1, images) + normal(self.arm_seed, seeds, 1)
            noise = normal(max(1 - parts, 0.0), seeds, images)
            scale = max(parts, 1.0) ** 0.5
            right[arm] = (common + own + noise < scale * stats.norm.ppf(self.accuracy + gain)).astype(float)
        return right


def components(differences: np.ndarray) -> dict[str, float]:
    """Return the variance components of differences, float [S, N]: of seeds, images and residual."""
    seeds, images = differences.shape
    of_seeds, of_images, rest = mean_squares(differences)[0].tolist()
    return {"seeds": (of_seeds - rest) / images, "images": (of_images - rest) / seeds, "rest": rest}


def recorded_spreads(path: Path) -> dict[str, tuple[Spread, dict[str, float]]]:
    """Return the spread of each case, and the variance components of the difference that it was fitted to."""
    spreads = {}
    found = json.loads(path.read_text())
    for case in CASES:
        draws = [found[f"{RUNS}/{case}-{draw}"] for draw in range(DRAWS)]
        first, second = (np.array([list(map(int, each[arm]["test"])) for each in draws], dtype=float) for arm in FITTED)
        spreads[case] = Spread.of(first, second), components(second - first)
    # ten draws do not show well how much seeds vary, so a case far worse than all of them is tried as well
    case, (spread, fitted) = max(spreads.items(), key=lambda item: item[1][0].arm_seed)
    spreads[f"{case}, seeds vary twice as far"] = replace(spread, arm_seed=4 * spread.arm_seed), fitted
    return spreads


def scenarios() -> dict[str, dict[str, float]]:
    """Return the scenarios by name: the gain of each arm of a study over the baseline."""
    guidance = dict.fromkeys((DESCRIBED, *CONTROLS), 0.05)
    nothing = dict.fromkeys((DESCRIBED, *CONTROLS), 0.0)
    found = {"no effect": nothing, "no effect, four arms": dict.fromkeys((DESCRIBED, *OTHERS), 0.0)}
    found["guidance alone, 5 points"] = guidance
    return found | {f"descriptions, {points} points": nothing | {DESCRIBED: points / 100} for points in (2, 5, 10)}


def judge_study(right: Mapping[str, np.ndarray]) -> dict[str, bool]:
    """Return which claims a study makes."""
    seeds = range(len(right[BASELINE]))
    controls = {arm: DESCRIBED if arm in CONTROLS else None for arm in right}
    found = compare_with_baseline(DESCRIBED, right, controls, seeds, MARGIN)
    difference: Difference = found["difference"]
    kind = difference.kind(MARGIN)
    others = [other.kind(MARGIN) for other in found["others"] if controls[other.arm] is None]
    return {
        "training with descriptions helps": kind == "better",
        "the descriptions help": kind == "better" and beats_all([each.low for each in found["controls"]]),
        "hurts": kind == "worse",
        "no difference of 1 point": kind == "equal",
        "inconclusive": kind == "undecided",
        "any arm helps": "better" in (kind, *others),
    }


def line(title: str, shares: Mapping[str, float]) -> str:
    """Format the claims that occurred, with their shares."""
    return f"{title}: " + ", ".join(f"{claim} {share:.1%}" for claim, share in shares.items() if share)


def main() -> None:
    """Print and save the shares of verdicts in every scenario."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200, help="studies for each scenario")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5, 10])
    parser.add_argument("--images", type=int, default=450, help="test images")
    parser.add_argument("--recorded", type=Path, default=RECORDED, help="results of the study of few and wrong labels")
    add_options(parser, rounds=1)
    asked = parser.parse_args()
    generator, rows = np.random.default_rng(0), []
    for case, (spread, fitted) in recorded_spreads(asked.recorded).items():
        check = spread.draw({DESCRIBED: 0.0}, 200, 2000, generator)
        rows.append({"case": case, "spread": vars(spread), "recorded": fitted,
                     "simulated": components(check[DESCRIBED] - check[BASELINE])})  # fmt: skip
        print(f"{case}: variance components of the difference, recorded and simulated\n  {fitted}\n"
              f"  {rows[-1]['simulated']}")  # fmt: skip
        for seeds in asked.seeds:
            for name, gains in scenarios().items():
                studies = [
                    judge_study(spread.draw(gains, seeds, asked.images, generator)) for _ in range(asked.studies)
                ]
                shares = {claim: float(np.mean([found[claim] for found in studies])) for claim in studies[0]}
                rows.append({"case": case, "seeds": seeds, "scenario": name, "shares": shares})
                print(line(f"{case}, {seeds} seeds, {name}", shares), flush=True)
    print("\nAll cases together:")
    for seeds in asked.seeds:
        for name in scenarios():
            found = [row["shares"] for row in rows if (row.get("seeds"), row.get("scenario")) == (seeds, name)]
            shares = {claim: float(np.mean([each[claim] for each in found])) for claim in found[0]}
            rows.append({"case": "all", "seeds": seeds, "scenario": name, "shares": shares})
            print(line(f"{seeds} seeds, {name}", shares))
    asked.recorded = asked.recorded.name
    save("verdict_error", asked, rows)


if __name__ == "__main__":
    main()
