"""Engines that cannot be used say why, before an image is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gpt4image.core.errors import ConfigError, MissingExtraError
from gpt4image.core.options import DataOptions
from gpt4image.describe.options import DescribeOptions
from gpt4image.workflows.describe import run_description


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"describer": "batch", "engine": "local"}, "already contains all images: leave engine at its default"),
        ({"describer": "replay", "recording": Path("x"), "engine": "ray"}, "leave engine at its default"),
        ({"engine": "slurm"}, "set slurm_partition"),
        ({"engine": "local", "workers": 0}, "workers should be greater than or equal to 1, not 0"),
    ],
)
def test_invalid_combination_is_rejected(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        DescribeOptions(**settings)


@pytest.mark.parametrize(("engine", "library", "extra"), [("local", "datatrove", "cluster"), ("ray", "ray", "ray")])
def test_missing_library_names_its_extra(engine, library, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'gpt4image\[{extra}\]'"):
        run_description(DataOptions("nowhere"), DescribeOptions(engine=engine), tmp_path)


def test_slurm_needs_sbatch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch was not found"):
        run_description(DataOptions("nowhere"), DescribeOptions(engine="slurm", slurm_partition="x"), tmp_path)
