"""Engines that cannot be used say why, before an image is read."""

import sys

import pytest

from gpt4image.core.errors import ConfigError, MissingExtraError
from gpt4image.core.options import DataOptions, DescribeOptions
from gpt4image.describe.workers.run_folder import Order, RunFolder
from gpt4image.describe.workers.worker import report_shard, without_keys
from gpt4image.workflows.describe import run_description
from support.stub_server import StubServer


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"describer": "batch", "engine": "local"}, "all images at once by itself: leave --engine out"),
        ({"describer": "replay", "recording": "x", "engine": "ray"}, "leave --engine out"),
        ({"engine": "slurm"}, "--slurm-partition NAME"),
        ({"engine": "local", "workers": 0}, "workers must be above 0"),
    ],
)
def test_settings_that_do_not_go_together(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        DescribeOptions(**settings)


@pytest.mark.parametrize(("engine", "library", "extra"), [("local", "datatrove", "cluster"), ("ray", "ray", "ray")])
def test_a_missing_library_names_its_extra(engine, library, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'gpt4image\[{extra}\]'"):
        run_description(DataOptions("nowhere"), DescribeOptions(engine=engine), tmp_path)


def test_slurm_needs_sbatch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch was not found"):
        run_description(DataOptions("nowhere"), DescribeOptions(engine="slurm", slurm_partition="x"), tmp_path)


def test_a_crash_is_kept_in_the_log_alone(few_images, tmp_path):
    (tmp_path / "file").touch()
    run = RunFolder(tmp_path / "run")
    with StubServer() as server:
        chosen = DescribeOptions(base_url=(server.base_url,), engine="local")
        order = Order(DataOptions(str(few_images)), chosen, tmp_path / "file", run.folder, tmp_path)
        failure = report_shard(order, run, 0, 1)
    assert str(failure) == f"Worker 0 has failed: see {run.log(0)}."
    assert failure.__context__ is None
    assert "NotADirectoryError" in run.log(0).read_text()
    assert not run.read(0).ended


def test_a_traceback_is_kept_without_keys(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
    told = without_keys(f"{key} sk-another-key end", DescribeOptions(key_env="ENGINE_TEST_KEY"))
    assert told == "[key] [key] end"
