"""Identity of a question: what makes it another one, and what does not."""

from __future__ import annotations

import json

import pytest

from support.describing import described
from support.stub_scenario import Scenario
from support.stub_server import StubServer

IMAGES = 36


def test_renamed_class_is_asked_about_again_alone(image_set, tmp_path):
    path = tmp_path / "names.json"
    options = {"prompts": ("class-conditioned",), "class_names": path}
    with StubServer() as server:
        for number, name in enumerate(("tench", "goldfish")):
            path.write_text(json.dumps({"red": name}))
            asked = described(image_set, tmp_path, server.base_url, **options).total
            assert asked == (12 if number else IMAGES), "the other classes are not asked about again"
        questions = [entry.question for entry in server.log if entry.paid]
    assert sum("goldfish" in question for question in questions) == 12


@pytest.mark.parametrize("changed", [{"model": "b"}, {"max_side": 32}, {"max_tokens": 7}, {"seed": 3}])
def test_setting_that_changes_the_answer_is_another_question(image_set, tmp_path, changed):
    first = {"model": "a", "max_side": 40, "max_tokens": 9, "seed": 2}
    with StubServer(Scenario(models=("a", "b"))) as server:
        assert described(image_set, tmp_path, server.base_url, **first).total == IMAGES
        assert described(image_set, tmp_path, server.base_url, **first).total == 0
        assert described(image_set, tmp_path, server.base_url, **{**first, **changed}).total == IMAGES


def test_int_and_float_settings_are_the_same_question(image_set, tmp_path):
    """The command line reads 1 as 1.0."""
    with StubServer() as server:
        assert described(image_set, tmp_path, server.base_url, temperature=1, top_p=1).total == IMAGES
        assert described(image_set, tmp_path, server.base_url, temperature=1.0, top_p=1.0).total == 0
        assert described(image_set, tmp_path, server.base_url, temperature=1.5, top_p=1).total == IMAGES
