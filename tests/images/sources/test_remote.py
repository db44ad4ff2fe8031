"""Sources at an address: in memory, and on a file server on loopback."""

from __future__ import annotations

import functools
import http.server
import json
import threading

import fsspec
import pytest

from gpt4image import load_descriptions, load_images
from gpt4image.core.errors import ConfigError, DataError, MissingExtraError
from gpt4image.images.sources import remote
from support.image_files import class_folders, noise, reasons, samples, shard, write

ALL_TRAIN = {"validation_share": 0, "test_share": 0}


@pytest.fixture
def memory(tmp_path):
    """A file system in memory with a folder of class folders."""
    system = fsspec.filesystem("memory")
    class_folders(tmp_path / "made", {"cat": 4, "dog": 4})
    system.put(f"{tmp_path / 'made'}/", "/bucket/photos/", recursive=True)
    yield system
    system.store.clear()


@pytest.fixture
def server(tmp_path):
    """A folder and the address that serves it, without a listing of times or hashes."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_folder_in_a_bucket_is_fetched_once(memory, tmp_path, capsys, monkeypatch):
    found = load_images("memory://bucket/photos", work=tmp_path / "work")
    here = load_images(tmp_path / "made")
    assert (found.classes, sorted(found.rows["id"].to_pylist())) == (here.classes, sorted(here.rows["id"].to_pylist()))
    assert found.source == "memory://bucket/photos" and set(found.rows["path"].to_pylist()) == set(
        here.rows["path"].to_pylist()
    )
    assert "downloading 8 files of 8" in capsys.readouterr().err
    monkeypatch.setattr(remote, "_fetch", lambda *_: pytest.fail("fetched twice"))
    assert len(load_images("memory://bucket/photos", work=tmp_path / "work")) == 8


def test_interrupted_fetch_resumes_and_changed_files_are_fetched_again(memory, tmp_path, capsys, monkeypatch):
    fetch, fetched = remote._fetch, []

    def fails_at_fourth(system, path, target):
        if len(fetched) == 3:
            raise KeyboardInterrupt
        fetched.append(path)
        fetch(system, path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(remote, "_fetch", fails_at_fourth)
        load_images("memory://bucket/photos", work=tmp_path)
    load_images("memory://bucket/photos", work=tmp_path)
    assert "downloading 5 files of 8" in capsys.readouterr().err
    memory.pipe("/bucket/photos/cat/000.png", memory.cat("/bucket/photos/dog/003.png") + b"\n")
    memory.rm("/bucket/photos/dog/001.png")
    assert len(load_images("memory://bucket/photos", work=tmp_path)) == 7
    assert "downloading 1 file of 7" in capsys.readouterr().err


def test_tar_and_captions_on_a_web_server(server, tmp_path):
    folder, address = server
    shard(folder / "set.tar", samples(6))
    found = load_images(f"{address}/set.tar", work=tmp_path / "work")
    assert len(found) == 6
    (folder / "captions.jsonl").write_text(
        "".join(f'{{"id": "{i}", "text": "t"}}\n' for i in found.rows["id"].to_pylist())
    )
    assert len(load_descriptions(found, f"{address}/captions.jsonl")) == 6


def test_folder_on_a_web_server_is_read_by_its_index(server, tmp_path):
    folder, address = server
    class_folders(folder / "photos", {"cat": 3, "a dog": 3})
    found = load_images(f"{address}/photos/", work=tmp_path / "work")
    assert (len(found), found.classes) == (6, ("a dog", "cat"))


def test_unlabelled_source_may_be_an_address(memory, tmp_path):
    found = load_images(tmp_path / "made", unlabelled=["memory://bucket/photos"], work=tmp_path / "work")
    assert len(found) == 8  # copies of labelled images are left out


def test_faults_name_the_address_without_its_secrets(memory, server, tmp_path):
    with pytest.raises(ConfigError, match="name one with work"):
        load_images("memory://bucket/photos")
    with pytest.raises(DataError, match="memory://bucket/none does not exist"):
        load_images("memory://bucket/none", work=tmp_path)
    with pytest.raises(DataError) as error:
        load_images(f"{server[1].replace('//', '//user:secret@')}/none.tar?key=secret", work=tmp_path)
    assert "none.tar" in str(error.value) and "secret" not in str(error.value)
    with pytest.raises(ConfigError, match="Did you mean a path"):
        load_images("nosuch://bucket/photos", work=tmp_path)


def url_table(folder, address, extra=()):
    """Eight images on a server, and a table that names them; every query holds a key."""
    class_folders(folder / "photos", {"cat": 4, "dog": 4})
    names = [f"{label}/{number:03d}.png" for label in ("cat", "dog") for number in range(4)]
    host = address.replace("//", "//me:secret@")
    lines = ["url,label", *(f"{host}/photos/{name}?key=secret{name[4:7]},{name[:3]}" for name in names), *extra]
    table = folder / "set.csv"
    table.write_text("\n".join(lines))
    return table, names


def test_images_of_a_table_of_addresses_are_fetched_once(server, tmp_path, capsys, monkeypatch):
    folder, address = server
    table, names = url_table(folder, address)
    found = load_images(table, work=tmp_path / "work", **ALL_TRAIN)
    assert "downloading 8 images of 8" in capsys.readouterr().err
    here = load_images(folder / "photos", **ALL_TRAIN)
    assert found.classes == here.classes and set(found.rows["id"].to_pylist()) == set(here.rows["id"].to_pylist())
    assert [path.partition("?")[0] for path in found.rows["path"].to_pylist()] == [
        f"{address}/photos/{name}" for name in names
    ]
    assert found.read(5) == (folder / "photos" / names[5]).read_bytes()
    assert "secret" not in str(found.rows["path"].to_pylist())
    assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "work").rglob("*") if file.is_file())
    monkeypatch.setattr(remote, "_fetch", lambda *_: pytest.fail("fetched twice"))
    assert load_images(table, work=tmp_path / "work", **ALL_TRAIN).rows.equals(found.rows)


def test_images_that_cannot_be_fetched_are_left_out_and_tried_again(server, tmp_path, capsys):
    folder, address = server
    table, _ = url_table(folder, address, extra=[f"{address}/photos/dog/late.png,dog"])
    found = load_images(table, work=tmp_path / "work", **ALL_TRAIN)
    assert len(found) == 8
    assert reasons(found)[f"{address}/photos/dog/late.png"].startswith("cannot be fetched: ")
    assert "1 image could not be downloaded; run the same command to try again" in capsys.readouterr().err
    write(folder / "photos" / "dog" / "late.png", noise(77))
    assert len(load_images(table, work=tmp_path / "work", **ALL_TRAIN)) == 9
    assert "downloading 1 image of 9" in capsys.readouterr().err


def test_label_studio_export_of_addresses_is_fetched(server, tmp_path):
    folder, address = server
    _, names = url_table(folder, address)
    tasks = [
        {
            "data": {"image": f"{address}/photos/{name}"},
            "annotations": [{"result": [{"type": "choices", "value": {"choices": [name[:3]]}}]}],
        }
        for name in names
    ]
    export = tmp_path / "export.json"
    export.write_text(json.dumps(tasks))
    found = load_images(export, work=tmp_path / "work", **ALL_TRAIN)
    assert len(found) == 8 and found.classes == ("cat", "dog")


def test_addresses_in_a_table_need_a_work_directory(server):
    table, _ = url_table(*server)
    with pytest.raises(ConfigError, match="work directory: name one with work") as error:
        load_images(table)
    assert "secret" not in str(error.value)


def test_missing_driver_gives_the_command_that_installs_it(tmp_path, monkeypatch):
    def missing(address):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'gpt4image\[cloud\]'"):
        load_images("s3://bucket/photos", work=tmp_path)
