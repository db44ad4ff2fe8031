"""Builds the documentation: the pages of this folder, and a reference made from the code."""

from __future__ import annotations

import inspect
import os
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_COLOR", "1")

project = "gpt4image"
copyright = "the gpt4image authors, Apache 2.0"
version = release = installed_version("gpt4image")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"gpt4image {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

add_module_names = False
smartquotes_action = "qe"  # not dashes: `--option` is no dash
default_role = "code"  # docstrings mark code with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = "remove"  # progress lines

REFERENCE = Path(__file__).parent / "reference"

# Pages link to files of the repository, as they do where they are read there; here those files are pages too.
PAGES = {
    "../studies/README.md": "studies.md",
    "../docs/evidence.md": "evidence.md",
    "../src/gpt4image/train/recipes.toml": "reference/recipes.md",
    "../src/gpt4image/descriptions/prompts/prompts.toml": "reference/prompts.md",
    "ARCHITECTURE.md": "architecture.md",
    "docs/extend.md": "extend.md",
    "docs/method.md": "method.md",
    "docs/guide.md": "guide.md",
}
GROUPS = {
    "Images": ("load_images", "ImageTable"),
    "Descriptions": ("describe_images", "load_descriptions", "described_set", "DescriptionSet", "DescriptionStore"),
    "Vectors and soft labels": (
        "load_encoder",
        "embed_descriptions",
        "EmbeddingStore",
        "label_by_vectors",
        "SoftLabels",
    ),
    "Vision teachers": ("load_teacher", "embed_images", "label_images", "anchor_classes"),
    "Training and comparing": (
        "advise",
        "Recipe",
        "named_recipe",
        "train_model",
        "open_run",
        "TrainedRun",
        "compare_arms",
        "write_report",
        "export_model",
        "predict_images",
    ),
    "Your own trainer": (
        "text_targets",
        "TextTargets",
        "TextAlignment",
        "text_labels",
        "TextLabels",
        "soft_cross_entropy",
    ),
    "The method": (
        "AlignedModel",
        "AlignmentHead",
        "AlignmentLoss",
        "Projector",
        "TargetRule",
        "Targets",
        "TextTransform",
        "Moments",
        "TextAdapter",
        "TextQueue",
        "FeatureTap",
    ),
}


def write_commands() -> str:
    """Return the page of all commands, with every option."""
    from gpt4image.cli.commands import COMMANDS
    from gpt4image.cli.help import option_groups

    parts = ["# Commands", "`gpt4image COMMAND --help` shows the options that matter most, `--help-all` all of them."]
    for name, command in COMMANDS.items():
        groups = option_groups(command)
        arguments = [option.usage for options in groups.values() for option in options if option.positional]
        usage = " ".join(["gpt4image", name, *arguments, "[options]"])
        parts += [f"## {name}", f"```text\n{usage}\n```", inspect.cleandoc(str(command.__doc__))]
        for title, options in groups.items():
            lines = [f"`{option.usage}`\n: {option.about}\n" for option in options]
            parts += [f"**{title}**", "\n".join(lines)] if lines else []
        parts += [
            "**Keys of the JSON object**",
            "\n".join(f"`{key}`\n: {about}\n" for key, about in command.KEYS.items()),
        ]
    return "\n\n".join(parts) + "\n"


def write_api() -> str:
    """Return the page of all public names, by the stage they belong to."""
    import gpt4image

    rest = sorted(set(gpt4image.__all__) - {name for names in GROUPS.values() for name in names})
    parts = ["# Python API", "Everything here is imported from `gpt4image`."]
    for title, names in {**GROUPS, "Errors and other names": rest}.items():
        blocks = []
        for name in names:
            found = getattr(gpt4image, name)
            kind = "class" if inspect.isclass(found) else "function"
            members = "\n   :members:" if kind == "class" and not issubclass(found, Exception) else ""
            blocks.append(f".. auto{kind}:: {found.__module__}.{found.__name__}{members}")
        parts += [f"## {title}", "```{eval-rst}\n" + "\n\n".join(blocks) + "\n```"]
    return "\n\n".join(parts) + "\n"


def write_table(title: str, about: str, file: str) -> str:
    """Return a page that shows a TOML file of the package."""
    import gpt4image

    text = (Path(inspect.getfile(gpt4image)).parent / file).read_text("utf-8")
    return f"# {title}\n\n{about}\n\n```toml\n{text}\n```\n"


def write_recipes() -> str:
    """Return the page of the named recipes."""
    return write_table("Recipes", "The named recipes: `--recipe NAME`.", "train/recipes.toml")


def write_prompts() -> str:
    """Return the page of the named prompts."""
    return write_table("Prompts", "The named prompts: `--prompts NAME`.", "descriptions/prompts/prompts.toml")


def write_errors() -> str:
    """Return the page of all errors."""
    from gpt4image.core import errors

    listed = inspect.getdoc(errors) or ""
    return f"# Errors\n\nEvery message names what is wrong and what to do about it.\n\n```text\n{listed}\n```\n"


def write_reference(_: Sphinx) -> None:
    """Write the pages that are made from the code; unchanged ones are left alone, so that builds stay quick."""
    REFERENCE.mkdir(exist_ok=True)
    pages = {"commands": write_commands, "python": write_api, "recipes": write_recipes, "prompts": write_prompts}
    pages["errors"] = write_errors
    for name, write in pages.items():
        text, file = write(), REFERENCE / f"{name}.md"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def link_pages(_: Sphinx, name: str, source: list[str]) -> None:
    """Turn links to files of the repository into links to their pages."""
    for file, page in PAGES.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")


def setup(app: Sphinx) -> None:
    """Register what runs before the pages are read."""
    app.connect("builder-inited", write_reference)
    app.connect("source-read", link_pages)
    app.connect("include-read", lambda app, path, parent, source: link_pages(app, parent, source))
