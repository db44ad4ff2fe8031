"""Export of a trained model: plain timm weights and ONNX, each verified against the trained model on real images."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt4image.core.console import doing
from gpt4image.core.errors import ConfigError, ExportError, MissingExtraError
from gpt4image.core.files import File, Layout, write_json
from gpt4image.export.onnx import export_onnx
from gpt4image.export.parity import Parity, compare_logits
from gpt4image.images.table import ImageTable
from gpt4image.train.backbone import create_model, fitting_options
from gpt4image.train.run import TrainedRun, load_backbone
from gpt4image.train.transforms import evaluation_transform

CHECKED_IMAGES = 32
TOLERANCE = 1e-3  # largest difference of a logit between the exported and the trained model


class ExportLayout(Layout):
    """Files of an exported model."""

    weights = File("model.safetensors")  # under timm's names
    onnx = File("model.onnx")
    config = File("config.json")  # architecture, class names and preprocessing, in timm's format


def export_model(
    run: TrainedRun, images: ImageTable, folder: Path, *, onnx: bool = True, tolerance: float = TOLERANCE
) -> list[Parity]:
    """Export a run's model and compare each form with the trained model on real images.

    Args:
        images: the images; every form predicts some of them.
        folder: target folder, which must be new, empty, or an earlier export.
        onnx: export ONNX as well.
        tolerance: largest allowed difference of a logit.

    Raises:
        ExportError: a form cannot be exported or differs too much. If it is the ONNX form, the timm form is kept; else
            the folder is left as it was.
        ConfigError: the folder holds something else.
        MissingExtraError: the libraries for ONNX are not installed.
    """
    _check_target(folder)
    if onnx:
        for library in ("onnx", "onnxscript", "onnxruntime"):
            if find_spec(library) is None:
                raise MissingExtraError(library, "onnx", "ONNX export, which is optional (--no-onnx),")
    draft = ExportLayout(folder.with_name(f".{folder.name}.draft"))
    shutil.rmtree(draft.folder, ignore_errors=True)
    draft.folder.mkdir(parents=True)
    try:
        with doing("Writing and checking the timm form"):
            model = load_backbone(run)
            sample = sample_images(run, images)
            found = [_verified(_export_timm(run, model, draft, sample), tolerance)]
        failure = None
        if onnx:
            try:
                with doing("Writing and checking the ONNX form"):
                    found.append(_verified(export_onnx(model, draft.onnx, sample), tolerance))
            except ExportError as error:
                failure = f"{error} {folder} holds the verified timm form; for that alone: onnx=False or --no-onnx."
                draft.onnx.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        draft.folder.rename(folder)
    finally:
        shutil.rmtree(draft.folder, ignore_errors=True)
    if failure is not None:
        raise ExportError(failure)
    return found


def _verified(parity: Parity, tolerance: float) -> Parity:
    """Return a parity within the tolerance. ExportError if it is not."""
    if not parity.difference <= tolerance:  # also true for NaN
        raise ExportError(f"{parity.line()}. The tolerance is {tolerance:.1e}; this form was not exported.")
    return parity


def _check_target(folder: Path) -> None:
    """Raise ConfigError if an export would overwrite something that is no export."""
    target = ExportLayout(folder)
    own = {target.weights, target.onnx, target.config}
    if folder.exists() and not (folder.is_dir() and set(folder.iterdir()) <= own):
        raise ConfigError(f"{folder} holds something else than an exported model. Choose another folder.")


def sample_images(run: TrainedRun, images: ImageTable) -> Tensor:
    """Return up to 32 real images [N, 3, H, W], preprocessed for the model; test images first."""
    transform = evaluation_transform(run.preprocessing)
    rows = np.concatenate([images.split(split) for split in ("test", "validation", "train")])
    return torch.stack([transform(images.image(int(row))) for row in rows[:CHECKED_IMAGES]])


def _export_timm(run: TrainedRun, model: nn.Module, layout: ExportLayout, sample: Tensor) -> Parity:
    """Write weights and the config of `timm.create_model("local-dir:...")`, and load them back as a user would."""
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, layout.weights)
    classes, options = {"num_classes": len(run.classes), "label_names": list(run.classes)}, fitting_options(run.recipe)
    architecture = str(model.pretrained_cfg["architecture"])  # type: ignore[index] # not the name on a hub
    config = {
        "architecture": architecture,
        **classes,
        "model_args": options,
        "pretrained_cfg": {**run.preprocessing, **classes},
    }
    write_json(layout.config, config)
    shutil.copymode(layout.config, layout.weights)
    plain = create_model(
        architecture,
        pretrained=False,
        num_classes=len(run.classes),
        checkpoint_path=str(layout.weights),
        **options,
    )
    return compare_logits("timm safetensors", model, plain.eval(), sample)
