"""Options of the stages are checked as they are made, by their annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt4image import Recipe
from gpt4image.__main__ import main
from gpt4image.core.errors import ConfigError
from gpt4image.core.options import CheckOptions, DataOptions, GuidanceOptions, LabelOptions, TextOptions


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataOptions("photos", max_pixels=0), "max_pixels should be greater than or equal to 1, not 0"),
        (lambda: DataOptions("photos", test_share=1.0), "test_share should be less than 1, not 1.0"),
        (lambda: DataOptions("photos", split_seed=-1), "split_seed should be greater than or equal to 0, not -1"),
        (lambda: DataOptions("photos", leaks="forget"), "leaks should be 'keep', 'drop' or 'fail', not 'forget'"),
        (lambda: DataOptions(3), "data should be a valid string, not 3"),
        (lambda: TextOptions(embed_batch=0), "embed_batch should be greater than or equal to 1, not 0"),
        (lambda: TextOptions(encoder="minilm"), "encoder should be a valid tuple, not 'minilm'"),
        (lambda: GuidanceOptions(long_text="cut"), "long_text should be 'truncate' or 'pool', not 'cut'"),
        (lambda: GuidanceOptions(teachers="run:x"), "teachers should be a valid tuple, not 'run:x'"),
        (lambda: CheckOptions(checkpoint=Path("weights.pth")), "set backbone"),
        (lambda: CheckOptions(image_size=0), "image_size should be greater than or equal to 1, not 0"),
        (lambda: CheckOptions(splits=("tain",)), r"splits\[0\] should be 'train', 'validation' or 'test', not 'tain'"),
        (lambda: LabelOptions(label_seed=-1), "label_seed should be greater than or equal to 0, not -1"),
    ],
)
def test_invalid_option_is_refused_with_its_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_lists_are_kept_as_tuples():
    assert TextOptions(encoder=["minilm"]) == TextOptions(encoder=("minilm",))
    assert Recipe(freeze=["conv1"], crop_scale=[0.5, 1.0]) == Recipe(freeze=("conv1",), crop_scale=(0.5, 1.0))
    assert hash(Recipe(align_at=["layer3"])) == hash(Recipe(align_at=("layer3",)))


@pytest.mark.parametrize("option", [["--workers", "-1"], ["--max-pixels", "0"], ["--embed-batch", "0"]])
def test_command_refuses_an_invalid_option_before_it_looks_at_the_images(option, capsys):
    assert main(["train", "nowhere", *option]) == 1
    assert f"{option[0]} should be greater than" in " ".join(capsys.readouterr().err.split())
