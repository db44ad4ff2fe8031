"""Verdicts on built sets: texts that must help help, beside their control, and noise does not."""

import json

import numpy as np
import pytest
from PIL import Image

from gpt4image import Recipe
from gpt4image.core.options import ArmOptions, DataOptions, GuidanceOptions
from gpt4image.report import control_arms, verdict
from gpt4image.workflows.train import run_comparison
from support.drawings import COLOURS

COMPARISONS = {"red": "tomato", "green": "grass", "blue": "the sea"}
WORDS = ("amber", "brisk", "cedar", "dune", "ember", "frost", "grove", "haze", "iris", "jade", "kelp", "lilac", "moss")


def picture(roof, ground, generator):
    """A small roof above a large ground of a colour each; the roof's colour is the class."""
    pixels = generator.integers(60, 180, (32, 32, 3)).astype(np.uint8)
    pixels[2:12, 6:26], pixels[14:31, 1:31] = COLOURS[roof], COLOURS[ground]
    return Image.fromarray(pixels)


def write_set(folder, counts, misleading, text_of):
    """Write splits with so many images a class, and the texts beside them.

    Args:
        misleading: splits where the ground always has the colour of the roof, as it has not in the others.
        text_of: returns the text of a roof.
    """
    generator, rows = np.random.default_rng(0), []
    for split, count in counts.items():
        for name in COLOURS:
            place = folder / split / ("" if split == "unlabelled" else name)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                ground = name if split in misleading else str(generator.choice(list(COLOURS)))
                path = place / f"{name}{number}.png"
                picture(name, ground, generator).save(path)
                rows.append({"path": path.relative_to(folder).as_posix(), "text": text_of(name, generator)})
    texts = folder.with_name("texts.jsonl")
    texts.write_text("\n".join(map(json.dumps, rows)))
    return GuidanceOptions(text=str(texts))


def judge(folder, text, arms, **changes):
    recipe = Recipe(
        backbone="test_resnet",
        pretrained=False,
        image_size=32,
        epochs=4,
        batch_size=24,
        lr=3e-3,
        warmup_epochs=0.5,
        crop_scale=(0.9, 1.0),
        weight=1.0,
        keep="last",
    ).override(changes, "test")
    options = ArmOptions(arms, controls=arms == ("text-labels",))
    work = folder.with_name("work")
    return run_comparison(DataOptions(str(folder)), text, recipe, work, seeds=3, workers=0, options=options)


@pytest.mark.slow
def test_texts_that_must_help_get_the_credit_and_their_control_does_not(tmp_path):
    """The few labels leave open whether roof or ground is meant; the texts of unlabelled images tell."""

    def text_of(name, generator):
        return f"A {name} roof, like {COMPARISONS[name]}, {generator.choice(WORDS)} {generator.choice(WORDS)}"

    counts = {"train": 8, "validation": 4, "unlabelled": 40, "test": 40}
    text = write_set(tmp_path / "images", counts, ("train", "validation"), text_of)
    comparison = judge(tmp_path / "images", text, ("text-labels",))
    found = verdict(comparison)
    assert found.kind == "better" and comparison.difference.mean > 0.3
    assert found.claim == "The descriptions made the model better"
    assert "better than the control" in found.controls
    (control,) = comparison.controls
    assert (control.arm, control.reference) == ("text-labels", "shuffled-text-labels") and control.low > 0.1
    (line,) = control_arms(comparison)
    assert "shuffled texts" in line
    page = (tmp_path / "work/report.html").read_text()
    assert "Control, with labels from shuffled texts" in page and "How the verdict is reached" in page


@pytest.mark.slow
def test_texts_of_noise_get_no_credit(tmp_path):
    counts = {"train": 40, "validation": 4, "test": 40}
    text = write_set(tmp_path / "images", counts, (), lambda _, generator: " ".join(generator.choice(WORDS, 6)))
    comparison = judge(tmp_path / "images", text, ("described", "shuffled"), epochs=5, weight=0.1)
    found = verdict(comparison)
    assert found.kind in ("equal", "undecided")  # with a larger weight, aligning with noise may cost accuracy
    assert "better than the control" not in found.controls
    assert [control.reference for control in comparison.controls] == ["shuffled"]
    assert comparison.controls[0].low <= 0
