"""The model for deployment: plain timm weights and ONNX, proven to answer as the trained one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError, ExportError, MissingExtraError
from gpt4image.core.files import File, Layout, write_json
from gpt4image.images.table import ImageTable
from gpt4image.train.augment import evaluation_transform
from gpt4image.train.backbone import create_model, fitting_options
from gpt4image.train.run import TrainedRun, load_backbone

CHECKED_IMAGES = 32


TOLERANCE = 1e-3


"""Largest difference of a logit at which an exported model counts as equal."""


class ExportLayout(Layout):
    """Files of an exported model."""

    weights = File("model.safetensors")
    """Weights under timm's names."""
    onnx = File("model.onnx")
    """The same model as an ONNX graph."""
    config = File("config.json")
    """Architecture, class names and preprocessing, in timm's own layout."""


@dataclass(frozen=True)
class Parity:
    """How near an exported model is to the trained one.

    Attributes:
        form: what was exported.
        images: number of real images it was shown.
        difference: largest absolute difference of a logit.
        same_answers: images on which the likeliest class is the same.
    """

    form: str
    images: int
    difference: float
    same_answers: int

    def line(self) -> str:
        """The finding in one line."""
        return (
            f"{self.form}: largest logit difference {self.difference:.1e} on {self.images} real images, "
            f"{self.same_answers}/{self.images} same answers"
        )


def export_model(
    run: TrainedRun, images: ImageTable, folder: Path, *, onnx: bool = True, tolerance: float = TOLERANCE
) -> list[Parity]:
    """Write a run's model for deployment and compare each form with the trained model on real images.

    Args:
        run: the finished run.
        images: the image set; some of its images are shown to every form.
        folder: where the model goes. It must not exist, or be empty or an earlier export.
        onnx: also write ONNX.
        tolerance: largest allowed difference of a logit.

    Raises:
        ExportError: an exported form answers otherwise; nothing is left in the folder.
        ConfigError: the folder holds something else.
        MissingExtraError: ONNX is asked for and not installed.
    """
    target = ExportLayout(folder)
    check_target(target)
    if onnx:
        require_onnx()
    draft = ExportLayout(folder.with_name(f".{folder.name}.draft"))
    shutil.rmtree(draft.folder, ignore_errors=True)
    draft.folder.mkdir(parents=True)
    try:
        model = load_backbone(run)
        sample = sample_images(run, images)
        found = [export_timm(run, model, draft, sample)]
        if onnx:
            found.append(export_onnx(model, draft, sample))
        check_parity(found, tolerance)
        shutil.rmtree(folder, ignore_errors=True)
        draft.folder.rename(folder)
    finally:
        shutil.rmtree(draft.folder, ignore_errors=True)
    return found


def check_target(target: ExportLayout) -> None:
    """ConfigError when writing there would destroy something that is no export."""
    own = {target.weights, target.onnx, target.config}
    if target.folder.exists() and not (target.folder.is_dir() and set(target.folder.iterdir()) <= own):
        raise ConfigError(f"{target.folder} holds something else than an exported model. Take another folder.")


def require_onnx() -> None:
    """MissingExtraError when a library that ONNX export needs is not installed."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(library)
        except ImportError:
            raise MissingExtraError(library, "onnx", "ONNX export (leave it out: --no-onnx)") from None


def check_parity(found: list[Parity], tolerance: float) -> None:
    """ExportError when a form differs by more than the tolerance."""
    for parity in found:
        if not parity.difference <= tolerance:
            raise ExportError(f"{parity.line()}. The tolerance is {tolerance:.1e}; nothing was exported.")


def sample_images(run: TrainedRun, images: ImageTable) -> Tensor:
    """Some real images [N, 3, H, W], prepared for the model; test images, or others where there are none."""
    transform = evaluation_transform(run.preprocessing)
    rows = np.concatenate([images.split(split) for split in ("test", "validation", "train")])
    return torch.stack([transform(images.image(int(row))) for row in rows[:CHECKED_IMAGES]])


def export_timm(run: TrainedRun, model: nn.Module, layout: ExportLayout, sample: Tensor) -> Parity:
    """Write weights and config, and load them back the way a deployer would."""
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, layout.weights)
    write_json(layout.config, deployment_config(run))
    shutil.copymode(layout.config, layout.weights)
    plain = create_model(
        run.recipe.backbone,
        pretrained=False,
        num_classes=len(run.classes),
        checkpoint_path=str(layout.weights),
        **fitting_options(run.recipe),
    )
    return measure_parity("timm safetensors", model, plain.eval(), sample)


def deployment_config(run: TrainedRun) -> dict[str, Any]:
    """What a deployer needs to know, in the layout of `timm.create_model("local-dir:...")`."""
    return {
        "architecture": run.recipe.backbone,
        "num_classes": len(run.classes),
        "label_names": list(run.classes),
        "model_args": fitting_options(run.recipe),
        "pretrained_cfg": {**run.preprocessing, "num_classes": len(run.classes), "label_names": list(run.classes)},
    }


def export_onnx(model: nn.Module, layout: ExportLayout, sample: Tensor) -> Parity:
    """Write an ONNX graph with a free batch size, and run it with ONNX Runtime."""
    import onnxruntime

    torch.onnx.export(
        model,
        (sample[:2],),
        str(layout.onnx),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(layout.onnx), providers=["CPUExecutionProvider"])

    def run_graph(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])

    return measure_parity("ONNX", model, run_graph, sample)


@torch.no_grad()
def measure_parity(form: str, model: nn.Module, exported: Callable[[Tensor], Tensor], sample: Tensor) -> Parity:
    """Compare an exported form with the trained model on images [N, 3, H, W]."""
    expected, answered = model(sample), exported(sample)
    same = int((expected.argmax(dim=1) == answered.argmax(dim=1)).sum())
    return Parity(form, len(sample), float((expected - answered).abs().max()), same)
