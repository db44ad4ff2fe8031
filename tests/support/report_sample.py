"""Realistic records of a comparison, without training."""

from __future__ import annotations

import base64
import io

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from gpt4image.compare.records import (
    Answer,
    ArmRecord,
    ClassRecord,
    Comparison,
    DataRecord,
    Difference,
    EncoderRecord,
    EpochRecord,
    Gallery,
    GalleryItem,
    RunRecord,
)
from support import CLIPART12

EXAMPLE = CLIPART12 / "test.parquet"
CLIPART = ["animals", "buildings", "clothing", "electronics", "food", "music"]
CLIPART += ["office", "people", "plants", "sports", "tools", "transportation"]
TITLES = {"baseline": "Without descriptions", "described": "With descriptions"}


def make_history(rng, epochs, final, aligned):
    progress = 1 - np.exp(-4 * np.arange(1, epochs + 1) / epochs)
    noise = rng.normal(0, 0.015, (3, epochs))
    return [
        EpochRecord(
            epoch=epoch,
            learning_rate=0.1 * (1 + np.cos(np.pi * epoch / epochs)) / 2,
            classification_loss=float(2.5 - 1.9 * progress[epoch] + noise[0, epoch]),
            alignment_loss=float(5.5 - 2.2 * progress[epoch] + 3 * noise[1, epoch]) if aligned else None,
            validation_accuracy=float(np.clip(final * progress[epoch] + noise[2, epoch], 0, 1)),
            seconds=2.5,
        )
        for epoch in range(epochs)
    ]


def make_run(rng, arm, seed, accuracy, epochs=30):
    return RunRecord(
        arm=arm,
        seed=seed,
        best_epoch=max(0, epochs - 3 - seed % 3),
        validation_accuracy=accuracy + 0.01,
        test_accuracy=accuracy,
        balanced_accuracy=accuracy - 0.031,
        negative_log_likelihood=2.1 - 1.2 * accuracy,
        seconds=75.0 + seed,
        history=make_history(rng, epochs, accuracy, arm != "baseline"),
    )


def make_confusion(rng, classes, images, accuracy):
    size = len(classes)
    right = rng.binomial(images, accuracy, size)
    matrix = np.diag(right)
    for row in range(size):
        others = rng.dirichlet(np.full(size, 0.3))
        others[row] = 0
        if size > 1:
            matrix[row] += rng.multinomial(images - right[row], others / others.sum())
    return matrix.tolist()


def make_per_class(rng, classes, measured=True):
    records = []
    for name in classes:
        base, gain, half = rng.uniform(0.3, 0.8), rng.normal(0.01, 0.04), rng.uniform(0.02, 0.08)
        records.append(
            ClassRecord(
                name=name,
                train_images=int(rng.integers(40, 240)),
                test_images=int(rng.integers(12, 90)) if measured else 0,
                accuracy={"baseline": base, "described": base + gain} if measured else dict.fromkeys(TITLES),
                difference=gain if measured else None,
                low=gain - half if measured else None,
                high=gain + half if measured else None,
            )
        )
    return records


def make_difference(per_seed, half=None):
    one = len(per_seed) == 1
    mean = float(np.mean(per_seed))
    half = half if half is not None else 0.02 if one else 2.2 * float(np.std(per_seed, ddof=1)) / len(per_seed) ** 0.5
    return Difference(
        arm="described",
        reference="baseline",
        seeds=list(range(len(per_seed))),
        per_seed=list(per_seed),
        mean=mean,
        low=mean - half,
        high=mean + half,
        covers="images only" if one else "seeds and images",
    )


def make_data(**changes):
    fields = {
        "source": "examples/clipart12",
        "images": {"train": 1204, "validation": 176, "test": 450},
        "rejected": [("animals/broken 07.png", "cannot be decoded: image file is truncated (2 bytes not processed)")],
        "rejected_total": 1,
        "duplicates": 14,
        "leaked": 0,
        "descriptions_source": "column 'description' of examples/clipart12",
        "with_text": {"train": 1190, "validation": 176, "test": 450},
        "without_text": {"train": 14, "validation": 0, "test": 0},
        "orphan_texts": 3,
        "repeated_texts": 21,
    }
    return DataRecord(**fields | changes)


