"""Realistic descriptions and findings of the example's images, without a model."""

from __future__ import annotations

import base64
import hashlib

import numpy as np
import pyarrow.parquet as pq

from gpt4image.descriptions.prompts import PromptValues, load_prompts
from gpt4image.descriptions.store import DescriptionRecord
from gpt4image.quality.check_record import (
    ClassKnowledge,
    ClassLeakage,
    Finding,
    FindingItem,
    Knowledge,
    PairedGap,
    Probe,
    QualityReport,
)
from gpt4image.report.descriptions import PreviewHead, PreviewItem
from support import CLIPART12

EXAMPLE = CLIPART12 / "test.parquet"
CLASSES = ("animals", "buildings", "clothing", "electronics", "food", "music")
CLASSES += ("office", "people", "plants", "sports", "tools", "transportation")
COLUMNS = {"plain": "description", "class-conditioned": "class_conditioned_description"}
LOOP = "with three tines (40 times in a row)"
ESTIMATE = (
    "remaining: 1,196 descriptions (estimated from 8)",
    "tokens: 1,105 input and 62 output per description; 1.3M input and 74.2k output in total",
    "money: $0.24 online; $0.12 by the batch interface (--describer batch), prices of 2025-05-01",
    "time: 4 min to 21 min (a description took 1.06 s, 1 at a time)",
)


def example_rows(count, start=0, step=37):
    table = pq.read_table(EXAMPLE)
    return [table.slice((start + number * step) % table.num_rows, 1).to_pylist()[0] for number in range(count)]


def example_id(row):
    return hashlib.blake2b(row["image"]["bytes"], digest_size=16).hexdigest()


