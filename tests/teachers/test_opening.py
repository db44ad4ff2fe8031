"""Training with teachers: their vectors beside those of texts, and soft labels of a run instead of the texts'."""

import json
import shutil

import numpy as np
import pytest
import torch

from gpt4image import EmbeddingStore, Recipe, SoftLabels, embed_images, train_model
from gpt4image.cli.main import main
from gpt4image.core.errors import ConfigError
from gpt4image.core.options import DataOptions, GuidanceOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.open import open_images
from gpt4image.teachers import load_teacher
from gpt4image.teachers.base import TEACHERS, TeacherKind
from gpt4image.teachers.models import RunTeacher
from gpt4image.teachers.opening import open_teachers
from gpt4image.train.guidance import is_text
from gpt4image.workflows.inputs import open_descriptions, open_guidance
from gpt4image.workflows.train import run_training

NAME = "timm:test_resnet"


@pytest.fixture(scope="module")
def settings() -> dict:
    return {
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": 32,
        "epochs": 2,
        "batch_size": 8,
        "lr": 1e-3,
        "warmup_epochs": 0.5,
    }


@pytest.fixture(scope="module")
def trained(images, settings, tmp_path_factory):
    """A short finished run."""
    return train_model(images, None, Recipe(**settings), tmp_path_factory.mktemp("trained") / "run", arm="baseline")


