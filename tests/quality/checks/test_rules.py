"""Single texts: what deserves a flag, and near misses that do not."""

import random
from itertools import pairwise

import pytest

from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.prompt import known_prompts
from gpt4image.quality.checks.loops import find_loop
from gpt4image.quality.checks.refusals import find_refusal
from gpt4image.quality.checks.simple import PromptEcho, find_cut_off, find_empty
from gpt4image.quality.words import words

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, I can\u2019t assist with this request.",
    "Sorry, I am unable to view the picture.",
    "I apologize, but I am unable to see any image attached to this message.",
    "My apologies for the confusion. The dog is brown.",
    "As an AI language model, I cannot see images directly.",
    "I'm just an AI assistant and cannot see pictures.",
    "I cannot provide a description because the file is missing.",
    "Unfortunately, I can't view images.",
    "I can't identify people in images, but I can describe the scene.",
    "I don't see an image attached to your message.",
    "It seems that no image was provided.",
    "Please provide the image you would like me to describe.",
    "The image you uploaded could not be loaded.",
    "It appears you haven't uploaded a picture.",
    "I'd be happy to help, but there's no image attached.",
    "This may show private data, so I won't describe it.",
    "A brown dog on grass. I'm sorry, but I cannot say more about it.",
    "I must respectfully decline to describe this.",
    "This request violates our content policy.",
    "\"I'm sorry, but I can't help with that.\"",
    "**I cannot assist with this request.**",
    "Es tut mir leid, aber ich kann dieses Bild nicht beschreiben.",
    "Leider kann ich dabei nicht helfen.",
    "Désolé, je ne peux pas décrire cette image.",
    "En tant qu'intelligence artificielle, je ne vois pas les images.",
    "Lo siento, no puedo ayudar con eso.",
    "Desculpe, não consigo ver a imagem.",
    "Mi dispiace, ma non posso identificare la persona.",
    "Het spijt me, ik kan deze afbeelding niet beschrijven.",
    "Przykro mi, ale nie mogę pomóc.",
    "Извините, но я не могу помочь с этим.",  # noqa: RUF001
    "抱歉，我无法查看这张图片。",  # noqa: RUF001
    "申し訳ありませんが、お手伝いできません。",
    "죄송하지만 이 이미지를 볼 수 없습니다.",
)
DESCRIPTIONS = (
    "The dog refuses to leave the sofa.",
    "An apology letter is shown on a desk.",
    "A man apologises to a woman with a bunch of flowers.",
    "A card that says \"I'm sorry, I can't come\" in red letters.",
    "A sign reads: I'm sorry, we are closed.",
    "A red card. \"I'm sorry, I can't come.\" is written on it.",
    "Sorry! board game box with a red lid.",
    '"Sorry, we\'re closed" sign hanging on a glass door.',
    "Sorry sign in red capitals on a white door.",
    "I'm Sorry greeting card with a sad teddy bear holding a rose.",
    "A robot labelled as an AI assistant waves its hand.",
    "A cartoon cat unable to climb down from a tree, meowing for help.",
    "A child cannot reach the cookie jar on the shelf.",
    "Broken-link placeholder reading Linked Image Not Found with a red cross box.",
    "No image available placeholder icon, grey, with a camera.",
    "There is no text in this image. It shows a bar chart with revenue rising.",
    "I don't see any text in the image, but it shows a red stop sign on a pole.",
    "I cannot tell which breed it is, but the dog is brown and white.",
    "I see a dog with a ball, but I cannot see its tail.",
    "We cannot see who drives the car, because the windows are tinted.",
    "A poster asking readers to please share the road with cyclists.",
    "You have not one but two cats in this picture.",
    "Unfortunately hidden behind a tree, the dog shows only its tail.",
    "The image is missing its lower half; a horse's head is left.",
    "There is no image on the screen of the television.",
    "A man says 'I can't help you' in a comic strip.",
    "As an ambulance, it has blue lights, and its driver waves.",
    "Eine Frau, die sich entschuldigt, mit Blumen in der Hand.",
    "Un perro que no puede ver por la nieve.",
)


PHRASES = ("a red car", "on the road", "and a house", "by the sea", "under clouds")
SHUFFLE = random.Random(0)
LOOSE_LOOP = " ".join(phrase for _ in range(9) for phrase in SHUFFLE.sample(PHRASES, len(PHRASES)))
"""Says the same in ever another order."""


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_and_apologies_are_found(text):
    assert find_refusal(text)


@pytest.mark.parametrize("text", DESCRIPTIONS)
def test_what_only_sounds_like_a_refusal_is_not_found(text):
    assert find_refusal(text) is None


def test_answer_that_the_server_kept_back_is_a_refusal():
    assert "content_filter" in find_refusal("A dog.", "content_filter")
    assert find_refusal("A dog.", "stop") is None


@pytest.mark.parametrize("text", ["", "   ", "!!! ???", "A cat.", "\u200b\n"])
def test_too_few_words_are_found(text):
    assert find_empty(words(text))


@pytest.mark.parametrize("text", ["A brown cat.", "一只狗", "Ein Hund bellt"])
def test_three_words_are_enough(text):
    assert find_empty(words(text)) is None


def test_cut_off_by_the_server():
    assert find_cut_off("length")
    assert find_cut_off("MAX_TOKENS")
    assert not any(find_cut_off(reason) for reason in ("stop", None, "content_filter"))


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
    assert find_loop(text, words(text))


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
    assert find_loop(text, words(text)) is None


def test_loop_is_named():
    text = "A dog and a cat. " + "on the left side " * 5
    assert "on the left side" in find_loop(text, words(text))


def test_long_text_of_distinct_sentences_is_no_loop():
    nouns = [f"noun{number}" for number in range(400)]
    text = " ".join(f"The {noun} stands beside the {other}." for noun, other in pairwise(nouns))
    assert find_loop(text, words(text)) is None


def test_loop_hidden_in_a_long_text_is_found():
    generator = random.Random(0)
    lead = [f"w{generator.randrange(1000)}" for _ in range(2000)]
    text = " ".join([*lead, "the same old words again " * 4])
    assert find_loop(text, words(text))


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
    assert ECHO.find(words(text))


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
    assert ECHO.find(words(text)) is None


def test_class_name_is_no_part_of_the_prompt():
    name = "a very long class name of more than eight words in all"
    strategy = Prompt("own", (f"Look at {{class}}. Is it {name}?",))
    assert PromptEcho([Prompt("own", ("Here: {class}.",))]).find(words(f"Here: {name}.")) is None
    assert PromptEcho([strategy]).find(words(name))
    assert PromptEcho([Prompt("own", ("Look at the {class} here.",))]).find(words("Look at the class here.")) is None


def test_patterns_in_prompts_and_texts_are_taken_literally():
    strategy = Prompt("own", ("What (a|b)* [do you see in this .* picture here, my dear friend]+?",))
    echo = PromptEcho([strategy])
    assert echo.find(words("do you see in this picture here, my dear friend"))
    assert echo.find(words("(a|b)* .* [x]+ \\ $ ^")) is None