ENCODER = EncoderRecord(
    name="all-MiniLM-L6-v2",
    revision="8b3219a92973c328a8e22fadcfa821b5dc75636a",
    width=384,
    max_tokens=256,
    pooling="mean",
    distinct_texts=1183,
    truncated_texts=2,
)
RECIPE = {
    "model": "test_resnet",
    "image_size": 64,
    "epochs": 30,
    "batch_size": 64,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.05,
    "alignment_loss": "clip",
    "alignment_weight": 0.3,
    "temperature": 0.1,
    "targets": "same text",
    "mixup": 0.0,
    "pretrained": False,
    "augmentation": ["random resized crop", "flip", "colour jitter"],
    "checkpoint": None,
}


def make_comparison(classes=CLIPART, per_seed=(0.012, 0.021, 0.004, 0.017, 0.009), half=None, **changes):
    rng = np.random.default_rng(7)
    base = 0.528 + rng.normal(0, 0.012, len(per_seed))
    accuracies = {"baseline": base, "described": base + np.array(per_seed)}
    arms = [
        ArmRecord(
            name=name,
            title=title,
            runs=[make_run(rng, name, seed, float(value)) for seed, value in enumerate(accuracies[name])],
            confusion=make_confusion(rng, classes, 37 * len(per_seed), float(accuracies[name].mean())),
        )
        for name, title in TITLES.items()
    ]
    fields = {
        "version": "0.1.0",
        "created": "2025-06-03T14:05:00+00:00",
        "classes": list(classes),
        "data": make_data(),
        "encoders": [ENCODER],
        "recipe": RECIPE,
        "arms": arms,
        "difference": make_difference(per_seed, half),
        "per_class": make_per_class(rng, classes),
        "seconds": 768.4,
        "device": "cpu, 2 threads",
        "notes": ["The best epoch was chosen on the validation images; the test images were used once."],
    }
    return Comparison(**fields | changes)


def make_thumbnail(colour=(90, 140, 200)):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(buffer, "JPEG")
    return as_address(buffer.getvalue(), "jpeg")


def as_address(data, kind):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def make_item(group="mended", label="music", description="A red accordion with black bellows.", **changes):
    right = {"mended": (False, True), "broken": (True, False), "both right": (True, True), "both wrong": (False, False)}
    answers = {
        arm: Answer(answer=label if good else "tools", probability=0.61, right=good)
        for arm, good in zip(TITLES, right[group], strict=True)
    }
    fields = {
        "path": "music/accordion_01.png",
        "thumbnail": make_thumbnail(),
        "label": label,
        "description": description,
        "answers": answers,
        "group": group,
    }
    return GalleryItem(**fields | changes)


def example_gallery(count=44):
    """Real images and descriptions of the example data, with invented answers."""
    rng = np.random.default_rng(3)
    table = pq.read_table(EXAMPLE)
    groups = ("mended", "broken", "both wrong", "both right")
    items = []
    for place, row in enumerate(rng.choice(table.num_rows, count, replace=False)):
        record = table.slice(int(row), 1).to_pylist()[0]
        label = CLIPART[record["label"]]
        wrong = CLIPART[(record["label"] + 5) % 12]
        group = groups[(place + place // 12) % 4]
        item = make_item(group, label, record["description"])
        answers = {
            name: Answer(
                answer=label if answer.right else wrong, probability=float(rng.uniform(0.3, 0.95)), right=answer.right
            )
            for name, answer in item.answers.items()
        }
        thumbnail = as_address(record["image"]["bytes"], "png")
        path = record["image"]["path"]
        items.append(item.model_copy(update={"answers": answers, "thumbnail": thumbnail, "path": path}))
    return Gallery(items=items)


def save(work, comparison, gallery=None):
    work.mkdir(parents=True, exist_ok=True)
    comparison.save(work / "comparison.json")
    (gallery or Gallery(items=[make_item()])).save(work / "gallery.json")
    return work
