"""The model card: true figures, the models that took part, and untrusted text that stays text."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from gpt4image import Recipe, compare_arms, train_model
from gpt4image.compare.model_facts import parts_of
from gpt4image.compare.records import Comparison, UsedModelRecord
from gpt4image.core.invocation import Invocation, invoked
from gpt4image.core.options import SimulationOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.export.card import ModelFacts, write_model_card
from gpt4image.images.simulate import simulate_labels
from gpt4image.train.run import open_run
from support.stored import ask, fill

HOSTILE = "<script>alert(1)<script> | [x](javascript:1) `\n---\nlicense: mit"


@pytest.fixture(scope="module")
def compared(images, descriptions, store, small_recipe_once, tmp_path_factory) -> WorkDir:
    """The work directory of a finished comparison."""
    work = tmp_path_factory.mktemp("compared")
    compare_arms(images, descriptions, store, small_recipe_once, work, seeds=(0, 1))
    return WorkDir(work)


@pytest.fixture(scope="module")
def small_recipe_once():
    return Recipe(backbone="test_resnet", pretrained=False, image_size=32, epochs=1, batch_size=8, warmup_epochs=0.0)


def card_of(facts: ModelFacts, folder: Path) -> str:
    write_model_card(folder / "README.md", facts)
    return (folder / "README.md").read_text()


@pytest.mark.slow
def test_card_states_the_comparison_with_its_interval(compared, images, tmp_path):
    run = open_run(compared.run("described", 1))
    text = card_of(ModelFacts(run, images, ["timm safetensors: equal"], "tester/flowers"), tmp_path)
    comparison = Comparison.load(compared.comparison)
    difference = comparison.difference
    for value in (difference.mean, difference.low, difference.high):
        assert f"{100 * value:.1f}".lstrip("-") in text
    for arm in comparison.arms:
        mean = sum(found.test_accuracy for found in arm.runs) / 2
        assert f"| {arm.name}: {arm.title} | 0, 1 | {mean:.1%} |" in text
    assert "- timm safetensors: equal" in text
    assert 'timm.create_model("hf-hub:tester/flowers", pretrained=True)' in text
    assert "gpt4image train DATA --config recipe.toml --arm described --seed 1" in text
    own = next(r for arm in comparison.arms for r in arm.runs if (r.arm, r.seed) == ("described", 1))
    metrics = {(r.dataset_split, r.metric_type): r.metric_value for r in ModelCard(text).data.eval_results}
    assert metrics == {
        ("validation", "accuracy"): round(run.best_accuracy, 4),
        ("test", "accuracy"): round(own.test_accuracy, 4),
        ("test", "balanced_accuracy"): round(own.balanced_accuracy, 4),
    }


def test_command_on_the_card_has_the_options_that_made_the_images(compared, images, tmp_path):
    typed = ("/home/me/photos", "--corrections", "/home/me/my corrections.csv", "--leaks", "drop")
    facts = ModelFacts(open_run(compared.run("described", 1)), images, [])
    with invoked(Invocation("gpt4image", images=typed)):
        text = card_of(facts, tmp_path)
    assert "train DATA --corrections 'my corrections.csv' --leaks drop --config recipe.toml" in text
    assert "/home/me" not in text and "had a label" not in text and "differ from" not in text


def test_recipe_on_the_card_trains_the_same_model(compared, images, tmp_path):
    run = open_run(compared.run("described", 0))
    text = card_of(ModelFacts(run, images, []), tmp_path)
    (tmp_path / "recipe.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    assert Recipe.from_file(tmp_path / "recipe.toml") == run.recipe


def test_recipe_on_the_card_names_no_folder_of_this_machine(compared, images, tmp_path):
    run = open_run(compared.run("described", 0))
    recipe = replace(run.recipe, backbone="local-dir:/home/me/start", checkpoint="/home/me/weights.pth")
    text = card_of(ModelFacts(replace(run, recipe=recipe), images, []), tmp_path)
    assert "/home/me" not in text
    assert 'backbone = "local-dir:start"' in text and 'checkpoint = "weights.pth"' in text


def test_run_that_was_trained_again_gets_no_figures_of_the_old_comparison(compared, images, tmp_path):
    run = replace(open_run(compared.run("described", 0)), best_accuracy=0.123)
    text = card_of(ModelFacts(run, images, []), tmp_path)
    assert "No comparison of" in text and "baseline" not in text
    assert [r.dataset_split for r in ModelCard(text).data.eval_results] == ["validation"]


def test_damaged_comparison_is_left_out_with_a_note(compared, images, tmp_path, capsys):
    work = shutil.copytree(compared.folder, tmp_path / "work")
    for path in (work / "comparison.json", *work.glob("experiments/*/comparison.json")):
        path.write_text("{}")
    text = card_of(ModelFacts(open_run(work / "runs/described-0"), images, []), tmp_path)
    assert "No comparison of" in text
    assert "omits this comparison" in " ".join(capsys.readouterr().err.split())


def test_hostile_names_stay_text_and_reach_no_metadata(compared, images, tmp_path):
    hostile = replace(images, source=f"/home/me/{HOSTILE}")
    run = replace(open_run(compared.run("described", 0)), classes=(HOSTILE, "b", "c"))
    text = card_of(ModelFacts(run, hostile, []), tmp_path)
    front, _, rest = text.removeprefix("---\n").partition("\n---\n")
    assert "<script>" not in rest and "](javascript" not in rest and "javascript" in rest
    assert "/home/me" not in text
    metadata = metadata_load(tmp_path / "README.md")
    assert "license" not in metadata and metadata["library_name"] == "timm"
    assert "<script>" in front and metadata["model-index"][0]["name"].startswith("test_resnet on <script>")


def test_models_that_took_part_are_named_with_their_licences(compared, images, tmp_path):
    work = shutil.copytree(compared.folder, tmp_path / "work")
    fill(work, images, ask("maker/vlm"))
    run = open_run(work / "runs/described-0")
    start = replace(run, recipe=replace(run.recipe, backbone="resnet18.a1_in1k", pretrained=True))
    parts = parts_of(start)
    assert parts[0] == UsedModelRecord(
        role="initial weights",
        name="resnet18.a1_in1k",
        licence="apache-2.0",
        source="https://huggingface.co/timm/resnet18.a1_in1k",
        hub_name="timm/resnet18.a1_in1k",
    )
    assert [part.name for part in parts[1:]] == ["minilm", "maker/vlm"]
    assert parts_of(open_run(work / "runs/baseline-0")) == []
    file = replace(run, recipe=replace(run.recipe, checkpoint="/home/me/secret/dino.pth"))
    assert parts_of(file)[0].name == "dino.pth"


def test_card_counts_the_labels_of_the_training_where_some_were_taken_away(images, small_recipe_once, tmp_path):
    few = simulate_labels(images, SimulationOptions(labels_per_class=1), 0)
    run = train_model(few, None, small_recipe_once, tmp_path / "baseline-0", arm="baseline")
    text = card_of(ModelFacts(run, images, []), tmp_path)
    train, taken = images.split("train"), int((few.labels != images.labels).sum())
    kept = int((few.labels[train] >= 0).sum())
    assert f"| train | {len(train)} |" in text and f"{kept} of the training images had a label." in text
    assert f"differ from those of the training: {taken} images were given a label." in text
