"""Registries: built-in, registered and installed parts, and what a wrong name is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import Registry, resolve

GROUP = "gpt4image.shapes"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """One built-in part, and an installed package that offers three."""
    package = tmp_path / "shape_pack-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: shape-pack\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        f"[{GROUP}]\nsquare = shape_pack:square\npath = shape_pack:square\nbroken = shape_pack.missing:square\n"
    )
    (tmp_path / "shape_pack.py").write_text("def square(side):\n    return side * side\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry("shape", {"path": "pathlib:Path", "length": len}, group=GROUP)
    sys.modules.pop("shape_pack", None)


def test_names_list_builtin_registered_and_installed_parts_in_this_order(registry):
    registry.register("total", sum)
    assert registry.names() == ("path", "length", "total", "broken", "square")


def test_load_resolves_a_target_an_object_and_an_entry_point(registry):
    assert registry.load("path") is Path  # the built-in part, although a package offers the same name
    assert registry.load("length") is len
    assert registry.load("square")(3) == 9


def test_names_import_no_installed_package(registry):
    assert "square" in registry and "shape_pack" not in sys.modules


def test_register_takes_a_part_or_a_target(registry):
    registry.register("total", sum)
    registry.register("join", "os.path:join")
    assert registry.load("total") is sum
    assert registry.load("join")("a", "b") == str(Path("a", "b"))


@pytest.mark.parametrize("name", ["path", "square"])
def test_register_refuses_a_name_that_is_taken(registry, name):
    with pytest.raises(ConfigError, match=f"There is already a shape '{name}'"):
        registry.register(name, sum)


def test_unknown_name_lists_known_names_and_suggests_the_nearest(registry):
    with pytest.raises(ConfigError, match=r"Unknown shape 'sqare'\. Did you mean 'square'\? Known: .*length.*square"):
        registry.load("sqare")


def test_part_that_cannot_be_imported_names_its_package(registry):
    with pytest.raises(ConfigError, match=r"'broken' of shape-pack \(shape_pack\.missing:square\) cannot be loaded"):
        registry.load("broken")


def test_resolve_returns_objects_as_they_are():
    assert resolve(len) is len


@pytest.mark.parametrize(
    "module",
    ["gpt4image.core.registry", "gpt4image.embed.encoders:ENCODERS", "gpt4image.describe.options:DESCRIBERS"],
)
def test_names_of_parts_need_no_torch(module):
    module, _, registry = module.partition(":")
    names = f"; assert m.{registry}.names()" if registry else ""
    code = f"import sys, importlib; m = importlib.import_module({module!r}){names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
