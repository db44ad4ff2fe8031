"""What only shows over many texts: repeats, openings, language, class names."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from gpt4image.core.errors import ConfigError
from gpt4image.quality.checks.language import check_language, find_other_language, main_language
from gpt4image.quality.checks.leakage import ClassNames, name_phrases
from gpt4image.quality.checks.run_checks import Against, check_texts, flag_long
from gpt4image.quality.checks.simple import Repeats, common_opening
from gpt4image.quality.summary import leakage_notes, measure_leakage
from gpt4image.quality.texts import CheckedText
from gpt4image.quality.words import words
from support import CLIPART12

EXAMPLE = CLIPART12
OTHERS = {
    "de": "Ein brauner Hund liegt auf einer grünen Wiese und schaut in die Kamera, im Hintergrund stehen Bäume.",
    "fr": "Un chien brun est allongé dans l'herbe verte et regarde l'appareil photo, avec des arbres au fond.",
    "es": "Un perro marrón está tumbado en la hierba verde y mira a la cámara, con árboles al fondo.",
    "it": "Un cane marrone è sdraiato sull'erba verde e guarda la fotocamera, con alberi sullo sfondo.",
    "nl": "Een bruine hond ligt in het groene gras en kijkt naar de camera, met bomen op de achtergrond.",
    "pl": "Brązowy pies leży na zielonej trawie i patrzy w obiektyw, a w tle widać drzewa.",
    "zh": "一只棕色的狗躺在绿色的草地上看着镜头",
    "ru": "Коричневая собака лежит на зелёной траве и смотрит в камеру, на заднем плане деревья.",
}


@pytest.fixture(scope="module")
def english():
    return [
        t for split in ("train", "test") for t in pq.read_table(EXAMPLE / f"{split}.parquet")["description"].to_pylist()
    ]


def collect(*texts_of_images):
    repeats = Repeats()
    for image, text in texts_of_images:
        repeats.add(words(text), image, None)
    return repeats


def test_same_text_on_three_images_is_shared_whatever_its_case_and_punctuation():
    repeats = collect(("a", "A red dog."), ("b", "a red dog"), ("c", "A RED DOG!"), ("d", "A blue dog."))
    assert list(repeats.shared()) == [(0, 3), (1, 3), (2, 3)]


def test_same_text_on_two_images_or_often_on_one_is_not_shared():
    assert not list(collect(("a", "A red dog."), ("b", "A red dog.")).shared())
    assert not list(collect(*[("a", "A red dog.")] * 5).shared())


def test_empty_texts_are_not_the_same_text():
    assert not list(collect(*((str(n), "") for n in range(9))).shared())


def test_longest_common_opening():
    firsts = [tuple(f"the image shows a {n} thing".split()) for n in range(30)]
    assert common_opening(firsts) == ("the", "image", "shows", "a")
    assert common_opening(firsts + [(str(n), "b", "c") for n in range(31)]) is None
    assert common_opening(firsts[:19]) is None


def test_openings_are_compared_within_a_prompt():
    repeats = Repeats()
    for number in range(25):
        repeats.add(words(f"The image shows {number}"), str(number), "plain")
    for number in range(60):
        repeats.add(words(f"Thing {number} is here"), str(number), "attributes")
    flagged = dict(repeats.opened_alike())
    assert sorted(flagged) == list(range(25))
    assert set(flagged.values()) == {"the image shows"}


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages_are_found(language):
    text = OTHERS[language]
    assert find_other_language(text, words(text), "en") == f"{language}, not en"
    assert find_other_language(text, words(text), language) is None


def test_short_english_texts_are_not_taken_for_another_language(english):
    flagged = [
        short
        for text in english
        for count in (3, 4, 5, 6, 8)
        for short in [" ".join(text.split()[:count])]
        if find_other_language(short, words(short), "en")
    ]
    assert flagged == []


def test_language_of_most_texts(english):
    assert main_language(english[:40] + list(OTHERS.values())) == "en"
    assert main_language(english[:5]) is None
    assert main_language(["A dog."] * 50) is None
    mixed = [f"{text} {number}" for number in range(4) for text in OTHERS.values()]
    assert main_language(mixed) is None


def test_unknown_language_is_an_error_that_lists_codes():
    check_language("de")
    with pytest.raises(ConfigError, match=r"'english'.*ISO 639-1"):
        check_language("english")


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
    assert ClassNames([name]).find(words(text), 0)


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
    assert ClassNames([name]).find(words(text), 0) is None


def test_names_that_are_patterns_are_taken_literally():
    names = ClassNames([".*", "c++", "a|b", "(["])
    assert all(names.find(words("a plain text"), label) is None for label in range(4))
    assert names.mask("a plain text with ( and [") == "a plain text with ( and ["


def test_masking_takes_out_names_of_all_classes_the_longest_first():
    names = ClassNames(["dog", "hot dog", "hot", "n01440764"])
    assert names.mask("A Dog eats two hot dogs, n01440764.") == "A thing eats two thing, n01440764."


def test_phrases_of_unsayable_names():
    assert name_phrases("n01440764") == name_phrases("0") == name_phrases("b") == name_phrases("") == []


def leaking(label, text, told=None, key=None):
    return CheckedText("0" * 32, text, "p.png", label, key, told=told)


def test_leakage_by_class_counts_told_texts_apart():
    texts = [
        leaking(0, "a cat on a mat", False),
        leaking(0, "an animal", False),
        leaking(0, "a cat", True),
        leaking(1, "a fish", None),
        leaking(-1, "a cat", None),
    ]
    cat, fish = measure_leakage(texts, ["cat", "n01440764", "unused"])
    assert (cat.texts, cat.with_word, cat.share, cat.told_texts, cat.told_with_word) == (2, 1, 0.5, 1, 1)
    assert (fish.sayable, fish.texts, fish.share) == (False, 1, None)
    notes = " ".join(leakage_notes([cat, fish]))
    assert "n01440764" in notes
    assert "1 texts were written knowing the class; 1 of them" in notes


def test_all_rules_in_one_pass():
    texts = [
        leaking(0, "A brown dog lies on green grass in the sun."),
        leaking(0, "I'm sorry, but I can't help with that."),
        leaking(0, "A dog"),
        CheckedText("1" * 32, "A house with a red", finish_reason="length"),
        leaking(0, OTHERS["de"]),
        leaking(1, "A cat sits there.", told=True),
        leaking(1, "A cat sits there.", told=False),
        leaking(0, "spam and eggs spam and eggs spam and eggs"),
        leaking(0, "Describe the image in detail. A bird on a twig."),
    ]
    from gpt4image.descriptions.prompts.prompt import known_prompts

    flags = check_texts(texts, Against(("dog", "cat"), tuple(known_prompts().values()), "en"))
    assert [(flag.at, flag.kind) for flag in flags] == [
        (0, "leakage"),
        (1, "refusal"),
        (2, "empty"),
        (3, "cut-off"),
        (4, "language"),
        (6, "leakage"),
        (7, "loop"),
        (8, "prompt-echo"),
    ]


def test_language_is_only_looked_at_where_it_is_known():
    assert check_texts([leaking(0, OTHERS["de"])], Against(("dog",))) == []


def test_texts_longer_than_the_encoder_reads():
    flags = flag_long([10, 257, 256, 400], 256)
    assert [(flag.at, flag.weight) for flag in flags] == [(1, 257), (3, 400)]


def test_rules_flag_hardly_any_clean_text(english):
    """Clean texts of the example: only class names are found, and those are there."""
    labels = [n for s in ("train", "test") for n in pq.read_table(EXAMPLE / f"{s}.parquet")["label"].to_pylist()]
    classes = ("animals", "buildings", "clothing", "electronics", "food", "music")
    classes += ("office", "people", "plants", "sports", "tools", "transportation")
    texts = [CheckedText(f"{n:032x}", text, "", labels[n]) for n, text in enumerate(english)]
    flags = check_texts(texts, Against(classes, (), "en"))
    assert {flag.kind for flag in flags} == {"leakage"}
    assert 0.03 < len(flags) / len(texts) < 0.06
    assert all(np.isin(flag.detail.split()[0], words(english[flag.at])) for flag in flags)
