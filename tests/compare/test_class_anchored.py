"""A comparison with a vision-language teacher: its cost is told beforehand, its part in the report."""

import json

import pytest

from gpt4image.compare.records import Comparison
from gpt4image.core.options import ArmOptions, DataOptions, GuidanceOptions, SimulationOptions
from gpt4image.workflows.train import run_comparison, run_training

FROZEN = {"freeze": ("conv1", "bn1", "act1", "maxpool", "layer1"), "cached_views": 2}


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [{}, FROZEN])
def test_teacher_of_crops_is_planned_trained_once_and_named_in_the_report(
    image_set, descriptions_file, clip_name, tmp_path, small_recipe, capsys, frozen
):
    def compare():
        return run_comparison(
            DataOptions(str(image_set)),
            GuidanceOptions(text=str(descriptions_file), teachers=(clip_name,), anchors="descriptions"),
            small_recipe(**frozen),
            tmp_path,
            seeds=2,
            workers=0,
            options=ArmOptions(("described", "class-anchored"), simulation=SimulationOptions(labels_per_class=3)),
        )

    compared = compare()
    said = " ".join(capsys.readouterr().err.split())
    train = json.loads((tmp_path / "runs/class-anchored-0/settings.json").read_text())["images_per_epoch"]
    crops = 2 * train if frozen else 2 * 2 * (train // 8) * 8
    assert f"A vision-language teacher sees {crops} crops" in said
    assert [arm.name for arm in compared.arms] == ["baseline", "described", "class-anchored"]
    assert compared.difference.arm == "described"
    assert any(note.startswith("Vision-language teacher of class-anchored: open-clip:") for note in compared.notes)
    assert not any("alignment of ." in note for note in compared.notes)
    assert any("tiny-teacher" in model.name or "weights.pt" in model.name for model in compared.models)
    assert "with a vision-language teacher" in (tmp_path / "report.html").read_text()
    weights = sorted(tmp_path.glob("runs/*/best.safetensors"))
    before = [path.stat().st_mtime_ns for path in weights]
    assert compare().others == Comparison.load(tmp_path / "comparison.json").others
    assert [path.stat().st_mtime_ns for path in weights] == before


@pytest.mark.slow
def test_single_run_with_class_anchors_needs_no_descriptions(image_set, clip_name, tmp_path, small_recipe):
    text = GuidanceOptions(text="none", teachers=(clip_name,))
    run = run_training(
        DataOptions(str(image_set)), text, small_recipe(epochs=1), tmp_path, arm="class-anchored", seed=0, workers=0
    )
    assert run.recipe.loss == "anchored"
    assert not list(tmp_path.glob("embeddings/*"))
