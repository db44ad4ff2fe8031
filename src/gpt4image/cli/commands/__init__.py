"""The commands, one class each: its fields are the options; `run` makes one library call and prints the result, as text
(`console.show`, `console.write`) and as the one JSON object of `--json` (`console.result`), whose keys `KEYS` explains.

`--help` shows only the options named in `SHORT`, if a class has one; the overview shows the docstring's first line.
"""

from typing import ClassVar, Protocol

from gpt4image.cli.commands.deploy import Export, Predict
from gpt4image.cli.commands.describe import Describe, DescribeCheck, DescribeClasses, DescribeExport, DescribeImport
from gpt4image.cli.commands.embed import Audit, Embed, EmbedCompare, EmbedImages, Label
from gpt4image.cli.commands.search import Map, Search, ZeroShot
from gpt4image.cli.commands.start import Completion, Demo, Doctor, Images
from gpt4image.cli.commands.train import Advise, Compare, Recipes, Report, Runs, Train


class Command(Protocol):
    """A command with its options.

    `KEYS` explains the keys of its JSON object.
    """

    KEYS: ClassVar[dict[str, str]]

    def run(self) -> int | None:
        """Do the work, print the result and return the exit status; None is success."""


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "images": Images,
    "describe": Describe,
    "describe check": DescribeCheck,
    "describe classes": DescribeClasses,
    "describe export": DescribeExport,
    "describe import": DescribeImport,
    "embed": Embed,
    "embed images": EmbedImages,
    "embed compare": EmbedCompare,
    "label": Label,
    "audit": Audit,
    "advise": Advise,
    "train": Train,
    "compare": Compare,
    "runs": Runs,
    "recipes": Recipes,
    "report": Report,
    "export": Export,
    "predict": Predict,
    "search": Search,
    "zero-shot": ZeroShot,
    "map": Map,
    "doctor": Doctor,
    "completion": Completion,
}
