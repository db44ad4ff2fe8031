"""Export a trained model as plain timm weights and in other forms, verified against it on real images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt4image.core.console import doing, say
from gpt4image.core.errors import ConfigError, ExportError, MissingExtraError
from gpt4image.core.files import write_json
from gpt4image.core.workdir import ExportLayout
from gpt4image.export.card import ModelFacts, changes_since_training, write_model_card
from gpt4image.export.forms import export_onnx, export_program, graph_runner
from gpt4image.export.int8 import QuantizationLoss, quantize
from gpt4image.export.measure import Latency, Parity, compare_logits, measure_latencies
from gpt4image.images.table import ImageTable
from gpt4image.tasks import TASKS
from gpt4image.train.backbone import apart, create_model, fitting_options
from gpt4image.train.run import TrainedRun, load_backbone
from gpt4image.train.transforms import evaluation_input, evaluation_transform

CHECKED_IMAGES = 32
TOLERANCE = 1e-3  # largest difference between the exported and the trained model in a logit


@dataclass(frozen=True)
class ExportSummary:
    """What was exported, and how it compares with the trained model.

    Attributes:
        parity: one entry for each form that should compute the same logits.
        int8: loss of accuracy with 8-bit integers; None without that form.
        latencies: times of each form; empty if they were not measured.
        failures: why forms are missing, by the name of the setting that disables each.
    """

    parity: list[Parity] = field(default_factory=list)
    int8: QuantizationLoss | None = None
    latencies: list[Latency] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the results as lines of text."""
        int8 = [self.int8.line()] if self.int8 else []
        return [*(found.line() for found in self.parity), *int8, *(found.line() for found in self.latencies)]


def export_model(
    run: TrainedRun,
    images: ImageTable,
    folder: str | Path,
    *,
    onnx: bool = True,
    int8: bool = False,
    torch_export: bool = False,
    benchmark: bool = False,
    tolerance: float = TOLERANCE,
    repo: str | None = None,
) -> ExportSummary:
    """Export a run's model with a model card, and compare each form with the trained model on real images.

    Args:
        run: the run.
        images: its images, some of which every form predicts.
        folder: target folder, which must be new, empty, or an earlier export.
        onnx: export ONNX as well.
        int8: quantise the ONNX form to 8-bit integers as well, and compare the accuracies on the test images.
        torch_export: export a program of `torch.export` as well.
        benchmark: measure how fast each form is on this machine's processor.
        tolerance: largest allowed difference of a logit; int8 is exempt.
        repo: the repository on the Hub, USER/NAME, that the card should name.

    Raises:
        ExportError: a form cannot be exported or differs too much. If it is the first form, the folder is left as it
            was; otherwise the other forms are kept.
        ConfigError: the folder holds something else, or settings exclude each other.
        MissingExtraError: the libraries for ONNX are not installed.
    """
    folder = Path(folder)
    ExportLayout(folder).require_free()
    if differences := changes_since_training(run, images):
        say(
            f"{run.layout.folder} was trained on other images, labels or splits than {images.source}: "
            f"{', '.join(differences)}. The card says so. Unless labels were removed or changed on purpose, as by "
            "labels_per_class (--labels-per-class) or label_noise (--label-noise), name the same images, with the "
            "same corrections.",
            "yellow",
        )
    family = TASKS.load(run.task).family
    write, write_onnx = _forms_of(family)
    on_maps = family in ("detector", "segmenter")
    kind = "safetensors" if on_maps or run.frames else "timm"
    if on_maps:
        _check_forms(f"{family}s", int8=int8, torch_export=torch_export, benchmark=benchmark)
    _check_onnx(onnx, int8)
    draft = ExportLayout(folder.with_name(f".{folder.name}.draft"))
    shutil.rmtree(draft.folder, ignore_errors=True)
    draft.folder.mkdir(parents=True)
    try:
        with doing(f"Writing and checking the {kind} form"):
            model = load_backbone(run)
            sample, first = write(run, images, model, draft)
            summary = ExportSummary([_verified(first, tolerance)])
        if torch_export:
            with doing("Writing and checking the torch.export form"), _optional(summary, "torch_export", draft.program):
                summary.parity.append(_verified(export_program(model, draft.program, sample), tolerance))
        if onnx:
            with doing("Writing and checking the ONNX form"), _optional(summary, "onnx", draft.onnx):
                found = write_onnx(model, draft.onnx, sample)
                summary.parity.append(_verified(found, tolerance))
        if int8 and draft.onnx.exists():
            with _optional(summary, "int8", draft.int8):
                summary = replace(summary, int8=quantize(run, model, images, draft.onnx, draft.int8))
        if benchmark:
            with doing("Measuring how fast each form is"):
                summary.latencies.extend(measure_latencies(_runners(model, draft), sample))
        write_model_card(draft.card, ModelFacts(run, images, summary.lines(), repo))
        shutil.rmtree(folder, ignore_errors=True)
        draft.folder.rename(folder)
    finally:
        shutil.rmtree(draft.folder, ignore_errors=True)
    if summary.failures:
        without = ", ".join(f"{name}=False" for name in summary.failures)
        raise ExportError(
            f"{' '.join(summary.failures.values())} {folder} holds the verified {kind} form and all others that were "
            f"asked for; for these alone: {without} or {_options(summary.failures)}."
        )
    return summary


