"""A split once made stays: what is added, removed or changed afterwards moves no image to another split."""

import collections
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from gpt4image.__main__ import main
from gpt4image.core.errors import DataError, StoreError
from gpt4image.images import load_images
from gpt4image.images.splits import complete_splits
from support.image_files import class_folders, hash_of, noise, write


def splits_of(table):
    return dict(zip(table.rows["path"].to_pylist(), table.rows["split"].to_pylist(), strict=True))


@pytest.fixture
def root(tmp_path):
    return class_folders(tmp_path / "set", {"cat": 30, "dog": 20, "fox": 10})


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def grow(root, sizes, seed=9):
    for folder, count in sizes.items():
        for number in range(count):
            write(root / folder / f"new{number}.png", noise((seed, hash_of(folder), number)))


def kept_files(work):
    return sorted((work / "images").glob("split-*.csv"))


def test_added_images_move_no_other(root, work, capfd):
    before = splits_of(load_images(root, work=work))
    said = " ".join(capfd.readouterr().err.split())
    assert "set aside 12 for test and 6 for validation out of train, kept in" in said
    grow(root, {"cat": 9, "dog": 9, "fox": 9})
    after = splits_of(load_images(root, work=work))
    assert {path: after[path] for path in before} == before
    new = collections.Counter(after[path] for path in after.keys() - before.keys())
    said = " ".join(capfd.readouterr().err.split())
    assert "The source has only train: 12 for test and 6 for validation out of train as before" in said
    shown = f"{new['train']} for train and {new['validation']} for validation and {new['test']} for test"
    assert f"27 new images added: {shown}" in said
    assert splits_of(load_images(root, work=work)) == after
    assert splits_of(load_images(root)) != after, "the rule alone moves images when others are added"


def test_new_images_get_the_same_split_in_one_step_or_two(root, work, tmp_path):
    load_images(root, work=work)
    shutil.copytree(work, tmp_path / "other")
    grow(root, {"cat": 20})
    load_images(root, work=work)
    grow(root, {"dog": 20})
    assert splits_of(load_images(root, work=work)) == splits_of(load_images(root, work=tmp_path / "other"))


def test_shares_of_many_new_images_are_those_asked_for(tmp_path):
    ids = np.array([f"{number:032x}" for number in range(11_000)], "S32")
    labels = np.arange(11_000, dtype=np.int32) % 10
    options = {"validation_share": 0.1, "test_share": 0.2, "seed": 3, "work": tmp_path}
    complete_splits(np.full(1000, "train"), ids[:1000], labels[:1000], **options)
    new = collections.Counter(complete_splits(np.full(11_000, "train"), ids, labels, **options)[1000:].tolist())
    # five standard deviations of a binomial distribution
    assert abs(new["test"] - 2000) < 200 and abs(new["validation"] - 1000) < 150


def test_new_class_keeps_a_training_image(root, work):
    load_images(root, work=work)
    for name in map(str, range(40)):
        write(root / name / "only.png", noise((5, int(name))))
    table = load_images(root, work=work)
    assert (table.class_counts()[:40, 0] == 1).all()


def test_copies_of_kept_images_join_them(root, work):
    before = splits_of(load_images(root, work=work))
    for path in before:
        shutil.copy(root / path, (root / path).with_name(f"copy of {path.rpartition('/')[2]}"))
    after = splits_of(load_images(root, work=work))
    assert all(split == before[path.replace("copy of ", "")] for path, split in after.items())


def test_removed_images_are_counted_and_return_to_their_split(root, work, tmp_path, capfd):
    before = splits_of(load_images(root, work=work))
    gone = [next(path for path, split in before.items() if split == name) for name in ("train", "test")]
    for path in gone:
        (root / path).rename(tmp_path / path.replace("/", "-"))
    capfd.readouterr()
    rest = splits_of(load_images(root, work=work))
    assert rest == {path: split for path, split in before.items() if path not in gone}
    assert "2 earlier images missing" in " ".join(capfd.readouterr().err.split())
    for path in gone:
        (tmp_path / path.replace("/", "-")).rename(root / path)
    assert splits_of(load_images(root, work=work)) == before


def test_split_without_any_image_left_is_refused(root, work):
    before = splits_of(load_images(root, work=work))
    for path in (path for path, split in before.items() if split == "validation"):
        (root / path).unlink()
    with pytest.raises(DataError, match=r"None of the validation images in .*csv is left. Delete that file"):
        load_images(root, work=work)


