"""Class names in texts."""

import pytest

from gpt4image.quality.checks.leakage import ClassNames, leakage_notes, measure_leakage, name_phrases
from gpt4image.quality.texts import CheckedText
from gpt4image.quality.words import split_words


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cat", "Two CATS sleep."),
        ("berries", "A red berry."),
        ("person", "Three people wait."),
        ("people", "A person waits."),
        ("knife", "Two knives on a table"),
        ("leaf", "Green leaves"),
        ("bus", "Two buses"),
        ("fire_truck", "A fire-truck and a man"),
        ("tench, Tinca tinca", "A tinca tinca in a net"),
        ("crane (bird)", "A crane on one leg"),
        ("001.Black_footed_Albatross", "a black footed albatross"),
        ("T-shirt", "a white t-shirt"),
        ("A380", "an A380 on a runway"),
        ("n02084071-dog", "a dog"),
        ("猫", "一只猫在睡觉"),
        ("Straße", "Eine STRASSE im Regen"),
    ],
)
def test_class_names_are_found_as_words(name, text):
    assert ClassNames([name]).find(split_words(text), 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cat", "A catalogue of caterpillars, category B."),
        ("bus", "A busy business."),
        ("fire_truck", "A truck near a fire"),
        ("glass", "A glas and a glasshouse"),
        ("n01440764", "A fish, n01440764"),
        ("17", "17 dogs"),
        ("a.b", "a_b axb"),
        ("as", "A donkey"),
    ],
)
def test_parts_of_words_and_codes_are_not_found(name, text):
    assert ClassNames([name]).find(split_words(text), 0) is None


def test_names_that_are_patterns_are_taken_literally():
    names = ClassNames([".*", "c++", "a|b", "(["])
    assert all(names.find(split_words("a plain text"), label) is None for label in range(4))
    assert names.mask("a plain text with ( and [") == "a plain text with ( and ["


def test_masking_takes_out_names_of_all_classes_the_longest_first():
    names = ClassNames(["dog", "hot dog", "hot", "n01440764"])
    assert names.mask("A Dog eats two hot dogs, n01440764.") == "A thing eats two thing, n01440764."


def test_phrases_of_unsayable_names():
    assert name_phrases("n01440764") == name_phrases("0") == name_phrases("b") == name_phrases("") == []


def labelled(label, text, class_in_prompt=None):
    return CheckedText("0" * 32, text, "p.png", label, class_in_prompt=class_in_prompt)


def test_leakage_counts_texts_with_the_class_in_the_prompt_apart():
    texts = [
        labelled(0, "a cat on a mat", False),
        labelled(0, "an animal", False),
        labelled(0, "a cat", True),
        labelled(1, "a fish", None),
        labelled(-1, "a cat", None),
    ]
    cat, fish = measure_leakage(texts, ["cat", "n01440764", "unused"])
    assert (cat.texts, cat.with_word, cat.share, cat.told_texts, cat.told_with_word) == (2, 1, 0.5, 1, 1)
    assert (fish.sayable, fish.texts, fish.share) == (False, 1, None)
    notes = " ".join(leakage_notes([cat, fish]))
    assert "n01440764" in notes
    assert "1 text answered a prompt that names the class; 1 of them" in notes
