"""Where the texts of a command come from."""

from __future__ import annotations

import json

import pytest

from gpt4image import load_images
from gpt4image.core.errors import ConfigError
from gpt4image.core.options import TextOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.workflows.inputs import open_descriptions
from support.image_files import class_folders
from support.stored import ask, fill


@pytest.fixture
def photos(tmp_path):
    return class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})


def captions(photos, tmp_path):
    paths = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    file = tmp_path / "captions.jsonl"
    file.write_text("".join(json.dumps({"path": path, "text": f"A picture of {path}."}) + "\n" for path in paths))
    return str(file)


def read(images, text, work, **more):
    return open_descriptions(images, TextOptions(text=text, **more), WorkDir(work))


def test_texts_of_another_work_directory_may_come_from_a_file(photos, tmp_path, capsys):
    images, first = load_images(photos), tmp_path / "first"
    of_file = read(images, captions(photos, tmp_path), first)
    found = read(images, str(first), tmp_path / "second")
    assert found.text_hash == of_file.text_hash
    assert "12 of 12 images with a text" in " ".join(capsys.readouterr().err.split())
    assert read(images, str(tmp_path / "second"), tmp_path / "third").text_hash == of_file.text_hash
    with pytest.raises(ConfigError, match="select descriptions by gpt4image describe"):
        read(images, str(first), tmp_path / "fourth", use_prompts=("plain",))


def test_texts_of_another_work_directory_that_fit_no_image_are_counted(photos, tmp_path, capsys):
    read(load_images(photos), captions(photos, tmp_path), tmp_path / "first")
    for path in (photos / "cat").glob("*3.png"):
        path.unlink()
    found = read(load_images(photos), str(tmp_path / "first"), tmp_path / "second")
    assert (len(found), found.coverage.orphans) == (11, 1)
    assert "1 text without an image" in " ".join(capsys.readouterr().err.split())


def test_texts_that_describe_has_written_come_before_those_of_a_file(photos, tmp_path):
    images, first = load_images(photos), tmp_path / "first"
    read(images, captions(photos, tmp_path), first)
    fill(first, images, ask("maker/vlm"))
    assert read(images, str(first), tmp_path / "second").origins