def _export_classifier(
    run: TrainedRun, images: ImageTable, model: nn.Module, layout: ExportLayout
) -> tuple[Tensor, Parity]:
    """Write the timm form, or that of a model of clips; return real images and the agreement of both on them."""
    sample = sample_images(run, images)
    if run.frames is not None:
        from gpt4image.export.clip_model import export_clips

        return sample, export_clips(run, model, layout.weights, layout.config, sample)
    return sample, _export_timm(run, model, layout, sample)


def _export_detector(
    run: TrainedRun, images: ImageTable, model: nn.Module, layout: ExportLayout
) -> tuple[Tensor, Parity]:
    """Write a detector's weights and configuration; return real images and the agreement of both models on them."""
    from gpt4image.export.detector import export_detector, sample_inputs

    sample = sample_inputs(run, images, CHECKED_IMAGES)
    return sample, export_detector(run, model, layout, sample)


def _export_segmenter(
    run: TrainedRun, images: ImageTable, model: nn.Module, layout: ExportLayout
) -> tuple[Tensor, Parity]:
    """Write a segmentation model's weights and configuration; return as `_export_detector` does."""
    from gpt4image.export.detector import sample_inputs
    from gpt4image.export.segmenter import export_segmenter

    sample = sample_inputs(run, images, CHECKED_IMAGES)
    return sample, export_segmenter(run, model, layout, sample)


def _forms_of(family: str) -> tuple[Callable[..., tuple[Tensor, Parity]], Callable[..., Parity]]:
    """Return the function that writes the first form of a family's models, and the one that writes ONNX."""
    if family == "detector":
        from gpt4image.export.detector import export_onnx_detector

        return _export_detector, export_onnx_detector
    if family == "segmenter":
        from gpt4image.export.segmenter import export_onnx_segmenter

        return _export_segmenter, export_onnx_segmenter
    return _export_classifier, export_onnx


def _check_forms(what: str, **asked: bool) -> None:
    """Raise ConfigError if a form was requested to which such models cannot be exported."""
    for name, wanted in asked.items():
        if wanted:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{name} ({option}) does not work with {what}: leave it out.")


def _check_onnx(onnx: bool, int8: bool) -> None:
    """Raise an error if the ONNX form cannot be made, or if int8 is requested without it."""
    if int8 and not onnx:
        raise ConfigError("int8 is made from the ONNX form: leave onnx on, or leave int8 (--int8) out.")
    for library in ("onnx", "onnxscript", "onnxruntime") if onnx else ():
        if find_spec(library) is None:
            raise MissingExtraError(library, "onnx", "ONNX export, which is optional (--no-onnx),")


def _options(names: Iterable[str]) -> str:
    """Return the command line options that disable the given forms."""
    return ", ".join(f"--no-{name.replace('_', '-')}" for name in names)


@contextmanager
def _optional(summary: ExportSummary, name: str, path: Path) -> Iterator[None]:
    """Export one more form; if that fails, record the reason and leave no file."""
    try:
        yield
    except ExportError as error:
        summary.failures[name] = str(error)
        path.unlink(missing_ok=True)


def _runners(model: nn.Module, layout: ExportLayout) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return a function from images to logits for each form in a folder."""
    found: dict[str, Callable[[Tensor], Tensor]] = {"timm": model}
    if layout.program.exists():
        found["torch.export"] = torch.export.load(layout.program).module()
    graphs = {"ONNX": layout.onnx, "ONNX int8": layout.int8}
    return found | {name: graph_runner(path) for name, path in graphs.items() if path.exists()}


def _verified(parity: Parity, tolerance: float) -> Parity:
    """Return the parity if it is within the tolerance, else raise ExportError."""
    if not parity.difference <= tolerance:  # also true for NaN
        raise ExportError(f"{parity.line()}. The tolerance is {tolerance:.1e}; this form was not exported.")
    return parity


def sample_images(run: TrainedRun, images: ImageTable) -> Tensor:
    """Return up to 32 real images [N, 3, H, W] or clips [N, T, 3, H, W], preprocessed for the model, test ones first.

    Raises:
        ConfigError: the run was trained on a different choice of frames, or on still images.
    """
    if run.frames != images.frames:
        seen = [f"clips with {each.words}" if each else "still images" for each in (run.frames, images.frames)]
        raise ConfigError(
            f"{run.layout.folder} was trained on {seen[0]}, and {images.source} is read as {seen[1]}: set frames, "
            "frame_rule and frame_side (--frames, --frame-rule, --frame-side) as in training."
        )
    transform = evaluation_transform(run.preprocessing)
    rows = np.concatenate([images.split(split) for split in ("test", "validation", "train")])
    return torch.stack([evaluation_input(images, int(row), transform) for row in rows[:CHECKED_IMAGES]])


def task_fields(run: TrainedRun) -> dict[str, object]:
    """Return config fields for tasks other than one class per image; `problem_type` is for transformers."""
    if TASKS.load(run.task).one_class:
        return {}
    return {"task": run.task, "thresholds": run.thresholds, "problem_type": "multi_label_classification"}


def _export_timm(run: TrainedRun, model: nn.Module, layout: ExportLayout, sample: Tensor) -> Parity:
    """Write weights and the config of `timm.create_model("local-dir:...")`, and load them back as a user would."""
    save_file(apart(model.state_dict()), layout.weights)
    classes, options = {"num_classes": len(run.classes), "label_names": list(run.classes)}, fitting_options(run.recipe)
    architecture = str(model.pretrained_cfg["architecture"])  # type: ignore[index] # not the name on a hub
    config = {
        "architecture": architecture,
        **classes,
        "model_args": options,
        "pretrained_cfg": {**run.preprocessing, **classes},
        **task_fields(run),
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
