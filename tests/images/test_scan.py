import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt4image.core.errors import ConfigError, DataError
from gpt4image.core.files import digest
from gpt4image.images import load_images
from gpt4image.images import scan as scanning
from gpt4image.images.scan import image_id
from gpt4image.images.sources.folders import inspect_file
from gpt4image.images.sources.listing import key_of, keys_of
from support.image_files import class_folders, noise, reasons, write


def replace_alike(path):
    """Other content of the same size, with the same time of modification."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def reading(monkeypatch):
    """The paths of the images that are read from now on."""
    paths, examine = [], scanning.examine

    def note(reader, path, *rest):
        paths.append(path)
        return examine(reader, path, *rest)

    monkeypatch.setattr(scanning, "examine", note)
    return paths


def test_ids_are_hashes_of_the_bytes(tmp_path):
    table = load_images(class_folders(tmp_path, {"a": 40, "b": 40}))
    assert table.ids.dtype == "S32" and table.ids.shape == (80,)
    assert [identity.decode() for identity in table.ids] == [image_id(table.read(i)) for i in range(80)]
    assert table.rows["id"].to_pylist() == [identity.decode() for identity in table.ids]


def test_second_scan_reads_nothing(tmp_path, reading):
    root = class_folders(tmp_path / "set", {"a": 5, "b": 5})
    write(root / "a" / "bad.png", b"words")
    first = load_images(root, work=tmp_path / "work")
    assert len(reading) == 11
    second = load_images(root, work=tmp_path / "work")
    assert second.rows.equals(first.rows) and second.rejected == first.rejected
    assert len(reading) == 11


def test_only_what_changed_is_read_again(tmp_path, reading):
    root = class_folders(tmp_path / "set", {"a": 5, "b": 5})
    first = load_images(root, work=tmp_path / "work")
    write(root / "a" / "000.png", noise(77, 9))
    write(root / "b" / "new.png", noise(78))
    replace_alike(root / "b" / "001.png")
    reading.clear()
    second = load_images(root, work=tmp_path / "work")
    assert sorted(reading) == ["a/000.png", "b/001.png", "b/new.png"]
    assert len(second) == 10 and len(np.setdiff1d(second.ids, first.ids)) == 2
    assert len(list((tmp_path / "work" / "images").rglob("*.parquet"))) == 1


def test_file_written_again_within_a_tick_of_the_clock_is_noticed(tmp_path):
    path = tmp_path / "a.png"
    for number in range(20):
        path.write_bytes(b"%04d" % number)
        first = inspect_file(path, "a.png", "set").key
        path.write_bytes(b"%04d" % (number + 1))
        assert inspect_file(path, "a.png", "set").key != first


def test_keys_are_digests_of_their_parts_as_they_are_kept_on_disk():
    assert key_of("set", 3) == next(keys_of(["set"], [3])) == bytes.fromhex(digest("set", "3"))


def test_cache_survives_a_move_and_a_damaged_part(tmp_path):
    root = class_folders(tmp_path / "set", {"a": 5, "b": 5})
    first = load_images(root, work=tmp_path / "work")
    shutil.move(tmp_path / "work", tmp_path / "moved")
    part = next((tmp_path / "moved").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    assert load_images(root, work=tmp_path / "moved").rows.equals(first.rows)


def test_each_pixel_limit_has_its_own_cache(tmp_path):
    root = class_folders(tmp_path / "set", {"a": 5, "b": 5})
    write(root / "a" / "large.png", noise(5, 30))
    small = load_images(root, work=tmp_path / "work", max_pixels=100)
    assert "30 x 30" in reasons(small)["a/large.png"]
    assert len(load_images(root, work=tmp_path / "work")) == 11


SCAN = """
    import sys
    from gpt4image.images import load_images, scan
    scan.PART_ROWS = 16
    load_images(sys.argv[1], work=sys.argv[2], workers=1)
