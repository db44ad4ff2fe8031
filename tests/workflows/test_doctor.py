"""The installation is examined without starting, sending or showing anything."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from gpt4image.cli.main import main
from gpt4image.core.invocation import install_command
from gpt4image.describe.clients import ServerProgram
from gpt4image.workflows import doctor
from support.stub_server import StubServer


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_versions_are_those_of_the_installed_packages(tmp_path):
    found = by_name(doctor.examine_installation(tmp_path))
    assert found["torch"].detail == metadata.version("torch")
    assert found["gpt4image"].detail == metadata.version("gpt4image")
    assert all(finding.state != "warning" for finding in found.values() if finding.section == "versions")


@pytest.mark.parametrize(
    ("requirement", "fulfilled"), [("numpy>=1", True), ("numpy>=99", False), ("no-such-package-here", False)]
)
def test_requirement_is_held_against_what_is_installed(requirement, fulfilled):
    assert (doctor.unsatisfied(Requirement(requirement)) is None) == fulfilled


def test_missing_extra_comes_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(doctor, "unsatisfied", lambda each: each if each.name == "onnxruntime" else None)
    found = by_name(doctor.extras())
    assert found["onnx"].state == "missing"
    assert found["onnx"].detail == f"needs onnxruntime: {install_command('gpt4image[onnx]')}"
    assert found["clip"].state == "ok"
    assert not {"dev", "docs", "test"} & set(found)


def test_key_is_reported_but_never_shown(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    found = {entry["name"]: entry for entry in json.loads(out)["findings"]}
    assert found["OPENAI_API_KEY"]["state"] == "ok" and found["HF_TOKEN"]["state"] == "missing"
    assert "sk-very-secret" not in out


def test_server_that_answers_is_found(monkeypatch, tmp_path):
    with StubServer() as server:
        up = ServerProgram("Stub", "no-such-command", server.base_url, "stub serve")
        down = ServerProgram("Other", "no-such-command", "http://127.0.0.1:9/v1", "other serve")
        monkeypatch.setattr(doctor, "PROGRAMS", (up, down))
        found = by_name(doctor.examine_installation(tmp_path))
    assert (found["Stub"].state, found["Other"].state) == ("ok", "missing")
    assert "not found; start it: other serve" in found["Other"].detail


def test_disk_of_a_folder_that_does_not_exist_yet_is_that_of_its_parent(tmp_path: Path, monkeypatch):
    found = by_name(doctor.disk(tmp_path / "a" / "b"))
    assert "GB free" in found["work directory"].detail
    monkeypatch.setattr(doctor, "LOW_DISK", float("inf"))
    assert by_name(doctor.disk(tmp_path))["work directory"].state == "warning"


def test_sections_are_printed_in_order(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sections = [line for line in lines if line and not line.startswith((" ", "-"))]
    assert sections == ["versions", "devices", "optional", "keys", "servers", "disk"]


def test_numbers_that_are_no_counts_are_refused(capsys):
    assert main(["doctor", "--backbone", "test_resnet", "--processes", "0"]) != 0
    assert "processes" in capsys.readouterr().err
