"""Facts about a trained model: size and speed as it is deployed, and the models that it learned from, with licences."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt4image.compare.records import ModelRecord, UsedModelRecord
from gpt4image.core.files import read_json
from gpt4image.core.workdir import WorkDir
from gpt4image.train.backbone import VIDEO, body_of
from gpt4image.train.processes import make_accelerator
from gpt4image.train.recipe import public_name
from gpt4image.train.run import TrainedRun, load_backbone

SECONDS = 1.0  # spent on measuring the speed
BATCH_ON_CPU, BATCH_ON_GPU = 8, 64  # images per batch
UNKNOWN = "unknown: see where it comes from"
OF_TEXTS = "see the provider's terms for what the model writes"
HUB = "https://huggingface.co/"
KNOWN: tuple[tuple[str, str, str], ...] = (
    ("minilm", "apache-2.0", f"{HUB}sentence-transformers/all-MiniLM-L6-v2"),
    ("*all-MiniLM-L6-v2", "apache-2.0", f"{HUB}sentence-transformers/all-MiniLM-L6-v2"),
    ("*all-mpnet-base-v2", "apache-2.0", f"{HUB}sentence-transformers/all-mpnet-base-v2"),
    ("*BAAI/bge-*-en-v1.5", "mit", f"{HUB}BAAI"),
    ("*intfloat/e5-*", "mit", f"{HUB}intfloat"),
    (f"{VIDEO}*", "bsd-3-clause", "https://github.com/pytorch/vision/blob/main/LICENSE"),
    ("open-clip:*/openai", "mit", "https://github.com/openai/CLIP/blob/main/LICENSE"),
    ("open-clip:*/laion*", "mit", f"{HUB}laion"),
    ("*Qwen2-VL-7B-Instruct*", "apache-2.0", f"{HUB}Qwen/Qwen2-VL-7B-Instruct"),
    ("*Qwen2.5-VL-7B-Instruct*", "apache-2.0", f"{HUB}Qwen/Qwen2.5-VL-7B-Instruct"),
    ("*SmolVLM*", "apache-2.0", f"{HUB}HuggingFaceTB"),
    ("*Pixtral-12B-2409*", "apache-2.0", f"{HUB}mistralai/Pixtral-12B-2409"),
    ("*Florence-2-*", "mit", f"{HUB}microsoft"),
    ("gpt-*", "terms of use", "https://openai.com/policies/"),
    ("claude-*", "terms of service", "https://www.anthropic.com/legal/commercial-terms"),
    ("gemini-*", "terms of service", "https://ai.google.dev/gemini-api/terms"),
)
"""Licences of models by name, and where each is stated; * matches anything. The first match counts."""


@torch.no_grad()
def measure_model(run: TrainedRun) -> ModelRecord:
    """Count parameters and multiply-adds of a run's model, and measure its speed on this device, in float32."""
    device = make_accelerator(run.recipe).device
    model = load_backbone(run).to(device)
    batch = BATCH_ON_CPU if device.type == "cpu" else BATCH_ON_GPU
    frames = [run.frames.count] if run.frames else []
    images = torch.zeros(batch, *frames, *run.preprocessing["input_size"], device=device)
    with FlopCounterMode(display=False) as counter:
        model(images[:1])
    float(model(images).sum())  # the first batch takes longer on a GPU
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < SECONDS:
        float(model(images).sum())  # reading the number waits for the device
        done += batch
    return ModelRecord(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        batch=batch,
        images_per_second=done / (time.perf_counter() - started),
    )


def used_models(runs: Sequence[TrainedRun]) -> tuple[UsedModelRecord, ...]:
    """Return the models that runs used, each once."""
    return tuple(dict.fromkeys(part for run in runs for part in parts_of(run)))


def teachers_of_crops(runs: Sequence[TrainedRun]) -> list[str]:
    """Say which vision-language teachers embedded the crops of runs, a line for each."""
    taught = [(run, read_json(run.layout.settings)["text"][0]) for run in runs if run.arm.guidance == "anchors"]
    return [
        f"Vision-language teacher of {run.arm.name}: {teacher['encoder']}, which saw the same crops as the model."
        for run, teacher in taught
    ]


def described_regions(runs: Sequence[TrainedRun]) -> list[str]:
    """Say which runs aligned boxes with descriptions of their own, a line for each."""
    found = [(run.arm.name, read_json(run.layout.settings)) for run in runs]
    return [
        f"The boxes of {arm} were aligned with descriptions of their crops, with a margin of {settings['margin']:g} of "
        "the longer side."
        for arm, settings in found
        if settings.get("regions")
    ]


def adapted_backbones(runs: Sequence[TrainedRun]) -> list[str]:
    """Say which runs trained low-rank adapters in place of their weights, a line for each."""
    return [
        f"{run.arm.name} trained low-rank adapters (LoRA) of rank {run.recipe.lora} in place of the pretrained "
        f"weights: {run.trained_parameters:,} parameters with what is new. They are merged into the weights."
        for run in runs
        if run.recipe.lora
    ]


def parts_of(run: TrainedRun) -> list[UsedModelRecord]:
    """Return the models that a run learned from."""
    vectors = read_json(run.layout.settings).get("text", [])
    sources = [_source(vector["encoder"]) for vector in vectors]
    writers = _writers(run) if run.arm.uses_text else []
    return [*_start(run), *sources, *(_known_part("writer of descriptions", name, OF_TEXTS) for name in writers)]


def _source(name: str) -> UsedModelRecord:
    """Return a text encoder or vision teacher."""
    if name.startswith("timm:"):
        return _timm_part("vision teacher", name.removeprefix("timm:"))
    return _known_part("text encoder or vision teacher", name, UNKNOWN)


def _known_part(role: str, name: str, otherwise: str) -> UsedModelRecord:
    """Return a model with the licence that its name implies."""
    for pattern, licence, source in KNOWN:
        if fnmatchcase(name, pattern):
            return UsedModelRecord(role=role, name=public_name(name), licence=licence, source=source)
    return UsedModelRecord(role=role, name=public_name(name), licence=otherwise)


def _start(run: TrainedRun) -> list[UsedModelRecord]:
    """Return the model that the weights of the backbone come from, if any."""
    recipe = run.recipe
    if recipe.checkpoint is not None:
        return [UsedModelRecord(role="initial weights", name=Path(recipe.checkpoint).name, licence=UNKNOWN)]
    if not recipe.pretrained:
        return []
    if recipe.backbone.startswith(VIDEO):
        return [_known_part("initial weights", recipe.backbone, UNKNOWN)]
    return [_timm_part("initial weights", body_of(recipe.backbone))]


def _timm_part(role: str, name: str) -> UsedModelRecord:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return UsedModelRecord(role=role, name=public_name(name), licence=UNKNOWN)
    source = f"{HUB}{config.hf_hub_id}" if config.license and config.hf_hub_id else None
    return UsedModelRecord(
        role=role, name=name, licence=config.license or UNKNOWN, source=source, hub_name=config.hf_hub_id
    )


def _writers(run: TrainedRun) -> list[str]:
    """Return the models that wrote the descriptions in a run's work directory."""
    import pyarrow.compute as pc

    from gpt4image.descriptions.store import DescriptionStore

    store = DescriptionStore(work_of(run).description_store)
    found: set[str] = set()
    for batch in () if store.is_empty else store.current_batches():
        found.update(pc.unique(batch["model"]).to_pylist())
    return sorted(found)


def work_of(run: TrainedRun) -> WorkDir:
    """Return the work directory in which a run was trained."""
    return WorkDir(run.layout.folder.parent.parent)
