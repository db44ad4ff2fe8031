"""The advice of the command: cases made from clipart12, what it prints, its command, and what it keeps."""

import json
import os
import shlex

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from gpt4image import advise, load_descriptions, load_images
from gpt4image.cli.main import main, parse
from gpt4image.core.errors import ConfigError
from gpt4image.core.options import DataOptions, LabelOptions
from gpt4image.core.validation import changed_options
from gpt4image.core.workdir import WorkDir
from gpt4image.train.named_recipes import named_recipe
from gpt4image.train.recipe import Recipe
from gpt4image.workflows.advise import RecipeChoice
from support import CLIPART12
from support.several_labels import write_several_labels

CLASSES, OF_EACH, SIZE = (0, 4, 6, 7, 11), 80, 96


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Some images of five classes of clipart12 as files: their folder, class names and descriptions."""
    folder, images = tmp_path_factory.mktemp("photos"), load_images(CLIPART12)
    train = images.split("train")
    rows = np.concatenate([train[images.labels[train] == value][:OF_EACH] for value in CLASSES])
    for number, row in enumerate(rows.tolist()):
        (folder / f"{number}.png").write_bytes(images.read(row))
    texts = load_descriptions(images, "description").texts_of(id_.decode() for id_ in images.ids[rows].tolist())
    return folder, [images.classes[label] for label in images.labels[rows].tolist()], list(texts)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from gpt4image.workflows.demo import packaged_weights

    return packaged_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors")


@pytest.fixture
def ask(photos, weights, capsys):
    """Write a table of other labels and texts beside the images, and return what the command answers."""
    folder, _, _ = photos

    def ask(name, labels, texts):
        rows = [
            {"path": f"{at}.png", "label": label, "description": text}
            for at, (label, text) in enumerate(zip(labels, texts, strict=True))
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        model = ["--backbone", "tf_efficientnet_lite0", "--checkpoint", str(weights), "--image-size", str(SIZE)]
        words = [str(folder / f"{name}.jsonl"), "--work", str(folder / "work"), *model]
        assert main(["advise", *words, "--json", "--quiet"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return ask


def few(labels, of_each=16):
    """Keep some labels of each class."""
    return [label if at % OF_EACH < of_each else None for at, label in enumerate(labels)]


def planted(labels, share=0.4):
    """Make a share of the labels wrong."""
    generator, names = np.random.default_rng(0), sorted(set(labels))
    return [
        names[(names.index(label) + int(generator.integers(1, len(names)))) % len(names)]
        if generator.random() < share
        else label
        for label in labels
    ]


@pytest.mark.slow
def test_few_labels_call_for_labels_from_the_texts(photos, ask):
    _, labels, texts = photos
    found = ask("few", few(labels), texts)
    assert (found["case"], found["arm"]) == ("few labels", "text-labels")
    assert found["gain"]["mean"] > 0.05
    assert "compare" in found["command"] and found["command"].count("--arms text-labels") == 1
    assert found["rehearsal"]["text"]["low"] > found["rehearsal"]["image"]["mean"]


@pytest.mark.slow
def test_planted_wrong_labels_call_for_the_same_arm(photos, ask):
    _, labels, texts = photos
    found = ask("wrong", planted(labels), texts)
    assert (found["case"], found["arm"]) == ("wrong labels", "text-labels")
    assert found["wrong"]["low"] < 0.4 < found["wrong"]["high"] + 0.03
    assert found["gain"]["mean"] > 0.03


@pytest.mark.slow
def test_texts_add_little_to_clean_labels(photos, ask):
    _, labels, texts = photos
    found = ask("clean", labels, texts)
    assert (found["case"], found["arm"]) == ("clean labels", "baseline")
    assert "next to nothing" in found["title"] and abs(found["gain"]["mean"]) < 0.01


@pytest.mark.slow
def test_nothing_is_to_be_had_from_shuffled_texts(photos, ask):
    _, labels, texts = photos
    found = ask("shuffled", few(labels), np.random.default_rng(0).permutation(texts).tolist())
    assert (found["case"], found["arm"]) == ("uninformative texts", "baseline")
    assert "of no use" in found["title"]
    assert any("another prompt" in line for line in found["helps"])
    assert any("20 more labels a class" in line for line in found["helps"])


@pytest.fixture
def small(image_set, descriptions_file, tmp_path):
    """A small set, a third of it labelled, and weights of a tiny backbone: the words of a command."""
    texts = {row["path"]: row["text"] for row in map(json.loads, descriptions_file.read_text().splitlines())}
    rows = [
        {
            "path": os.path.relpath(image_set / path, tmp_path),
            "label": path.split("/")[0] if number % 3 == 0 else None,
            "description": text,
        }
        for number, (path, text) in enumerate(texts.items())
    ]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    model = f"--backbone test_resnet --checkpoint {tmp_path / 'weights.safetensors'} --image-size 32"
    return [str(tmp_path / "set.jsonl"), "--work", str(tmp_path / "work"), *model.split()]


@pytest.mark.slow
def test_command_of_the_advice_has_the_users_options_and_parses(small, tmp_path, capsys):
    (tmp_path / "corrections.csv").write_text("id,decision,label\n")
    words = [*small, "--corrections", str(tmp_path / "corrections.csv"), "--epochs", "7", "--label-seed", "1"]
    assert main(["advise", *words]) == 0
    printed = capsys.readouterr().out
    (command,) = (line.strip() for line in printed.splitlines() if line.startswith("  gpt4image "))
    chosen = parse(shlex.split(command)[1:])
    assert chosen.source.corrections == tmp_path / "corrections.csv"
    assert (chosen.work, chosen.recipe.epochs, chosen.recipe.image_size) == (tmp_path / "work", 7, 32)
    assert chosen.recipe.lr == named_recipe("fine-tune").lr
    assert printed.isascii() or "\N{MINUS SIGN}" in printed


@pytest.mark.slow
def test_second_call_rehearses_nothing(small, tmp_path, capsys):
    assert main(["advise", *small]) == 0
    path, first = WorkDir(tmp_path / "work").rehearsal, capsys.readouterr().out
    before = path.stat().st_mtime_ns
    assert main(["advise", *small]) == 0
    assert (path.stat().st_mtime_ns, capsys.readouterr().out) == (before, first)
    assert main(["advise", *small, "--label-seed", "1"]) == 0
    assert path.stat().st_mtime_ns != before


@pytest.mark.slow
def test_image_features_are_optional_and_missing_weights_are_said(small, capsys):
    assert main(["advise", *small, "--no-image-features", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gain"] is None and "is estimated from image features" in " ".join(found["basis"])
    without = [*small[:3], "--backbone", "resnet18"]
    assert main(["advise", *without, "--json"]) == 0
    captured = capsys.readouterr()
    assert "weights of resnet18 are not available" in " ".join(json.loads(captured.out)["basis"])
    assert "without image features" in captured.err and "checkpoint (--checkpoint FILE)" not in captured.err
    assert "--checkpoint FILE" in captured.err and "--teacher-checkpoint" not in captured.err


def test_missing_descriptions_are_the_first_thing_to_get(image_set, tmp_path, capsys):
    assert main(["advise", str(image_set), "--work", str(tmp_path / "work")]) == 1
    assert "gpt4image describe" in capsys.readouterr().err


@pytest.mark.slow
def test_python_call_takes_the_same_options(small, tmp_path):
    recipe = Recipe(backbone="test_resnet", checkpoint=str(tmp_path / "weights.safetensors"), image_size=32)
    found = advise(small[0], tmp_path / "work", recipe=recipe, text="description", label_seed=1)
    assert found.command.startswith("gpt4image ")
    assert "--text description" in found.command
    assert found.labelled + found.training > found.labelled > 0
    with pytest.raises(ConfigError, match="label_sed"):
        advise(small[0], tmp_path / "work", label_sed=1)


def test_options_become_the_words_that_give_them():
    options = DataOptions("photos", unlabelled=("more",), validation_share=0.2)
    assert changed_options(options) == ["--unlabelled", "more", "--validation-share", "0.2"]
    recipe = Recipe(pretrained=False, unlabelled="skip", clip_grad=None)
    words = changed_options(recipe)
    assert words == ["--no-pretrained", "--clip-grad", "None", "--train-unlabelled", "skip"] or set(words) == {
        "--no-pretrained", "--clip-grad", "None", "--train-unlabelled", "skip"}  # fmt: skip
    assert parse(["train", "photos", *words]).recipe == recipe
    assert changed_options(LabelOptions()) == []


def test_recipe_for_few_images_is_named_unless_the_user_chose():
    assert RecipeChoice(Recipe(backbone="vit_tiny")).words(1000) == ["--recipe", "fine-tune", "--backbone", "vit_tiny"]
    assert RecipeChoice(Recipe()).words(50_000) == []
    assert RecipeChoice(Recipe(pretrained=False)).words(1000) == ["--no-pretrained"]
    assert RecipeChoice(named_recipe("demo"), "demo").words(1000) == ["--recipe", "demo"]


def test_several_labels_are_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    import gpt4image.embed

    monkeypatch.setattr(gpt4image.embed, "load_encoder", None)
    source = write_several_labels(tmp_path / "several")
    assert main(["advise", str(source), "--work", str(tmp_path / "work")]) == 1
    assert "images have several labels each" in capsys.readouterr().err
