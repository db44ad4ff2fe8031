"""Exported models are plain timm models with the predictions of the trained one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from gpt4image import export_model, predict_images, train_model
from gpt4image.core.errors import ConfigError, ExportError
from gpt4image.export import measure
from gpt4image.export import model as module
from gpt4image.export.detector import FLIPS, compare_detections
from gpt4image.export.forms import export_onnx
from gpt4image.export.measure import Parity
from gpt4image.export.model import sample_images
from gpt4image.train.detection.detector import COLUMNS
from gpt4image.train.run import load_backbone
from gpt4image.train.transforms import evaluation_transform


@pytest.mark.slow
def test_all_forms_compute_the_trained_logits_for_any_batch_size(run, images, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 3)
    folder = tmp_path / "model"
    summary = export_model(run, images, folder, torch_export=True, int8=True, benchmark=True)
    sample = sample_images(run, images)
    with torch.no_grad():
        expected = load_backbone(run)(sample).numpy()
        plain = timm.create_model(
            "test_resnet", num_classes=3, checkpoint_path=str(folder / "model.safetensors")
        ).eval()
        np.testing.assert_allclose(plain(sample).numpy(), expected, atol=1e-6)
        local = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        np.testing.assert_allclose(local(sample).numpy(), expected, atol=1e-6)
        program = torch.export.load(folder / "model.pt2").module()
        for size in (1, 5):
            np.testing.assert_allclose(program(sample[:size]).numpy(), expected[:size], atol=1e-5)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    quantized = onnxruntime.InferenceSession(str(folder / "model.int8.onnx"))
    for size in (1, 5):
        logits = session.run(None, {"images": sample[:size].numpy()})[0]
        np.testing.assert_allclose(logits, expected[:size], atol=1e-3)
        rough = quantized.run(None, {"images": sample[:size].numpy()})[0]
        assert 0 < np.abs(rough - expected[:size]).max() < 0.2 * np.abs(expected).max()
    assert [found.form for found in summary.parity] == ["timm safetensors", "torch.export", "ONNX"]
    assert all(found.difference <= 1e-3 and found.images == len(sample) for found in summary.parity)
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == list(images.classes)
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    forms = {"model.safetensors", "model.pt2", "model.onnx", "model.int8.onnx"}
    assert {path.name for path in folder.iterdir()} == forms | {"config.json", "README.md"}
    for path in folder.iterdir():
        for place in (site_packages(), Path.cwd(), Path.home() / ".cache", folder):
            assert bytes(place) not in path.read_bytes(), f"{path.name} names {place}"
    check_measures(summary, run, images)


def check_measures(summary, run, images):
    """Int8's accuracy is that on the test images, and every form has a time for each batch size."""
    rows = images.split("test")
    transform = evaluation_transform(run.preprocessing)
    with torch.no_grad():
        answers = load_backbone(run)(torch.stack([transform(images.image(int(row))) for row in rows])).argmax(dim=1)
    right = float((answers.numpy() == images.labels[rows]).mean())
    assert (summary.int8.images, summary.int8.before) == (len(rows), right)
    assert f"ONNX int8: accuracy {summary.int8.after:.1%} on {len(rows)} test images" in summary.lines()[3]
    timed = {(found.form, found.batch) for found in summary.latencies}
    assert timed == {(form, size) for form in ("timm", "torch.export", "ONNX", "ONNX int8") for size in (1, 32)}
    assert all(0 < found.low <= found.median <= found.high for found in summary.latencies)


def site_packages():
    return Path(torch.__file__).parents[1]


@pytest.mark.slow
def test_model_that_the_graph_exporter_cannot_decompose_is_exported_by_tracing(tmp_path):
    model = timm.create_model(
        "maxvit_rmlp_pico_rw_256", num_classes=3, img_size=32, depths=(1, 1, 1, 1), embed_dim=(32,) * 4
    ).eval()
    sample = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert export_onnx(model, tmp_path / "model.onnx", sample).difference <= 1e-3


def test_failed_onnx_export_keeps_the_verified_timm_form(run, images, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("Failed to decompose the graph.\n" + "137 lines\n" * 137)

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError) as raised:
        export_model(run, images, tmp_path / "model")
    said = str(raised.value)
    assert "cannot be exported to ONNX (Failed to decompose the graph.)" in said and "137" not in said
    assert f"{tmp_path / 'model'} holds the verified timm form" in said and "onnx=False or --no-onnx" in said
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert next(predict_images(tmp_path / "model", [images_path(images)])).answers