def test_other_shares_and_seeds_have_splits_of_their_own(root, work):
    first = splits_of(load_images(root, work=work))
    larger = splits_of(load_images(root, work=work, test_share=0.4))
    other = splits_of(load_images(root, work=work, split_seed=1))
    assert collections.Counter(larger.values())["test"] == 24 and other != first
    grow(root, {"cat": 3})
    for options, expected in (({}, first), ({"test_share": 0.4}, larger), ({"split_seed": 1}, other)):
        found = splits_of(load_images(root, work=work, **options))
        assert {path: found[path] for path in expected} == expected
    assert len(kept_files(work)) == 3


def test_another_image_set_in_the_same_work_directory_is_divided_by_itself(root, work, tmp_path, capfd):
    first = splits_of(load_images(root, work=work))
    other = class_folders(tmp_path / "other", {"owl": 20, "elk": 20}, seed=4)
    second = splits_of(load_images(other, work=work))
    assert second == splits_of(load_images(other)), "stratified, as in a work directory of its own"
    capfd.readouterr()
    assert splits_of(load_images(root, work=work)) == first
    assert splits_of(load_images(other, work=work)) == second
    assert "earlier image" not in capfd.readouterr().err


def test_image_that_gets_a_label_later_is_new(tmp_path, work):
    for n in range(60):
        write(tmp_path / f"{n}.png", noise(n))

    def table(known):
        rows = ["path,label", *(f"{n}.png,{'ab'[n % 2] if n < known else ''}" for n in range(60))]
        return load_images(write(tmp_path / "set.csv", "\n".join(rows).encode()), work=work)

    before = splits_of(table(30))
    after = splits_of(table(60))
    assert {path: after[path] for path in list(before)[:30]} == dict(list(before.items())[:30])
    assert set(list(after.values())[30:]) == {"train", "validation", "test"}
    again = table(30)
    assert splits_of(again) == before, "an image that loses its label is in train"


def test_given_splits_are_not_kept(tmp_path, work):
    load_images(
        class_folders(tmp_path / "set", {f"{s}/{c}": 3 for s in ("train", "val", "test") for c in "ab"}), work=work
    )
    assert not kept_files(work)


def test_damaged_file_is_named_and_not_replaced(root, work):
    load_images(root, work=work)
    (file,) = kept_files(work)
    whole = file.read_bytes()
    for damaged in (whole.rpartition(b",")[0], b"", b"id;split\n", whole.replace(b"train", b"tain")):
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match="restore it from a copy, or delete it"):
            load_images(root, work=work)
        assert file.read_bytes() == damaged


def test_split_of_every_image_is_listed(root, work, capsys):
    assert main(["images", str(root), "--work", str(work), "--splits"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    table = load_images(root, work=work)
    assert {line[2]: line[1] for line in lines if line[0] == "split"} == splits_of(table)
    assert [line[3] for line in lines if line[0] == "split"] == table.rows["id"].to_pylist()


KILLED = """
import os, signal, sys
from gpt4image.images import load_images, kept_splits
write = kept_splits.csv.write_csv
def write_half(table, file):
    write(table.slice(0, 20), file)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
kept_splits.csv.write_csv = write_half
load_images(sys.argv[1], work=sys.argv[2])
"""


def test_kill_while_writing_leaves_the_earlier_split(root, work):
    before = splits_of(load_images(root, work=work))
    (file,) = kept_files(work)
    data = file.read_bytes()
    grow(root, {"cat": 12})
    load_images(root, work=work, split_seed=7)  # so that the scan itself writes nothing more
    ended = subprocess.run([sys.executable, "-c", KILLED, root, work], check=False, stderr=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGKILL and file.read_bytes() == data
    after = splits_of(load_images(root, work=work))
    assert {path: after[path] for path in before} == before


@pytest.mark.slow
def test_two_processes_agree(root, work):
    code = "import sys; from gpt4image.images import load_images; t = load_images(sys.argv[1], work=sys.argv[2]); "
    code += "print(t.rows['split'].to_pylist())"
    command = [sys.executable, "-c", code, root, work]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    first, second = (process.communicate()[0] for process in running)
    assert first == second and b"validation" in first