@pytest.fixture(scope="module")
def tiny_teacher(tmp_path_factory):
    """A tiny timm model with random weights."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), path)
    return load_teacher(NAME, checkpoint=path, image_size=32, device="cpu")


@pytest.fixture(scope="module")
def work(image_set, tiny_teacher, tmp_path_factory):
    """A work directory with vectors of the teacher, made from its own weights file."""
    folder = tmp_path_factory.mktemp("work")
    workdir = WorkDir(folder)
    embed_images(open_images(options(image_set), workdir), tiny_teacher, workdir.embeddings(f"images-{NAME}"))
    return folder


def options(image_set) -> DataOptions:
    return DataOptions(str(image_set), validation_share=0.2, test_share=0.25)


@pytest.mark.slow
def test_text_and_teacher_get_a_head_each(image_set, descriptions_file, settings, work, capsys):
    text = GuidanceOptions(text=str(descriptions_file), teachers=(NAME,))
    run = run_training(
        options(image_set), text, Recipe(**settings, weight=1.0), work, arm="described", seed=0, workers=0
    )
    stored = json.loads(run.layout.settings.read_text())
    assert [source["encoder"] for source in stored["text"]] == ["minilm", NAME]
    assert all(np.isfinite(epoch["alignment_loss"]) for epoch in run.history)
    assert "Look at" not in capsys.readouterr().err


@pytest.mark.slow
def test_run_as_teacher_gives_soft_labels(image_set, descriptions_file, settings, trained, tmp_path):
    name = f"run:{trained.layout.folder}"
    text = GuidanceOptions(text=str(descriptions_file), teachers=(name,))
    recipe = Recipe(**settings, soft_labels=0.5)
    run = run_training(options(image_set), text, recipe, tmp_path, arm="described", seed=0, workers=0)
    workdir = WorkDir(tmp_path)
    labels = SoftLabels(workdir.labels(name))
    assert [source.name for source in labels.manifest.origin.sources] == [name]
    assert [path.name for path in (tmp_path / "labels").iterdir() if path.is_dir()] == [labels.layout.folder.name]
    assert len(json.loads(run.layout.settings.read_text())["soft_labels"]) == 1
    with pytest.raises(ConfigError, match="set soft_labels"):
        run_training(options(image_set), text, Recipe(**settings), tmp_path, arm="described", seed=1, workers=0)


def test_text_vectors_come_first_and_alone_make_soft_labels(image_set, descriptions_file, settings, work):
    workdir, text = WorkDir(work), GuidanceOptions(text=str(descriptions_file), teachers=(NAME,))
    images = open_images(options(image_set), workdir)
    stores, soft = open_guidance(
        images, open_descriptions(images, text, workdir), text, Recipe(**settings, soft_labels=0.5), workdir
    )
    assert [is_text(store) for store in stores] == [True, False]
    assert [source.name for source in soft[0].manifest.origin.sources] == ["minilm"]


def test_vectors_of_different_weights_are_not_mixed(images, tiny_teacher, tmp_path, monkeypatch):
    from dataclasses import replace

    from gpt4image.teachers import opening

    workdir, rows = WorkDir(tmp_path), images.split("train")
    folder = workdir.embeddings(f"images-{NAME}")
    embed_images(replace(images, rows=images.rows.take(rows[:5])), tiny_teacher, folder)
    monkeypatch.setattr(opening, "load_teacher", lambda _: tiny_teacher)
    assert len(open_teachers(images, [NAME], workdir).stores[0]) == len(np.unique(images.ids[rows]))

    folder.rename(tmp_path / "whole")
    embed_images(replace(images, rows=images.rows.take(rows[:5])), tiny_teacher, folder)
    monkeypatch.setattr(tiny_teacher, "revision", "other")
    with pytest.raises(ConfigError, match=r"other weights.*embed images DATA.*--teacher timm:test_resnet"):
        open_teachers(images, [NAME], workdir)
    assert len(EmbeddingStore(folder)) == 5
    with pytest.raises(ConfigError, match="each vision teacher once"):
        open_teachers(images, [NAME, NAME], workdir)


@pytest.mark.slow
def test_comparison_uses_text_and_teacher(image_set, descriptions_file, work, tmp_path):
    shutil.copytree(work / "embeddings", tmp_path / "embeddings")
    recipe = [
        "--backbone",
        "test_resnet",
        "--no-pretrained",
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--batch-size",
        "8",
    ]
    split = ["--validation-share", "0.2", "--test-share", "0.25"]
    texts = ["--text", str(descriptions_file), "--teachers", NAME]
    assert main(["compare", str(image_set), *split, *texts, *recipe, "--seeds", "2", "--work", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert [encoder["name"] for encoder in found["encoders"]] == ["minilm"]
    assert any(f"Vision teacher {NAME}" in note for note in found["notes"])


def test_teacher_alone_needs_no_text(image_set, settings, work, tmp_path):
    shutil.copytree(work / "embeddings", tmp_path / "embeddings")
    text = GuidanceOptions(text="none", teachers=(NAME,))
    run = run_training(options(image_set), text, Recipe(**settings), tmp_path, arm="described", seed=0, workers=0)
    assert [source["encoder"] for source in json.loads(run.layout.settings.read_text())["text"]] == [NAME]
    nothing = GuidanceOptions(text="none")
    with pytest.raises(ConfigError, match="nothing guides the training: set teachers"):
        run_training(options(image_set), nothing, Recipe(**settings), tmp_path, arm="described", seed=1, workers=0)
    with pytest.raises(ConfigError, match="weight = 0 disables the alignment with teacher timm:test_resnet"):
        idle = Recipe(**settings, weight=0.0)
        run_training(options(image_set), text, idle, tmp_path, arm="described", seed=1, workers=0)
    with pytest.raises(ConfigError, match="run as a teacher"):
        soft = Recipe(**settings, soft_labels=0.5)
        run_training(options(image_set), nothing, soft, tmp_path, arm="described", seed=1, workers=0)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_soft_labels_of_a_run_need_no_text(image_set, settings, trained, tmp_path, weight):
    text = GuidanceOptions(text="none", teachers=(f"run:{trained.layout.folder}",))
    recipe = Recipe(**settings, soft_labels=0.5, weight=weight)
    run = run_training(options(image_set), text, recipe, tmp_path, arm="described", seed=0, workers=0)
    assert run.history[0]["alignment_loss"] is None
    assert len(json.loads(run.layout.settings.read_text())["soft_labels"]) == 1


def test_arm_on_labels_alone_says_that_it_leaves_teachers_out(image_set, settings, trained, tmp_path, capsys):
    text = GuidanceOptions(text="none", teachers=(f"run:{trained.layout.folder}",))
    recipe = Recipe(**settings, soft_labels=0.5)
    run_training(options(image_set), text, recipe, tmp_path, arm="baseline", seed=0, workers=0)
    assert "trains on labels alone, without run:" in " ".join(capsys.readouterr().err.split())


def test_arm_on_labels_alone_says_that_soft_labels_have_no_effect(image_set, settings, tmp_path, capsys):
    recipe = Recipe(**settings, soft_labels=0.5)
    run_training(options(image_set), GuidanceOptions(), recipe, tmp_path, arm="baseline", seed=0, workers=0)
    assert "trains on labels alone, without soft labels" in " ".join(capsys.readouterr().err.split())


def test_descriptions_without_weight_are_said_to_have_no_effect(
    image_set, descriptions_file, settings, tmp_path, capsys
):
    text, recipe = GuidanceOptions(text=str(descriptions_file)), Recipe(**settings, weight=0.0)
    run_training(options(image_set), text, recipe, tmp_path, arm="described", seed=0, workers=0)
    assert "the arm described trains on labels alone" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def run_of(trained, monkeypatch):
    """A registered kind of teacher that returns logits, and takes an image size."""

    def build(model, device, *, name, image_size=32):
        assert image_size == 32
        return RunTeacher(str(trained.layout.folder), device, name=name)

    monkeypatch.setattr(TEACHERS, "_entries", dict(TEACHERS._entries))
    TEACHERS.register("mine", TeacherKind(build, gives_labels=True, settings=("image_size",)))


def test_registered_kind_that_gives_labels_needs_no_text(image_set, settings, run_of, tmp_path):
    text, recipe = GuidanceOptions(text="none", teachers=("mine:x",)), Recipe(**settings, soft_labels=0.5)
    run = run_training(options(image_set), text, recipe, tmp_path, arm="described", seed=0, workers=0)
    assert len(json.loads(run.layout.settings.read_text())["soft_labels"]) == 1
    with pytest.raises(ConfigError, match="mine:x provides soft labels"):
        run_training(options(image_set), text, Recipe(**settings), tmp_path, arm="described", seed=1, workers=0)


def test_registered_kind_takes_the_settings_that_it_names(run_of, tmp_path):
    assert load_teacher("mine:x", "cpu", image_size=32).classes
    with pytest.raises(AssertionError):
        load_teacher("mine:x", "cpu", image_size=64)
    with pytest.raises(ConfigError, match="takes no weights file"):
        load_teacher("mine:x", "cpu", checkpoint=tmp_path / "weights.pt")


@pytest.mark.slow
def test_comparison_with_soft_labels_of_a_run_needs_no_text(image_set, trained, tmp_path):
    recipe = [
        "--backbone",
        "test_resnet",
        "--no-pretrained",
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--batch-size",
        "8",
    ]
    guidance = ["--text", "none", "--teachers", f"run:{trained.layout.folder}", "--soft-labels", "0.5"]
    split = ["--validation-share", "0.2", "--test-share", "0.25"]
    assert main(["compare", str(image_set), *split, *guidance, *recipe, "--seeds", "2", "--work", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("loss", ["cosine", "relational"])
@pytest.mark.parametrize("targets", ["label", "similarity"])
def test_targets_that_the_loss_ignores_are_refused(image_set, descriptions_file, settings, tmp_path, loss, targets):
    text, recipe = GuidanceOptions(text=str(descriptions_file)), Recipe(**settings, loss=loss, targets=targets)
    with pytest.raises(ConfigError, match=f"{loss} loss knows no targets, so '{targets}' would have no effect"):
        run_training(options(image_set), text, recipe, tmp_path, arm="described", seed=0, workers=0)