def as_address(data, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def make_record(**changes):
    fields = {
        "key": "0" * 32,
        "image_id": "1" * 32,
        "text": "A red accordion with black bellows.",
        "describer": "openai",
        "model": "gpt-4o-mini",
        "served_model": "gpt-4o-mini",
        "prompt": "plain",
        "tokens_in": 1105,
        "tokens_out": 62,
        "cost": 0.000203,
        "finish_reason": "stop",
        "seconds": 1.06,
    }
    return DescriptionRecord(**fields | changes)


def make_item(**changes):
    fields = {name: changes.pop(name) for name in ("path", "label", "thumbnail", "system", "turns") if name in changes}
    return PreviewItem(make_record(**changes), **{"path": "music/accordion_01.png", "label": "music"} | fields)


def example_items(count=6):
    """Both descriptions of some images, one of them failed and one cut off."""
    values, items = PromptValues(CLASSES), []
    for number, row in enumerate(example_rows(count)):
        for strategy in load_prompts(list(COLUMNS)):
            system, turns = strategy.fill(values.of(row["label"]))
            text = row[COLUMNS[strategy.name]]
            outcome = {"text": text, "tokens_out": len(text) // 4, "seconds": 0.8 + len(text) / 400}
            if (number, strategy.name) == (1, "plain"):
                outcome = {"text": "", "error": "server error 500", "detail": "The server had an error. Retry later.",
                           "tokens_in": None, "tokens_out": None, "cost": None, "finish_reason": None}  # fmt: skip
            if (number, strategy.name) == (2, "plain"):
                outcome |= {"text": text[:60], "finish_reason": "length"}
            items.append(make_item(image_id=example_id(row), prompt=strategy.name, path=row["image"]["path"],
                label=CLASSES[row["label"]], thumbnail=as_address(row["image"]["bytes"]), system=system, turns=turns,
                **outcome))  # fmt: skip
    return items


def make_head(**changes):
    fields = {
        "source": "examples/clipart12",
        "model": "gpt-4o-mini",
        "version": "0.1.0",
        "created": "2025-06-03T14:05:00+00:00",
        "spent": 0.00243,
        "estimate": ESTIMATE,
    }
    return PreviewHead(**fields | changes)


def make_finding_item(**changes):
    fields = {
        "key": "0" * 32,
        "image_id": "1" * 32,
        "path": "music/accordion_01.png",
        "label": "music",
        "text": "A red accordion with black bellows.",
        "prompt": "plain",
        "model": "gpt-4o-mini",
        "detail": "",
    }
    return FindingItem(**fields | changes)


def make_finding(kind, severity, title, items, count=None, texts=1830, **changes):
    count = len(items) if count is None else count
    fields = {
        "kind": kind,
        "severity": severity,
        "title": title,
        "explanation": "Such a text says nothing about the image.",
        "advice": "Retry them (--retry) or drop them (--drop).",
        "count": count,
        "share": count / texts,
        "items": items,
        "keys": [f"{number:032x}" for number in range(count)],
        "image_ids": sorted(
            {item.image_id for item in items} | {f"{number:032x}" for number in range(count - len(items))}
        ),
    }
    return Finding(**fields | changes)


def example_findings():
    """Possible findings of a check of the example, with its real images."""
    rows = example_rows(60, step=11)

    def items(chosen, text, detail):
        return [
            make_finding_item(image_id=example_id(row), path=row["image"]["path"], label=CLASSES[row["label"]],
                              text=text(row), detail=detail(row))
            for row in chosen
        ]  # fmt: skip

    def plain(row):
        return row["description"]

    refusal = "I'm sorry, but I can't help with identifying people in images."
    return [
        make_finding(
            "missing", "info", "Images without a text", items(rows[:2], lambda _: "", lambda _: "server error 500"), 14
        ),
        make_finding(
            "refusal", "fix", "Refusals and apologies",
            items(rows[2:5], lambda row: f"{refusal} It may be {CLASSES[row['label']]}.", lambda _: refusal),
        ),
        make_finding(
            "loop", "fix", "Loops",
            items(rows[5:7], lambda _: "A fork, " + "with three tines, " * 40, lambda _: LOOP),
        ),
        make_finding(
            "cut-off", "review", "Cut-off texts",
            items(rows[7:9], lambda row: (plain(row) + " ") * 6 + "It stands on", lambda _: "finish reason: length"), 9,
        ),
        make_finding(
            "opening", "info", "A common opening",
            items(rows[9:16], plain, lambda row: " ".join(plain(row).casefold().split()[:3])), 412,
        ),
        make_finding(
            "leakage", "info", "Class names in texts",
            items(rows[16:46], lambda row: row["class_conditioned_description"],
                  lambda row: CLASSES[row["label"]]), 1304,
        ),
    ]  # fmt: skip


def make_leakage(name, texts=100, with_word=40, sayable=True, told_texts=0, told_with_word=0):
    share = with_word / texts if texts and sayable else None
    return ClassLeakage(name=name, sayable=sayable, texts=texts, with_word=with_word, share=share,
                        told_texts=told_texts, told_with_word=told_with_word)  # fmt: skip


def make_probe(accuracy, half=0.023):
    return Probe(accuracy=accuracy, low=accuracy - half, high=accuracy + half)


def make_gap(mean, half=0.027):
    return PairedGap(mean=mean, low=mean - half, high=mean + half)


def make_knowledge(classes=CLASSES, **changes):
    rng = np.random.default_rng(5)
    shares = rng.uniform((0.6, 0.3, 0.6), (0.95, 0.8, 0.95), (len(classes), 3)).tolist()
    per_class = [
        ClassKnowledge(name=name, images=int(rng.integers(40, 240)), text=text, image=image, both=both)
        for name, (text, image, both) in zip(classes, shares, strict=True)
    ]
    fields = {
        "images": 1204,
        "folds": 5,
        "left_out": {},
        "chance": 0.2,
        "text": make_probe(0.816),
        "image": make_probe(0.529),
        "both": make_probe(0.824),
        "masked": None,
        "text_over_image": make_gap(0.287),
        "both_over_image": make_gap(0.295),
        "mended": 0.731,
        "broken": 0.108,
        "per_class": per_class,
        "verdict": "more",
        "title": "The texts predict the class better than the image features do: +28.7 points (95% interval +26.0 to "
        "+31.4).",
        "advice": "There is something to learn from them. Only a comparison tells whether your model learns it.",
        "backbone": "tf_efficientnet_lite0, ImageNet weights",
        "encoder": "minilm",
    }
    return Knowledge(**fields | changes)


def make_report(**changes):
    fields = {
        "version": "0.1.0",
        "created": "2025-06-03T14:05:00+00:00",
        "source": "examples/clipart12",
        "text_source": "description store",
        "images": 1830,
        "described": 1816,
        "texts": 1830,
        "distinct_texts": 1809,
        "failed": {"server error 500": 11, "too slow": 3},
        "models": {"gpt-4o-mini": 1816},
        "prompts": {"plain": 1404, "class-conditioned": 412},
        "language": "en",
        "encoder": "minilm",
        "words": (2, 24, 391),
        "findings": example_findings(),
        "leakage": [make_leakage(name, 60 + 13 * number, 3 + 9 * (number % 7), told_texts=30, told_with_word=29)
                    for number, name in enumerate(CLASSES)],
        "knowledge": make_knowledge(),
        "no_knowledge": None,
        "notes": ["1 image in more than one class: its texts are not compared with a label."],
    }  # fmt: skip
    return QualityReport(**fields | changes)


def example_thumbnails():
    found = {example_id(row): as_address(row["image"]["bytes"]) for row in example_rows(60, step=11)}
    return found.get
