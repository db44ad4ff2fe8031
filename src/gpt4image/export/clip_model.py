"""Models of clips for deployment: their weights and configuration, and the clips among files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt4image.core.files import write_json
from gpt4image.export.measure import Parity, compare_logits
from gpt4image.images.clips import FrameChoice, spread, unpack_frames
from gpt4image.images.decode import decode
from gpt4image.images.sources.clip_folders import find_clips, frame_files, is_video, make_frames
from gpt4image.train.backbone import VIDEO, apart, fitting_options
from gpt4image.train.clips import create_clip_model
from gpt4image.train.run import TrainedRun
from gpt4image.train.transforms import Transform


def export_clips(run: TrainedRun, model: nn.Module, weights: Path, config: Path, sample: Tensor) -> Parity:
    """Write weights and configuration of a model of clips, and load them back.

    Args:
        run: its run.
        model: the trained model.
        weights: the file of weights to write.
        config: the file of the configuration to write.
        sample: real clips [N, T, 3, H, W], preprocessed.
    """
    assert run.frames is not None
    body = str(model.body.pretrained_cfg["architecture"])  # type: ignore[union-attr,index] # not the name on a hub
    settings = {
        "architecture": body,
        "num_classes": len(run.classes),
        "label_names": list(run.classes),
        "model_args": {} if body.startswith(VIDEO) else fitting_options(run.recipe),
        "frame_pooling": run.recipe.frame_pooling,
        "pretrained_cfg": run.preprocessing,
        "task": run.task,
        "frames": run.frames.name,
    }
    save_file(apart(model.state_dict()), weights)
    write_json(config, settings)
    shutil.copymode(config, weights)
    return compare_logits("safetensors", model, open_clip_model(settings, weights), sample)


def open_clip_model(config: Mapping[str, Any], weights: Path) -> nn.Module:
    """Load an exported model of clips, [B, T, 3, H, W] to logits, in evaluation mode."""
    model = create_clip_model(
        config["architecture"], config["num_classes"], config["frame_pooling"], config["model_args"]
    )
    model.load_state_dict(load_file(weights))
    return model.eval()


def read_input(place: Path, choice: FrameChoice, transform: Transform, max_pixels: int) -> Tensor:
    """Return the frames of a clip as input of the model, [T, 3, H, W]. ImageError if they cannot be read."""
    name = str(place)
    _, frames = unpack_frames(make_frames(place, name, choice, max_pixels), name)
    return torch.stack(spread([transform(decode(frame, name, max_pixels)) for frame in frames], choice.count))


def clip_files(sources: Iterable[Path], others: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the named clips and those in the named folders, in order of names, each with why it cannot be read if so.

    A folder that holds frames and no video files is a clip itself. Other files in the folders are added to `others`.
    """
    for source in sources:
        if not source.is_dir() or (frame_files(source) and not any(is_video(file.name) for file in source.iterdir())):
            yield source, "" if source.exists() else "the file does not exist"
            continue
        for found in sorted(find_clips(source, in_classes=False)):
            if not found.is_clip:
                others.append(source / found.path)
            else:
                yield source / found.path, found.fault
