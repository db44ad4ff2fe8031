"""The models that took part in a training, and their licences as far as they are known."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gpt4image.core.files import read_json
from gpt4image.core.workdir import WorkDir
from gpt4image.train.recipe import public_name
from gpt4image.train.run import TrainedRun

UNKNOWN = "unknown: see where it comes from"
OF_TEXTS = "see the provider's terms for what the model writes"
KNOWN = {"minilm": "apache-2.0"}  # the packaged all-MiniLM-L6-v2


class Part(NamedTuple):
    """A model that took part: what it did, its name, its licence, and its name on the Hub if that is known."""

    role: str
    name: str
    licence: str
    hub_name: str | None = None


def parts_of(run: TrainedRun) -> list[Part]:
    """Return the models that a run learned from."""
    vectors = read_json(run.layout.settings).get("text", [])
    sources = [_source(vector["encoder"]) for vector in vectors]
    writers = _writers(run) if run.arm.uses_text else []
    return [*_start(run), *sources, *(Part("writer of descriptions", name, OF_TEXTS) for name in writers)]


def _source(name: str) -> Part:
    """Return a text encoder or vision teacher."""
    if name.startswith("timm:"):
        return _timm_part("vision teacher", name.removeprefix("timm:"))
    return Part("text encoder or vision teacher", public_name(name), KNOWN.get(name, UNKNOWN))


def _start(run: TrainedRun) -> list[Part]:
    """Return where the weights of the backbone come from."""
    recipe = run.recipe
    if recipe.checkpoint is not None:
        return [Part("initial weights", Path(recipe.checkpoint).name, UNKNOWN)]
    return [_timm_part("initial weights", recipe.backbone)] if recipe.pretrained else []


def _timm_part(role: str, name: str) -> Part:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return Part(role, public_name(name), UNKNOWN)
    return Part(role, name, config.license or UNKNOWN, config.hf_hub_id)


def _writers(run: TrainedRun) -> list[str]:
    """Return the models whose descriptions the work directory of a run holds."""
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
