"""Loops within a text, echoes of the prompt, and texts or openings that many images share."""

import random
from itertools import pairwise

import pytest

from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.prompt import known_prompts
from gpt4image.quality.checks.context import CheckContext
from gpt4image.quality.checks.repetition import PromptEcho, common_opening, find_loop, find_openings, find_repeated
from gpt4image.quality.texts import CheckedText
from gpt4image.quality.words import split_words

PHRASES = ("a red car", "on the road", "and a house", "by the sea", "under clouds")
SHUFFLE = random.Random(0)
# Says the same in ever-changing order
LOOSE_LOOP = " ".join(phrase for _ in range(9) for phrase in SHUFFLE.sample(PHRASES, len(PHRASES)))


@pytest.mark.parametrize(
    "text",
    [
        "A red car, a red car, a red car, a red car",
        "very very very very very big house",
        "The cat sits on the mat. " * 3,
        "A dog runs over green grass.\nA dog runs over green grass.\n\nA dog runs over green grass.",
        "1) There is a red car\n2) There is a red car\n\n3) There is a red car",
        LOOSE_LOOP,
        "A street with " + "cars and trucks and " * 40,
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "一只狗在草地上" * 4,
        "A long and quite normal beginning of a text that describes a house with a door. " + "of the house " * 12,
    ],
)
def test_loops_are_found(text):
    assert find_loop(text, split_words(text))


@pytest.mark.parametrize(
    "text",
    [
        "A red square, a blue square, a green square, a red disc, a blue disc and a green disc on a white ground.",
        "A row of four identical birds: one bird on the left, one bird on the right, and two birds between them.",
        "Ha ha ha ha is written over a laughing clown.",
        "The very, very small dog looks at the very, very large dog.",
        "A table with a plate, a fork, a knife, a spoon, a glass, a cup, a jug, a bowl and a napkin.",
        "Zzzzzz written over a sleeping man in a blue bed with a white pillow and a striped blanket.",
        "",
    ],
)
def test_lists_and_echoing_words_are_no_loops(text):
    assert find_loop(text, split_words(text)) is None


def test_loop_is_named():
    text = "A dog and a cat. " + "on the left side " * 5
    assert "on the left side" in find_loop(text, split_words(text))


def test_long_text_of_distinct_sentences_is_no_loop():
    nouns = [f"noun{number}" for number in range(400)]
    text = " ".join(f"The {noun} stands beside the {other}." for noun, other in pairwise(nouns))
    assert find_loop(text, split_words(text)) is None


def test_loop_hidden_in_a_long_text_is_found():
    generator = random.Random(0)
    lead = [f"w{generator.randrange(1000)}" for _ in range(2000)]
    text = " ".join([*lead, "the same old words again " * 4])
    assert find_loop(text, split_words(text))


ECHO = PromptEcho(known_prompts().values())


@pytest.mark.parametrize(
    "text",
    [
        "Describe the image in detail. A dog lies on the grass.",
        "describe the image in detail",
        "A dog. Say only what can be seen.",
        "This is a dog. Describe how it looks in this very picture, and what is around it, in three or four sentences.",
        "You look closely at pictures and answer in one or two plain sentences.",
    ],
)
def test_echoes_of_a_prompt_are_found(text):
    assert ECHO.find(split_words(text))


@pytest.mark.parametrize(
    "text",
    [
        "The main object of this picture is a brown dog.",
        "This is a picture of a tabby cat that lies on a sofa.",
        "The image shows the main object in detail: its parts, colours, shapes and textures can be seen.",
        "A sign that says: describe it in your own words.",
    ],
)
def test_answers_that_take_up_the_question_are_no_echoes(text):
    assert ECHO.find(split_words(text)) is None


def test_class_name_is_no_part_of_the_prompt():
    name = "a very long class name of more than eight words in all"
    prompt = Prompt("own", (f"Look at {{class}}. Is it {name}?",))
    short = Prompt("own", ("Look at the {class} here.",))
    assert PromptEcho([Prompt("own", ("Here: {class}.",))]).find(split_words(f"Here: {name}.")) is None
    assert PromptEcho([prompt]).find(split_words(name))
    assert PromptEcho([short]).find(split_words("Look at the class here.")) is None


def test_patterns_in_prompts_and_texts_are_taken_literally():
    prompt = Prompt("own", ("What (a|b)* [do you see in this .* picture here, my dear friend]+?",))
    echo = PromptEcho([prompt])
    assert echo.find(split_words("do you see in this picture here, my dear friend"))
    assert echo.find(split_words("(a|b)* .* [x]+ \\ $ ^")) is None


def described(*texts_of_images, prompt="plain"):
    return CheckContext([CheckedText(image, text, prompt=prompt) for image, text in texts_of_images], ())


def shared(*texts_of_images):
    return [(flag.at, flag.weight) for flag in find_repeated(described(*texts_of_images))]


def test_same_text_on_three_images_is_shared_whatever_its_case_and_punctuation():
    found = shared(("a", "A red dog."), ("b", "a red dog"), ("c", "A RED DOG!"), ("d", "A blue dog."))
    assert found == [(0, 3), (1, 3), (2, 3)]


def test_same_text_on_two_images_is_shared_and_often_on_one_is_not():
    assert shared(("a", "A red dog."), ("b", "A red dog.")) == [(0, 2), (1, 2)]
    assert not shared(*[("a", "A red dog.")] * 5)


def test_empty_texts_are_not_the_same_text():
    assert not shared(*((str(n), "") for n in range(9)))


def test_longest_common_opening():
    firsts = [tuple(f"the image shows a {n} thing".split()) for n in range(30)]
    assert common_opening(firsts) == ("the", "image", "shows", "a")
    assert common_opening(firsts + [(str(n), "b", "c") for n in range(31)]) is None
    assert common_opening(firsts[:19]) is None


def test_openings_are_compared_within_a_prompt():
    plain = described(*((str(n), f"The image shows {n}") for n in range(25))).texts
    others = described(*((str(n), f"Thing {n} is here") for n in range(60)), prompt="attributes").texts
    flags = list(find_openings(CheckContext([*plain, *others], ())))
    assert [flag.at for flag in flags] == list(range(25))
    assert {flag.detail for flag in flags} == {"the image shows"}