def test_failed_program_keeps_the_other_forms(run, images, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("Constraints violated.")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ExportError, match=r"by torch.export \(Constraints violated.\). .*torch_export=False"):
        export_model(run, images, tmp_path / "model", onnx=False, torch_export=True)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_other_labels_than_those_of_the_training_are_said(run, images, tmp_path, capsys):
    export_model(run, images, tmp_path / "same", onnx=False)
    assert "other images, labels or splits" not in " ".join(capsys.readouterr().err.split())
    at = images.rows.schema.get_field_index("label")
    labels = pa.array((images.labels + 1) % len(images.classes), pa.int32())
    changed = replace(images, rows=images.rows.set_column(at, images.rows.schema.field(at), labels))
    export_model(run, changed, tmp_path / "other", onnx=False)
    said = " ".join(capsys.readouterr().err.split())
    count = len(images) - len(images.split("test"))
    assert f"other images, labels or splits than {images.source}: {count} images were given another label" in said


def test_int8_without_onnx_is_refused(run, images, tmp_path):
    with pytest.raises(ConfigError, match="leave onnx on"):
        export_model(run, images, tmp_path / "model", onnx=False, int8=True)
    assert list(tmp_path.iterdir()) == []


def images_path(images):
    return Path(images.source) / images.path(0)


def test_run_of_a_local_timm_model_is_exported_by_its_architecture(run, images, tmp_path):
    export_model(run, images, tmp_path / "first", onnx=False)
    recipe = replace(run.recipe, backbone=f"local-dir:{tmp_path / 'first'}", pretrained=True, epochs=1)
    again = train_model(images, None, recipe, tmp_path / "run", arm="baseline")
    export_model(again, images, tmp_path / "model", onnx=False)
    shutil.rmtree(tmp_path / "first")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architecture"] == "test_resnet"
    assert next(predict_images(tmp_path / "model", [images_path(images)])).answers


def test_export_beyond_the_tolerance_writes_nothing(run, images, tmp_path, monkeypatch):
    plain = module.save_file

    def corrupt(state, path):
        plain({key: value + 0.01 if key == "fc.bias" else value for key, value in state.items()}, path)

    monkeypatch.setattr(module, "save_file", corrupt)
    with pytest.raises(ExportError, match=r"timm safetensors: largest logit difference 1.0e-02.*not exported"):
        export_model(run, images, tmp_path / "model", onnx=False)
    assert list(tmp_path.iterdir()) == []


def test_folder_with_other_files_is_refused(run, images, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="something other"):
        export_model(run, images, tmp_path, onnx=False)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_folder_with_nothing_but_a_readme_is_refused(run, images, tmp_path):
    (tmp_path / "README.md").write_text("years of work")
    with pytest.raises(ConfigError, match="something other"):
        export_model(run, images, tmp_path, onnx=False)
    assert (tmp_path / "README.md").read_text() == "years of work"


def test_repeated_export_replaces_the_earlier_one(run, images, tmp_path):
    export_model(run, images, tmp_path / "model", onnx=False)
    state = {key: value.clone() for key, value in load_file(tmp_path / "model" / "model.safetensors").items()}
    save_file({key: value * 0 for key, value in state.items()}, tmp_path / "model" / "model.safetensors")
    export_model(run, images, tmp_path / "model", onnx=False)
    again = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(state[key], again[key]) for key in state)


def test_detections_of_one_image_in_ten_may_differ_and_no_more():
    found = torch.zeros(20, 3, COLUMNS)
    found[..., 1:] = torch.rand(20, 3, COLUMNS - 1, generator=torch.Generator().manual_seed(0)) / 2 + 0.3
    other = found.clone()
    other[:2, 1, 2] += 0.2  # another box was kept
    sample = torch.zeros(20, 3, 8, 8)

    def parity(differing: torch.Tensor) -> Parity:
        return compare_detections("ONNX", lambda images: found, lambda images: differing, sample, 20 // FLIPS)

    assert parity(other.flip(1)).difference == 0  # in any order
    same_runtime = compare_detections("safetensors", lambda images: found, lambda images: other, sample)
    assert same_runtime.difference > 0.01
    other[2, 0, 5] += 0.1
    assert parity(other).difference == pytest.approx(0.1)
    other[:, :, 0] += 1
    assert parity(other).difference == float("inf") and parity(other).same_answers == 0
