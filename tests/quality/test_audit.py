"""The audit finds planted label errors, and other tools can read it."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from gpt4image import embed_descriptions, load_images
from gpt4image.descriptions.picks import PickedClasses
from gpt4image.quality.audit import audit_labels
from gpt4image.quality.audit_export import export_audit
from gpt4image.quality.audit_record import AuditRecord
from support.image_files import class_folders
from support.texts import described
from support.training import LetterEncoder

CLASSES = ("boat", "cat", "tree")
WORDS = {"boat": "abab aabb abba bbaa", "cat": "cdcd ccdd cddc ddcc", "tree": "efef eeff effe ffee"}  # told by letters
PER_CLASS = 40


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return load_images(
        class_folders(tmp_path_factory.mktemp("audit"), dict.fromkeys(CLASSES, PER_CLASS)),
        validation_share=0,
        test_share=0,
    )


@pytest.fixture(scope="module")
def descriptions(images):
    generator = np.random.default_rng(0)
    texts = []
    for row in range(len(images)):
        words = WORDS[images.classes[images.labels[row]]].split()
        texts.append(f"{' '.join(generator.choice(words, 2, replace=False))} {'xyz'[row % 3] * (row % 7)}")
    return described(images, texts)


@pytest.fixture(scope="module")
def store(descriptions, tmp_path_factory):
    return embed_descriptions(descriptions, LetterEncoder(), tmp_path_factory.mktemp("audit") / "words")


def with_labels(images, labels):
    at = images.rows.schema.get_field_index("label")
    return replace(images, rows=images.rows.set_column(at, images.rows.schema.field(at), pa.array(labels, pa.int32())))


@pytest.fixture(scope="module")
def planted(images):
    """The images with every tenth label wrong, and the true labels."""
    labels = images.labels.copy()
    labels[::10] = (labels[::10] + 1) % 3
    return with_labels(images, labels), images.labels


@pytest.fixture(scope="module")
def audited(planted, descriptions, store):
    return audit_labels(planted[0], descriptions, (store,))


@pytest.mark.slow
def test_planted_errors_are_listed_first_with_the_true_label(planted, audited):
    noisy, true = planted
    wrong = set(noisy.ids[noisy.labels != true].tolist())
    true_of = dict(zip(noisy.rows["id"].to_pylist(), true.tolist(), strict=True))
    first = [item for item in audited[0].items if item.kind == "label"][: len(wrong)]
    assert {item.image_id.encode() for item in first} == wrong
    assert all(item.suggested == CLASSES[true_of[item.image_id]] != item.given for item in first)
    assert all(item.confidence > item.given_probability for item in first)
    assert all(item.description and item.thumbnail for item in first)


def test_share_of_wrong_labels_lies_in_its_interval(audited):
    wrong = audited[0].wrong
    assert wrong.low <= 0.1 <= wrong.high
    assert audited[0].examined == 3 * PER_CLASS


@pytest.mark.slow
def test_clean_labels_are_hardly_questioned(images, descriptions, store):
    audit, _ = audit_labels(images, descriptions, (store,))
    assert audit.found["label"] <= 1


def test_picks_find_wrong_labels_where_texts_are_missing_or_say_nothing(planted, tmp_path):
    noisy, true = planted
    texts = [f"word number{row}" if row % 4 else "" for row in range(len(true))]
    vague = described(noisy, texts)
    store = embed_descriptions(vague, LetterEncoder(), tmp_path / "words")
    order = np.argsort(noisy.ids)
    picks = PickedClasses(noisy.ids[order], np.eye(3, dtype=np.float32)[true[order]], {("classify", "m"): len(true)})
    audit, judgement = audit_labels(noisy, vague, (store,), picks=picks)
    assert len(judgement.known.ids) == audit.examined == len(true)
    listed = {item.image_id.encode(): item for item in audit.items if item.kind == "label"}
    assert listed.keys() == set(noisy.ids[noisy.labels != true].tolist())
    assert {item.description is None for item in listed.values()} == {True, False}


@pytest.mark.slow
def test_list_is_cut_and_says_so(planted, descriptions, store):
    audit, _ = audit_labels(planted[0], descriptions, (store,), limit=2)
    assert sum(item.kind == "label" for item in audit.items) == 2 < audit.found["label"]


@pytest.mark.slow
def test_images_decided_about_are_not_listed_again(planted, audited, descriptions, store):
    decided = {item.image_id for item in audited[0].items[:3]}
    audit, _ = audit_labels(planted[0], descriptions, (store,), decided=decided)
    assert decided.isdisjoint(item.image_id for item in audit.items)
    assert audit.found["label"] == audited[0].found["label"] - 3


def test_labelled_images_without_a_text_are_counted(images, descriptions, tmp_path):
    texts = [
        descriptions.texts_of([image_id])[0] if row % 12 else ""
        for row, image_id in enumerate(map(bytes.decode, images.ids))
    ]
    labels = np.where(np.arange(len(images)) == 24, -1, images.labels)  # an image without a label is none of them
    known = with_labels(images, labels)
    some = described(known, texts)
    audit, _ = audit_labels(known, some, (embed_descriptions(some, LetterEncoder(), tmp_path / "words"),))
    assert (audit.examined, audit.undescribed) == (110, 9)


@pytest.mark.slow
def test_image_with_two_labels_is_listed_once_with_both(images, descriptions, store):
    rows = pa.concat_tables([images.rows, images.rows.slice(0, 1)])
    labels = np.append(images.labels, (images.labels[0] + 1) % 3)
    audit, _ = audit_labels(with_labels(replace(images, rows=rows), labels), descriptions, (store,))
    (copy,) = [item for item in audit.items if item.kind == "duplicate"]
    assert (copy.labels, copy.given, copy.suggested) == (["boat", "cat"], None, "boat")
    assert copy.places == {"boat": [images.path(0)], "cat": [images.path(0)]}


def test_audit_is_read_back_from_its_file(audited, tmp_path):
    audited[0].save(tmp_path / "audit.json")
    assert AuditRecord.load(tmp_path / "audit.json") == audited[0]


def test_cleanlab_finds_the_planted_errors_in_its_files(planted, audited, tmp_path):
    filters = pytest.importorskip("cleanlab.filter")
    noisy, true = planted
    export_audit("cleanlab", *audited, noisy, tmp_path)
    probabilities, labels = (np.load(tmp_path / f"{name}.npy") for name in ("pred_probs", "labels"))
    rows = list(csv.DictReader((tmp_path / "images.csv").open()))
    wrong_ids = {image_id.decode() for image_id in noisy.ids[noisy.labels != true].tolist()}
    found = filters.find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    assert {rows[row]["id"] for row in found[: len(wrong_ids)]} == wrong_ids
    assert [CLASSES[label] for label in labels] == [row["label"] for row in rows]


def test_label_studio_gets_a_config_and_a_suggestion_for_each_task(planted, audited, tmp_path):
    export_audit("label-studio", *audited, planted[0], tmp_path)
    tasks, config = json.loads((tmp_path / "tasks.json").read_text()), ET.parse(tmp_path / "config.xml").getroot()
    assert [choice.get("value") for choice in config.iter("Choice")] == list(CLASSES)
    names = {tag.get("name") for tag in config}
    for task, item in zip(tasks, audited[0].items, strict=True):
        (result,) = task["predictions"][0]["result"]
        assert {result["from_name"], result["to_name"]} <= names
        assert result["value"]["choices"] == [item.suggested]
        assert task["data"]["image"].endswith(item.path)


def test_fiftyone_gets_labels_and_files_by_the_same_keys(planted, audited, tmp_path):
    export_audit("fiftyone", *audited, planted[0], tmp_path)
    labels, data = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("labels", "data"))
    assert labels["classes"] == list(CLASSES) and set(labels["labels"]) == set(data)
    assert len(data) == len(audited[0].items)
    for item, record in zip(audited[0].items, labels["labels"].values(), strict=True):
        attributes = record["attributes"]
        assert (attributes["image_id"], attributes["given"]) == (item.image_id, item.given)
        assert attributes.keys().isdisjoint({"id", "tags", "label", "confidence", "logits"})  # FiftyOne's own fields
