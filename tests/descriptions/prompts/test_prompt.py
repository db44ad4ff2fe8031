"""Prompts: placeholders are checked before anything is sent, and a changed prompt is another prompt."""

import numpy as np
import pytest

from gpt4image.core.errors import ConfigError
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.question import read_values
from gpt4image.descriptions.prompts import Prompt, PromptValues, load_prompts
from gpt4image.descriptions.prompts.values import most_confused

BUILT_IN = ("plain", "class-conditioned", "attributes", "questions", "contrast", "classify")


def test_built_in_prompts_can_be_filled_in():
    strategies = load_prompts(BUILT_IN)
    assert len({strategy.hash for strategy in strategies}) == len(BUILT_IN)
    for strategy in strategies:
        values = {name: f"<{name}>" for name in strategy.placeholders}
        system, turns = strategy.fill(values)
        assert all(f"<{name}>" in " ".join([system or "", *turns]) for name in strategy.placeholders)
    assert len(load_prompts(["questions"])[0].turns) > 1


def test_prompt_file_adds_and_overrides_prompts(tmp_path):
    path = tmp_path / "prompts.toml"
    path.write_text('[plain]\nturns = ["What is it? One of {classes}."]\n[two]\nturns = ["a", "b"]\njoin = "\\n"\n')
    plain, two = load_prompts(["plain", "two"], path)
    assert plain.fill({"classes": "cat, dog"})[1] == ("What is it? One of cat, dog.",)
    assert plain.hash != load_prompts(["plain"])[0].hash
    assert two.join == "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[a]\nturns = ["{clas}"]', r"Unknown placeholder 'clas'. Did you mean 'class'"),
        ('[a]\nturns = ["{class.__init__}"]', "Unknown placeholder"),
        ('[a]\nturns = ["{}"]', "Unknown placeholder"),
        ('[a]\nturns = ["a } b"]', "a single }"),
        ('[a]\nturns = ["x"]\nsystem = "{label}"', "Unknown placeholder 'label'"),
        ("[a]\nturns = []", "list of non-empty questions"),
        ('[a]\nturns = [" "]', "list of non-empty questions"),
        ('[a]\nturns = "x"', "list of strings"),
        ('[a]\nturn = ["x"]', "Did you mean 'turns'"),
        ('[a]\nturns = ["x"]\njoin = 3', "join must be a string"),
        ('["A b"]\nturns = ["x"]', "use lower-case letters"),
        ("a = 3", "must be a table"),
        ("[a", "cannot be read as TOML"),
    ],
)
def test_invalid_prompt_file_error_names_file_and_table(tmp_path, text, message):
    path = tmp_path / "prompts.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_prompts(["a"], path)


def test_unknown_prompt_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'plain'"):
        load_prompts(["plane"])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prompts(["plain"], tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("animals", ("how the animals look in", "that they are animals and none")),
        ("dog", ("how the dog looks in", "that it is a dog and none")),
        ("apple tree", ("how the apple tree looks in", "that it is an apple tree and none")),
        ("bus", ("how the bus looks in", "that it is a bus and none")),
    ],
)
def test_built_in_prompts_agree_with_the_class_name(name, words):
    values = {"class": name, "neighbours": "cats, cows"}
    prompts = load_prompts(["class-conditioned", "contrast"])
    for prompt, expected in zip(prompts, words, strict=True):
        assert expected in " ".join(prompt.fill(values)[1])
        assert prompt.hash == load_prompts([prompt.name])[0].hash, "names cost no second answer"


def test_placeholders_inside_values_are_not_filled_in():
    strategy = Prompt("x", ("{class} in {{braces}}",))
    assert strategy.fill({"class": "{classes} {class}"})[1] == ("{classes} {class} in {braces}",)


def test_hash_covers_turns_system_message_and_separator():
    base = Prompt("x", ("a", "b"))
    others = [Prompt("x", ("a", "c")), Prompt("x", ("ab",)), Prompt("x", ("a", "b"), "s"),
              Prompt("x", ("a", "b"), join="\n")]  # fmt: skip
    assert len({base.hash, *(other.hash for other in others)}) == 5
    assert Prompt("y", ("a", "b"), about="other").hash == base.hash


def test_neighbours_are_the_most_confused_classes_in_both_directions():
    matrix = np.array([[9, 1, 0, 0], [4, 6, 0, 0], [0, 2, 8, 0], [0, 0, 0, 10]])
    neighbours = most_confused(matrix, 2)
    assert neighbours[0][0] == 1
    assert neighbours[1] == (0, 2)
    assert neighbours[2][0] == 1
    assert len(neighbours[3]) == 2 and 3 not in neighbours[3]
    assert matrix[0, 0] == 9


def test_neighbours_use_the_class_names_of_the_user(images, tmp_path):
    path = tmp_path / "names.json"
    path.write_text('{"red": "tench", "green": "goldfish"}')
    values = read_values(images, DescribeOptions(class_names=path), {0: (2, 1), 1: (0,), 2: (1, 0)})
    assert images.classes == ("blue", "green", "red")
    assert [values.of(label)["neighbours"] for label in range(3)] == ["tench, goldfish", "blue", "goldfish, blue"]
    (contrast,) = load_prompts(["contrast"])
    assert "picture of: tench. It is easily mistaken for: goldfish, blue" in contrast.fill(values.of(2))[1][0]


def test_prompt_with_neighbours_needs_a_run():
    contrast = load_prompts(["contrast"])
    with pytest.raises(ConfigError, match=r"confusions to a baseline run; .*--arm baseline"):
        PromptValues(("a", "b")).check(contrast)
    PromptValues(("a", "b"), {0: ("b",), 1: ("a",)}).check(contrast)
