"""The commands, one class each: its fields are the options, `run` is one library call and what is printed of it."""

from gpt4image.cli.commands.deploy import Export, Predict
from gpt4image.cli.commands.describe import Describe, DescribeCheck, DescribeExport, DescribeImport
from gpt4image.cli.commands.embed import Embed, EmbedCompare, EmbedImages, Label
from gpt4image.cli.commands.start import Demo, Images
from gpt4image.cli.commands.train import Compare, Recipes, Report, Train

Command = (
    Demo
    | Images
    | Describe
    | DescribeCheck
    | DescribeExport
    | DescribeImport
    | Embed
    | EmbedImages
    | EmbedCompare
    | Label
    | Train
    | Compare
    | Recipes
    | Report
    | Export
    | Predict
)


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "images": Images,
    "describe": Describe,
    "describe check": DescribeCheck,
    "describe export": DescribeExport,
    "describe import": DescribeImport,
    "embed": Embed,
    "embed images": EmbedImages,
    "embed compare": EmbedCompare,
    "label": Label,
    "train": Train,
    "compare": Compare,
    "recipes": Recipes,
    "report": Report,
    "export": Export,
    "predict": Predict,
}
