"""Few, no and wrong labels on clipart12: labels alone, the best that images can do alone, and labels from the texts.

    python studies/scarce_labels.py heads WORK --draws 10       # heads on frozen features: minutes
    python studies/scarce_labels.py train WORK --draws 10       # the demo's training recipe: about 20 s a run
    python studies/scarce_labels.py table WORK                  # both as Markdown

Each draw chooses anew which labels are kept or made wrong, and seeds the training. All arms of a draw train for as many
steps. `heads` trains a hidden layer on the pooled features of four views of each image, and compares forms of labels
and a control in which the texts are shuffled among the images. `train` is what `gpt4image compare` does, with the last
epoch kept, so that no validation label chooses anything. Results are appended to JSON files in WORK, a file per case
and draw; finished ones are skipped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gpt4image import embed_descriptions, load_descriptions, load_encoder, load_images
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.files import write_json
from gpt4image.core.options import ArmOptions, GuidanceOptions, SimulationOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images import ImageTable, drop_leaks
from gpt4image.images.simulate import simulate_labels
from gpt4image.probing.intervals import paired_interval
from gpt4image.probing.logistic_regression import standardise
from gpt4image.soft_labels import ClassTexts
from gpt4image.soft_labels.labelling import Examples, label_rows
from gpt4image.train.data import ImageInputs
from gpt4image.train.frozen import FeatureCache
from gpt4image.train.frozen_features import FrozenBackbone
from gpt4image.train.recipe import Recipe
from gpt4image.train.run import train_model
from gpt4image.train.spec import ARMS
from gpt4image.train.transforms import Normalization, augmented_view, evaluated_view, preprocessing
from gpt4image.workflows.arm_inputs import ArmInputs
from gpt4image.workflows.demo import demo_recipe, example_images, packaged_weights

CASES = {
    "5 a class": SimulationOptions(labels_per_class=5),
    "10 a class": SimulationOptions(labels_per_class=10),
    "20 a class": SimulationOptions(labels_per_class=20),
    "none": SimulationOptions(labels_per_class=0),
    "20% wrong": SimulationOptions(label_noise=0.2),
    "40% wrong": SimulationOptions(label_noise=0.4),
    "40% wrong, pairwise": SimulationOptions(label_noise=0.4, noise_kind="pairwise"),
    "all, clean": SimulationOptions(),
}
WITHOUT_LABELS = ("text-labels", "described+text-labels")
TRAINED = ("baseline", "self-training", "image-labels", "text+image-labels", *WITHOUT_LABELS)
SIZE, VIEWS, STEPS, BATCH, HIDDEN = 160, 4, 360, 64, 256


@dataclass(frozen=True)
class Data:
    """The images and their vectors; rows are those of the table.

    Attributes:
        text: text vectors [N, D].
        names: vectors of the classes' names [C, D].
        still: pooled features of the whole images [N, F].
        views: pooled features of four augmented views of the training images [4, n, F].
    """

    images: ImageTable
    text: np.ndarray
    names: np.ndarray
    still: np.ndarray
    views: np.ndarray

    @property
    def train(self) -> np.ndarray:
        """Rows of the training images."""
        return self.images.split("train")


def open_images(work: Path) -> tuple[ImageTable, EmbeddingStore]:
    """Open the images and the vectors of their descriptions."""
    images = drop_leaks(load_images(str(example_images()), work=work))
    texts = load_descriptions(images, "description")
    return images, embed_descriptions(texts, load_encoder("minilm"), WorkDir(work).embeddings("minilm"))


@cache
def open_data(work: Path) -> Data:
    """Compute features once and keep them."""
    images, store = open_images(work)
    weights = packaged_weights(work / "imagenet-weights.safetensors")
    backbone = FrozenBackbone("tf_efficientnet_lite0", weights, SIZE).build()
    config = preprocessing(backbone, SIZE)
    cache = FeatureCache(
        backbone.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        work / "pooled",
        "study",
        torch.device("cpu"),
        Normalization.of(config),
    )
    train = images.split("train")
    still = cache.fill("still", ImageInputs(images, np.arange(len(images)), evaluated_view(config)))
    views = cache.fill("views", ImageInputs(images, train, augmented_view(demo_recipe(weights), config)), VIEWS)
    names, _ = ClassTexts.of_names(images.classes).embed([load_encoder("minilm")])
    return Data(
        images,
        store.take(store.find(images.ids)),
        names,
        still.features.astype(np.float32),
        views.features.astype(np.float32).reshape(VIEWS, len(train), -1),
    )


def fit_head(data: Data, targets: np.ndarray, labelled: np.ndarray, seed: int) -> np.ndarray:
    """Train a head and return which test images it gets right, bool [T].

    Args:
        data: the data.
        targets: of the training images, float [n, C]; rows of zeros are not used.
        labelled: training images with a given label, bool [n]; where there are others, they fill half of each batch.
        seed: seed of initial weights and batches.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    mean, spread = data.still[data.train].mean(axis=0), data.still[data.train].std()
    views = torch.from_numpy((data.views - mean) / spread)
    used = targets.sum(axis=1) > 0
    pools = [np.flatnonzero(used & labelled), np.flatnonzero(used & ~labelled)]
    pools = [pool for pool in pools if len(pool)]
    wanted = torch.from_numpy(targets.astype(np.float32))
    head = nn.Sequential(
        nn.Linear(views.shape[2], HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(HIDDEN, targets.shape[1])
    )
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = np.concatenate([generator.choice(pool, BATCH // len(pools)) for pool in pools])
        inputs = views[generator.integers(0, len(views), len(rows)), rows]
        loss = nn.functional.cross_entropy(head(inputs), wanted[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    test = data.images.split("test")
    with torch.no_grad():
        logits = head.eval()(torch.from_numpy((data.still[test] - mean) / spread))
    return np.asarray(logits.argmax(dim=1).numpy() == data.images.labels[test])


def head_arms(data: Data, given: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray, dict[str, float]]]:
    """Yield each arm's name, targets of the training images [n, C], and what is known of these.

    Args:
        given: given labels of the training images, int [n], -1 for none.
    """
    train, classes = data.train, len(data.images.classes)
    true = data.images.labels[train]
    groups = np.unique(data.images.ids[train], return_inverse=True)[1]
    hard = np.eye(classes)

    def about(logits: np.ndarray, more: dict[str, Any]) -> dict[str, Any]:
        free = given < 0 if (given < 0).any() else np.ones(len(given), dtype=bool)
        return {"right": float((logits.argmax(axis=1) == true)[free].mean()), **more}

    if (given >= 0).any():
        yield "labels alone", np.where(given[:, None] >= 0, hard[given], 0), {}
        image = label_rows(standardise(data.still[train]), given, groups, classes, seed=seed).of_labels(given)
        yield "image labels", hard[image.argmax(axis=1)], about(image, {})
    examples = Examples(data.names, np.arange(classes))
    for name, order in (
        ("text labels", slice(None)),
        ("shuffled", np.random.default_rng(seed).permutation(len(train))),
    ):
        found = label_rows(data.text[train][order], given, groups, classes, examples, seed=seed)
        logits = found.of_labels(given)
        more: dict[str, Any] = {"method": found.method, "replaced": found.replaced}
        for key, interval in (("accuracy", found.accuracy), ("wrong", found.wrong)):
            more[key] = interval and [interval.mean, interval.low, interval.high]
        yield name, hard[logits.argmax(axis=1)], about(logits, more)
        if name == "shuffled":
            continue
        soft = np.exp(logits)
        yield "text labels, soft", soft, {}
        sharp = soft**2
        yield "text labels, sharp", sharp / sharp.sum(axis=1, keepdims=True), {}
        for least in (0.5, 0.7):
            yield (
                f"text labels surer than {least}",
                hard[logits.argmax(axis=1)] * (soft.max(axis=1, keepdims=True) > least),
                {},
            )


def run_heads(work: Path, draws: int, cases: list[str]) -> None:
    """Train heads for every case, draw and arm."""
    data = open_data(work)
    for draw in range(draws):
        for case in cases:
            path = work / "heads" / f"{case}-{draw}.json"
            if path.exists():
                continue
            given = simulate_labels(data.images, CASES[case], draw).labels[data.train]
            found = {}
            for arm, targets, about in head_arms(data, given, draw):
                right = fit_head(data, targets, given >= 0, draw)
                found[arm] = {"test": right.astype(int).tolist(), **about}
            report(path, case, draw, found)


def run_training(work: Path, draws: int, cases: list[str]) -> None:
    """Train the demo's model for every case, draw and arm."""
    images, store = open_images(work)
    recipe = replace(demo_recipe(packaged_weights(work / "imagenet-weights.safetensors")), keep="last")
    for draw in range(draws):
        for case in cases:
            path = work / "trained" / f"{case}-{draw}.json"
            if not path.exists():
                report(path, case, draw, train_arms(images, store, recipe, work, case, draw))


def train_arms(
    images: ImageTable, store: EmbeddingStore, recipe: Recipe, work: Path, case: str, draw: int
) -> dict[str, dict[str, Any]]:
    """Train the arms of a case and draw."""
    workdir = WorkDir(work / case.replace(" ", "-"))
    text = GuidanceOptions(text="description", encoder=("minilm",))
    texts, options = load_descriptions(images, "description"), ArmOptions(simulation=CASES[case])
    inputs = ArmInputs(images, texts, (store,), (), text, recipe, workdir, options)
    found = {}
    for arm in trained_arms(CASES[case]):
        learned = inputs(arm, draw)
        run = train_model(
            learned.images,
            learned.stores if ARMS.load(arm).uses_text else None,
            recipe,
            workdir.run(arm, draw),
            soft_labels=learned.soft_labels,
            arm=arm,
            seed=draw,
            features=work / "features",
        )
        right = predict_test_images(run, images, features=work / "features").correct
        found[arm] = {"test": right.astype(int).tolist()}
    return found


def trained_arms(case: SimulationOptions) -> tuple[str, ...]:
    """Return the arms of a case: some need images without a label, or are for wrong labels alone."""
    if case.labels_per_class == 0:
        return WITHOUT_LABELS
    few = ("fixmatch",) if case.labels_per_class is not None else ()
    wrong = ("gce",) if case.label_noise else ()
    return (*TRAINED, *few, *wrong)


def report(path: Path, case: str, draw: int, found: dict[str, dict[str, Any]]) -> None:
    """Keep the results of a draw and print a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    print(case, draw, "  ".join(f"{arm} {np.mean(each['test']):.1%}" for arm, each in found.items()), flush=True)


def table(work: Path) -> None:
    """Print every arm's accuracy and its difference to labels alone, over the draws that are there."""
    for kind, reference in (("heads", "labels alone"), ("trained", "baseline")):
        for case in CASES:
            paths = sorted((work / kind).glob(f"{case}-[0-9]*.json"))
            draws = [json.loads(path.read_text()) for path in paths]
            if not draws:
                continue
            print(
                f"\n{kind}, {case}, {len(draws)} draws\n\n| | accuracy | difference | its labels right |\n| --- " * 1,
                end="",
            )
            print("| --- | --- | --- |")
            for arm in draws[0]:
                right = np.array([draw[arm]["test"] for draw in draws], dtype=float)
                cells = [arm, f"{right.mean():.1%}", "", ""]
                if reference in draws[0] and arm != reference:
                    gap = paired_interval(right - np.array([draw[reference]["test"] for draw in draws]))
                    cells[2] = f"{100 * gap.mean:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
                if "right" in draws[0][arm]:
                    cells[3] = f"{np.mean([draw[arm]['right'] for draw in draws]):.1%}"
                print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["heads", "train", "table"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="some of the cases")
    chosen = parser.parse_args()
    steps: dict[str, Callable[[], None]] = {
        "heads": lambda: run_heads(chosen.work, chosen.draws, chosen.cases),
        "train": lambda: run_training(chosen.work, chosen.draws, chosen.cases),
        "table": lambda: table(chosen.work),
    }
    steps[chosen.step]()


if __name__ == "__main__":
    main()
