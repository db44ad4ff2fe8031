"""Identity of a question: what makes it another one, and what does not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from gpt4image.core.errors import ConfigError
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.question import read_extra_body, read_values
from support.describing import described, opened
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


@pytest.mark.parametrize("describer", ["openai", "batch"])
@pytest.mark.slow
def test_extra_body_is_sent_and_is_another_question(image_set, tmp_path, describer):
    path = tmp_path / "extra.json"
    path.write_text('{"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false}}')
    with StubServer() as server:
        with opened(image_set, tmp_path, server.base_url, describer=describer) as job:
            plain = job.plan()
            assert json.loads(job.question.settings) == {"max_side": 768, "max_tokens": 300}
        with opened(image_set, tmp_path, server.base_url, describer=describer, extra_body=path) as job:
            assert not np.isin(job.plan().keys, plain.keys).any()
            tally = job.run_in_batches(job.plan()) if describer == "batch" else job.run(job.plan())
            assert tally.answered == IMAGES
            again = tmp_path / "same.json"
            again.write_text('{"chat_template_kwargs": {"enable_thinking": false},\n "reasoning_effort": "low"}')
        assert len(described_plan(image_set, tmp_path, server.base_url, again)) == 0
        sent = [entry.settings for entry in server.log if entry.paid]
    extra = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}
    assert sent == [{"max_tokens": 300, **extra}] * IMAGES


def described_plan(image_set, work, url, extra_body):
    with opened(image_set, work, url, extra_body=extra_body) as job:
        return job.plan()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "must contain a JSON object"),
        ("{}", "must contain a JSON object"),
        ("{", "cannot be read as JSON"),
        ('{"top_k": NaN}', "NaN is not a JSON value"),
        ('{"max_tokens": 5}', "set max_tokens"),
        ('{"api_key": "x"}', "set key_env"),
    ],
)
def test_invalid_extra_body_is_rejected(tmp_path, text, problem):
    path = tmp_path / "extra.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_extra_body(path)


def test_extra_body_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "extra.json"
    path.write_text('\ufeff{"top_k": 5}', "utf-8")
    assert read_extra_body(path) == '{"top_k": 5}'


def test_model_in_this_process_takes_no_extra_body(tmp_path):
    with pytest.raises(ConfigError, match="omit extra_body"):
        DescribeOptions(describer="local", extra_body=tmp_path / "extra.json")


def test_int_and_float_settings_are_the_same_question(image_set, tmp_path):
    """The command line reads 1 as 1.0."""
    with StubServer() as server:
        assert described(image_set, tmp_path, server.base_url, temperature=1, top_p=1).total == IMAGES
        assert described(image_set, tmp_path, server.base_url, temperature=1.0, top_p=1.0).total == 0
        assert described(image_set, tmp_path, server.base_url, temperature=1.5, top_p=1).total == IMAGES


def test_class_names_are_compared_in_composed_characters(images, tmp_path):
    decomposed = replace(images, classes=("Mu\u0308ller", *images.classes[1:]))
    (tmp_path / "names.json").write_text(json.dumps({"M\u00fcller": "miller"}))
    options = DescribeOptions(model="m", class_names=tmp_path / "names.json")
    assert read_values(decomposed, options, None).classes[0] == "miller"
