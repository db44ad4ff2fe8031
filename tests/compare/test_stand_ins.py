"""Comparisons with stand-in labels: every arm, simulated labels by seed, and nothing trained twice."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from gpt4image import Recipe, SoftLabels, open_run
from gpt4image.cli.main import parse
from gpt4image.compare.records import Comparison
from gpt4image.core.errors import ConfigError
from gpt4image.core.files import hash_file
from gpt4image.core.options import ArmOptions, DataOptions, GuidanceOptions, LabelOptions, SimulationOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.soft_labels import LabelManifest
from gpt4image.workflows.arm_inputs import ArmInputs
from gpt4image.workflows.train import run_comparison, run_training
from support.describing import described
from support.stub_server import StubServer

ARMS = (
    "text-labels", "described+text-labels", "image-labels", "self-training", "text+image-labels", "co-training",
    "fixmatch",
)  # fmt: skip


@pytest.fixture(scope="module")
def compared(image_set, descriptions_file, tmp_path_factory):
    work = tmp_path_factory.mktemp("stand-ins")
    torch.manual_seed(0)
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, work / "weights.safetensors")
    recipe = Recipe(
        backbone="test_resnet",
        checkpoint=str(work / "weights.safetensors"),
        image_size=32,
        epochs=1,
        batch_size=8,
        keep="last",
    )
    text = GuidanceOptions(text=str(descriptions_file))
    options = ArmOptions(ARMS, LabelOptions(), SimulationOptions(labels_per_class=3))

    def compare():
        return run_comparison(DataOptions(str(image_set)), text, recipe, work, seeds=2, workers=0, options=options)

    return compare(), compare, work


@pytest.mark.slow
def test_every_arm_trains_on_the_labels_of_its_seed_for_as_many_steps(compared):
    comparison, _, work = compared
    assert [arm.name for arm in comparison.arms] == ["baseline", *ARMS]
    assert comparison.difference.arm == "text-labels"
    assert [other.arm for other in comparison.others] == list(ARMS[1:])
    assert [rival.reference for rival in comparison.rivals] == ["image-labels", "self-training", "fixmatch"]
    accuracy = {arm.name: sum(run.test_accuracy for run in arm.runs) / 2 for arm in comparison.arms}
    for rival in comparison.rivals:
        assert rival.mean == pytest.approx(accuracy["text-labels"] - accuracy[rival.reference])
    settings = {}
    for arm in ("baseline", *ARMS):
        for seed in range(2):
            settings[arm, seed] = json.loads((work / f"runs/{arm}-{seed}/settings.json").read_text())
    assert len({found["images_per_epoch"] for found in settings.values()}) == 1
    for seed in range(2):
        assert len({settings[arm, seed]["images"] for arm in ("baseline", *ARMS)}) == 1
    assert settings["baseline", 0]["images"] != settings["baseline", 1]["images"]
    assert settings["text-labels", 0]["soft_labels"] != settings["text-labels", 1]["soft_labels"]
    assert not settings["text-labels", 0]["text"]
    assert settings["described+text-labels", 0]["text"]
    page = (work / "report.html").read_text()
    assert "with self-training: " in page


@pytest.mark.slow
def test_finished_comparison_is_not_trained_again_and_its_records_are_the_same(compared):
    comparison, compare, work = compared
    weights = sorted(work.glob("runs/*/best.safetensors"))
    before = [path.stat().st_mtime_ns for path in weights]
    assert compare().difference == comparison.difference
    assert [path.stat().st_mtime_ns for path in weights] == before
    assert Comparison.load(work / "comparison.json").others == comparison.others


@pytest.mark.slow
def test_own_labels_are_those_of_the_baseline_with_the_same_settings(
    compared, image_set, descriptions_file, tmp_path, capsys
):
    _, _, before = compared
    work = shutil.copytree(before, tmp_path / "work")
    recipe = replace(open_run(work / "runs/baseline-0").recipe, lr=5e-3)
    text = GuidanceOptions(text=str(descriptions_file))
    options = ArmOptions(("text-labels", "self-training"), LabelOptions(), SimulationOptions(labels_per_class=3))
    changed = run_comparison(DataOptions(str(image_set)), text, recipe, work, seeds=1, workers=0, options=options)
    folders = {arm.name: arm.runs[0].folder for arm in changed.arms}
    settings = json.loads((work / "runs" / folders["self-training"] / "settings.json").read_text())
    (made,) = work.glob(f"labels/text-{folders['baseline']}-*-0/logits.npy")
    assert folders["baseline"] != "baseline-0"
    assert settings["soft_labels"][0][0] == hash_file(made)
    assert settings["recipe"]["lr"] == recipe.lr
    (record,) = work.glob(f"experiments/{changed.experiment}/experiment.json")
    assert folders["self-training"] in record.read_text()
    plan = " ".join(capsys.readouterr().err.split())
    assert re.search(r"text-labels: 1 to train Labels, seed 0: expected to be right: [^;]+ of \d+ new labels", plan)


def test_simulation_refuses_soft_labels_of_all_labels_and_arms_without_texts(
    image_set, descriptions_file, tmp_path, small_recipe
):
    data, text = DataOptions(str(image_set)), GuidanceOptions(text=str(descriptions_file))
    few = ArmOptions(simulation=SimulationOptions(labels_per_class=3))
    with pytest.raises(ConfigError, match="which a simulation must not do"):
        run_comparison(data, text, small_recipe(soft_labels=0.5), tmp_path, seeds=1, workers=0, options=few)
    with pytest.raises(ConfigError, match="none of baseline, image-labels learns from descriptions"):
        run_comparison(data, text, small_recipe(), tmp_path, seeds=1, workers=0, options=ArmOptions(("image-labels",)))


@pytest.mark.slow
@pytest.mark.parametrize("texts", [True, False])
def test_labels_that_the_llm_picked_are_compared_with_those_from_texts_or_train_without_any(
    image_set, descriptions_file, tmp_path, small_recipe, texts, capsys
):
    data = DataOptions(str(image_set))
    text = GuidanceOptions(text=str(descriptions_file) if texts else "none")
    arms = ("llm-labels", "text-labels") if texts else ("llm-labels",)
    options, recipe = ArmOptions(arms, simulation=SimulationOptions(labels_per_class=2)), small_recipe(epochs=1)

    def compare():
        return run_comparison(data, text, recipe, tmp_path, seeds=1, workers=0, options=options)

    with pytest.raises(ConfigError, match="gpt4image describe DATA --prompts classify"):
        compare()
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, prompts=("classify",), splits=("train",))
    comparison = compare()
    assert {arm.name for arm in comparison.arms} == {"baseline", *arms}
    assert comparison.difference.arm == arms[-1]
    (labels,) = tmp_path.glob("labels/text-picks-*/manifest.json")
    estimate = LabelManifest.load(labels).estimate
    assert (estimate.labelled, estimate.unlabelled) == (6, 19)
    if texts:
        (combined,) = tmp_path.glob("labels/text-minilm-*/manifest.json")
        assert "LLM's picks" in LabelManifest.load(combined).estimate.method
    assert "picked classes: 25 images" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_single_run_with_text_labels_makes_them(image_set, descriptions_file, tmp_path, small_recipe):
    data, text = DataOptions(str(image_set)), GuidanceOptions(text=str(descriptions_file))
    words = ["train", str(image_set), "--arm", "text-labels", "--label-form", "soft"]
    run = run_training(
        data, text, small_recipe(), tmp_path, arm="text-labels", seed=0, workers=0, labeller=parse(words).labeller
    )
    assert run.recipe.soft_labels == 1.0
    assert SoftLabels(tmp_path / "labels/text-minilm").manifest.temperature == 1.0, "soft, not hard"


def test_label_targets_warn_where_labels_are_wrong(
    images, descriptions, store, tmp_path, small_recipe, descriptions_file, capsys
):
    def inputs(recipe, **simulated):
        options = ArmOptions(simulation=SimulationOptions(**simulated))
        text, work = GuidanceOptions(text=str(descriptions_file)), WorkDir(tmp_path)
        return ArmInputs(images, descriptions, (store,), (), text, recipe, work, options)

    inputs(small_recipe(targets="label"), label_noise=0.3)("described", 0)
    assert "some of these labels are wrong" in " ".join(capsys.readouterr().err.split())
    inputs(small_recipe(targets="label"), labels_per_class=3)("described", 0)
    inputs(small_recipe(targets="same"), label_noise=0.3)("described", 0)
    inputs(small_recipe(targets="label"), label_noise=0.3)("baseline", 0)
    assert "labels are wrong" not in " ".join(capsys.readouterr().err.split())