"""
STAY = """
    import signal
    from gpt4image.images import scan
    write = scan.ScanCache._write
    def stay(*given):
        write(*given)
        print("written", flush=True)
        signal.pause()
    scan.ScanCache._write = stay
"""


@pytest.mark.slow
def test_killed_scan_resumes(tmp_path, reading):
    root, work = tmp_path / "set", tmp_path / "work"
    for number in range(300):
        write(root / "ab"[number > 9] / f"{number}.png", noise(number, 150))
    originals = {image_id(path.read_bytes()).encode() for path in root.rglob("*.png")}
    command = [sys.executable, "-c", textwrap.dedent(STAY + SCAN), root, work]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"written\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert list(work.rglob("*.parquet"))
    table = load_images(root, work=work, validation_share=0, test_share=0)
    assert 0 < len(reading) <= 300 - 16
    assert set(table.ids.tolist()) == originals


@pytest.mark.slow
def test_two_processes_share_a_work_directory(tmp_path):
    root, work = class_folders(tmp_path / "set", {"a": 50, "b": 50}), tmp_path / "work"
    arguments = [sys.executable, "-c", textwrap.dedent(SCAN), root, work]
    processes = [subprocess.Popen(arguments, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]


def test_bad_images_are_listed_or_refused(tmp_path):
    root = class_folders(tmp_path / "set", {"a": 5, "b": 5})
    write(root / "notes.txt", b"not a bad image")
    assert len(load_images(root, on_bad_image="fail")) == 10
    for number in range(12):
        write(root / "a" / f"bad{number:02d}.jpg", noise(number, 32, "JPEG")[:-40] if number else b"")
    table = load_images(root, workers=3)
    assert len(table) == 10 and len(table.rejected) == 13
    with pytest.raises(DataError, match=r"12 of 22 images") as caught:
        load_images(root, on_bad_image="fail")
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 10 and lines[0] == "  a/bad00.jpg: the file is empty (0 bytes)"
    assert "cut off" in lines[1]


def test_image_that_could_not_be_read_is_tried_again(tmp_path):
    root = class_folders(tmp_path / "set", {"a": 3, "b": 3})
    rows = [{"image": {"bytes": None, "path": f"{c}/00{n}.png"}, "label": c} for c in "ab" for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), root / "set.parquet")
    moved = (root / "a" / "000.png").rename(tmp_path / "away.png")
    assert "cannot be read" in reasons(load_images(root, work=tmp_path / "work"))["a/000.png"]
    moved.rename(root / "a" / "000.png")
    assert len(load_images(root, work=tmp_path / "work")) == 6


@pytest.mark.parametrize(
    "options",
    [
        {"on_bad_image": "ignore"},
        {"max_pixels": 0},
        {"workers": 0},
        {"validation_share": 1.0},
        {"test_share": -0.1},
        {"validation_share": 0.5, "test_share": 0.5},
    ],
)
def test_invalid_options_are_refused(tmp_path, options):
    with pytest.raises(ConfigError):
        load_images(tmp_path, **options)


def test_tables_travel_to_other_processes(tmp_path):
    import datasets
    import webdataset

    root = class_folders(tmp_path / "set", {"a": 3, "b": 3})
    images = [{"bytes": noise(n), "path": None} for n in range(6)]
    made = datasets.Dataset.from_dict({"image": images, "label": ["a", "b"] * 3})
    made.save_to_disk(tmp_path / "saved")
    with webdataset.TarWriter(str(tmp_path / "set.tar")) as writer:
        for n in range(6):
            writer.write({"__key__": str(n), "png": noise(n), "cls": n % 2})
    tables = [load_images(tmp_path / name) for name in ("set", "saved", "set.tar")]
    for table in tables:
        assert len(pickle.dumps(table)) < 20_000
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert [pool.apply(table.read, (5,)) for table in tables] == [table.read(5) for table in tables]
    assert Path(root).is_dir()
