"""The record of a check, and records of earlier versions."""

import json

import pytest

from gpt4image.core.errors import StoreError
from gpt4image.quality import CHECK_FILE
from gpt4image.quality.check_record import QualityReport

ITEM = """{
    "key": "00000000000000000000000000000001", "image_id": "00000000000000000000000000000001", "path": "cats/1.png",
    "label": "cat", "text": "I'm sorry, but I can't help.", "prompt": "plain", "model": "gpt-4o-mini",
    "detail": "I'm sorry, but I can't help."
}"""


def finding(kind, severity):
    return f"""{{
        "kind": "{kind}", "severity": "{severity}", "title": "Refusals and apologies",
        "explanation": "The model speaks of itself.", "advice": "Send them back for another try.", "count": 1,
        "share": 0.5, "items": [{ITEM}], "keys": ["00000000000000000000000000000001"],
        "image_ids": ["00000000000000000000000000000001"]
    }}"""


VERSION_0_1 = f"""{{
    "version": "0.1.0", "created": "2025-06-03T14:05:00.000000+00:00", "source": "images",
    "text_source": "description store", "images": 2, "described": 2, "texts": 2, "distinct_texts": 2,
    "failed": {{"time limit": 1}}, "models": {{"gpt-4o-mini": 2}}, "prompts": {{"plain": 2}}, "language": null,
    "encoder": "minilm", "words": [6, 7, 8],
    "findings": [{finding("refusal", "mend")}, {finding("cut-off", "look")}, {finding("leakage", "know")}],
    "leakage": [{{
        "name": "cat", "sayable": true, "texts": 2, "with_word": 1, "share": 0.5, "told_texts": 3, "told_with_word": 2
    }}],
    "knowledge": {{
        "images": 50, "folds": 5, "left_out": {{"dog": 4}}, "chance": 0.5,
        "text": {{"accuracy": 0.8, "low": 0.7, "high": 0.9}}, "image": {{"accuracy": 0.7, "low": 0.6, "high": 0.8}},
        "both": {{"accuracy": 0.8, "low": 0.7, "high": 0.9}}, "masked": null,
        "text_over_image": {{"mean": 0.1, "low": 0.01, "high": 0.19}},
        "both_over_image": {{"mean": 0.1, "low": 0.01, "high": 0.19}}, "mended": 0.6, "broken": 0.1,
        "per_class": [{{"name": "cat", "images": 50, "text": 0.8, "image": 0.7, "both": 0.8}}],
        "verdict": "more", "title": "The texts know more than the image features.", "advice": "Go on.",
        "backbone": "resnet50 (pretrained, 224 pixels)", "encoder": "minilm"
    }},
    "no_knowledge": null, "notes": ["2 images in more than one class."]
}}"""


def test_report_of_version_0_1_loads_with_todays_severities(tmp_path):
    (tmp_path / CHECK_FILE).write_text(VERSION_0_1)
    report = QualityReport.load(tmp_path / CHECK_FILE)
    assert [found.severity for found in report.findings] == ["fix", "review", "info"]
    old, loaded = json.loads(VERSION_0_1), json.loads(report.model_dump_json())
    for found in (*old["findings"], *loaded["findings"]):
        del found["severity"]
    added = {"failed_with": {}, "served_models": {}}
    assert loaded == {**old, **added}  # nothing else changed, no key and no value


def test_report_survives_saving(tmp_path):
    report = QualityReport.model_validate_json(VERSION_0_1)
    report.save(tmp_path / CHECK_FILE)
    assert QualityReport.load(tmp_path / CHECK_FILE) == report


def test_unknown_severity_is_an_error_that_names_the_field(tmp_path):
    (tmp_path / CHECK_FILE).write_text(VERSION_0_1.replace('"mend"', '"ponder"'))
    with pytest.raises(StoreError, match=r"findings\.0\.severity"):
        QualityReport.load(tmp_path / CHECK_FILE)


def test_damaged_report_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / CHECK_FILE).write_text('{"version": 1}')
    with pytest.raises(StoreError, match=CHECK_FILE):
        QualityReport.load(tmp_path / CHECK_FILE)
