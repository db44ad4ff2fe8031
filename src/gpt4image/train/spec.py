"""What a run is a run of, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import File, Layout, digest, hash_file, read_json, write_json
from gpt4image.core.registry import unknown_name
from gpt4image.images.table import ImageTable
from gpt4image.train.guidance import Guidance
from gpt4image.train.recipe import Recipe, guidance_fields


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        name: short name, used in folder names.
        title: what it is, in words.
        uses_text: whether the alignment loss takes part.
    """

    name: str
    title: str
    uses_text: bool


ARMS = {
    arm.name: arm
    for arm in (
        Arm("baseline", "labels alone", uses_text=False),
        Arm("described", "with descriptions", uses_text=True),
    )
}


def find_arm(name: str) -> Arm:
    """The arm of a name. ConfigError lists the known ones."""
    if name not in ARMS:
        raise ConfigError(unknown_name("arm", name, list(ARMS)))
    return ARMS[name]


class RunLayout(Layout):
    """Files of a training run."""

    settings = File("settings.json")
    """What the run is a run of."""
    checkpoint = File("checkpoint.pt")
    """State of an unfinished run."""
    weights = File("best.safetensors")
    """Backbone and classifier of the best epoch, under timm's names."""
    result = File("result.json")
    """Best epoch and history; written last, so a run with a result is finished."""
    lock = File("run.lock")
    """Held while a process trains the run."""


@dataclass(frozen=True)
class Job:
    """One run to be done.

    Attributes:
        images: training and validation images.
        guidance: vectors to align with, and soft labels; nothing of both trains on labels alone.
        recipe: how to train.
        arm: the way of training.
        seed: seed of the classifier's start, the order, all augmentation, and the texts that are drawn.
        layout: where the run lies.
        features: where stored outputs of frozen modules lie.
        workers: processes that prepare batches; changes speed alone.
        checkpoint_seconds: time between two checkpoints.
    """

    images: ImageTable
    guidance: Guidance
    recipe: Recipe
    arm: Arm
    seed: int
    layout: RunLayout
    features: Path
    workers: int
    checkpoint_seconds: float

    def settings(self) -> dict[str, Any]:
        """All that decides the result, as plain values."""
        columns = (str(self.images.rows[name].to_pylist()) for name in ("id", "label", "split"))
        recipe = self.recipe.to_dict()
        start = self.recipe.checkpoint
        return {
            "arm": self.arm.name,
            "seed": self.seed,
            "images": digest(*columns),
            "classes": list(self.images.classes),
            **self.guidance.identity(),
            "start": start and hash_file(Path(start)),
            "recipe": {key: recipe[key] for key in recipe if self.arm.uses_text or key not in guidance_fields()},
        }

    def claim_folder(self) -> None:
        """Write down what the run is a run of. ConfigError when the folder holds another one, naming what differs."""
        settings = self.settings()
        begun = self.layout.checkpoint.exists() or self.layout.result.exists()
        if not (begun and self.layout.settings.exists()):
            write_json(self.layout.settings, settings)
            return
        before, now = flatten(read_json(self.layout.settings)), flatten(settings)
        decisive = now.keys() - {"recipe.checkpoint"}  # where the weights lie does not matter: "start" is their hash
        changed = [
            f"{key} was {before.get(key)!r}, is {now[key]!r}"
            for key in now
            if before.get(key) != now[key] and key in decisive
        ]
        if changed:
            raise ConfigError(
                f"{self.layout.folder} holds a run of other settings: {'; '.join(changed[:5])}. Take another --work "
                "folder, and name this one as --text for its descriptions; or delete this run."
            )


def flatten(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings under dotted names.

    >>> flatten({"seed": 0, "recipe": {"lr": 0.1}})
    {'seed': 0, 'recipe.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat
