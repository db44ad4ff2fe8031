"""The sample: texts in the terminal and on a page, hostile ones included, and paid for once."""

from __future__ import annotations

import shutil
import sys

import pytest

from gpt4image.cli.main import main
from support.stub_scenario import MODEL, Fault, Scenario
from support.stub_server import StubServer

HOSTILE_NAME = "a<b>\x1b[31m\u202e.png"


def run(folder, work, server, *more: str) -> int:
    where = [str(folder), "--work", str(work), "--base-url", server.base_url, "--model", MODEL]
    return main(["describe", *where, *more])


def test_a_sample_is_shown_and_kept(image_set, tmp_path, capsys):
    with StubServer() as server:
        assert run(image_set, tmp_path, server, "--sample", "5") == 0
        first = capsys.readouterr().out
        assert run(image_set, tmp_path, server, "--sample", "5") == 0
        assert capsys.readouterr().out == first
        assert server.paid_by_mark.total() == 5
        assert run(image_set, tmp_path, server, "--sample", "0") == 1
    assert first.count("A picture of 48 x 48 pixels") == 5
    page = (tmp_path / "descriptions" / "preview.html").read_text("utf-8")
    assert page.count("A picture of 48 x 48 pixels") == 5
    assert "Describe the image in detail." in page


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be files there")
def test_hostile_names_and_texts_do_no_harm(image_set, tmp_path, capsys):
    folder = tmp_path / "set"
    shutil.copytree(image_set, folder)
    for path in list(folder.rglob("*.png")):
        path.rename(path.with_name(path.stem + HOSTILE_NAME))
    with StubServer(Scenario(faults=(Fault("hostile"),))) as server:
        assert run(folder, tmp_path / "work", server, "--sample", "4") == 0
        assert run(folder, tmp_path / "work", server) == 0
    told = capsys.readouterr()
    shown = told.out + told.err
    assert not set("\x1b\x00\u202e\x07") & set(shown)
    assert r"\x1b[31m" in shown
    page = (tmp_path / "work" / "descriptions" / "preview.html").read_text("utf-8")
    assert "<script" not in page and "&lt;script" in page
    assert not set("\x1b\x00\u202e") & set(page)
    assert {path.name for path in tmp_path.iterdir()} == {"set", "work"}
