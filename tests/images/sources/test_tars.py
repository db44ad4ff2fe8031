import json
import os
import tarfile

import pytest

from gpt4image.core.errors import DataError
from gpt4image.images import load_images
from gpt4image.images.sources import tars
from support.image_files import names_of, noise, raw_tar, reasons, samples, shard, split_sizes, write


def test_shards_with_splits_in_their_names(tmp_path):
    shard(tmp_path / "set-train-000.tar", samples(6))
    shard(tmp_path / "set-train-001.tar", samples(4, 10))
    shard(tmp_path / "set-val-000.tar", samples(4, 20))
    shard(tmp_path / "set-test-000.tar", samples(2, 30))
    table = load_images(tmp_path)
    assert split_sizes(table) == [10, 4, 2] and table.classes == ("0", "1")
    place = table.rows["path"].to_pylist().index("set-train-001.tar/s/0011.png")
    assert table.read(place) == noise(11) and table.texts("txt")[place] == "text 11"
    assert table.rejected == ()


def test_labels_and_texts_of_records(tmp_path):
    rows = [
        {"__key__": f"{n}", "jpg": noise(n, kind="JPEG"), "json": {"label": ["cat", "dog"][n % 2], "caption": f"c{n}"}}
        for n in range(6)
    ]
    rows.append({"__key__": "6", "jpg": noise(6, kind="JPEG")})
    table = load_images(shard(tmp_path / "a.tar", rows), validation_share=0, test_share=0)
    assert table.classes == ("cat", "dog") and table.labels.tolist() == [0, 1, 0, 1, 0, 1, -1]
    assert table.reader.text_columns == ("caption",)
    assert table.texts("caption") == [f"c{n}" for n in range(6)] + [None]


@pytest.mark.parametrize("splits", [["test"] * 6, ["train", "test", None, "train", "test", "test"], ["a", "b"] * 3])
def test_a_split_that_not_all_records_name_is_not_read_and_said(tmp_path, capsys, splits):
    rows = [{"__key__": f"{n}", "png": noise(n), "json": {"label": "ab"[n % 2], "split": splits[n]}} for n in range(6)]
    assert split_sizes(load_images(shard(tmp_path / "a.tar", rows), validation_share=0, test_share=0)) == [6, 0, 0]
    said = " ".join(capsys.readouterr().err.split())
    assert "the key split is not read" in said and "as in val-00.tar" in said


@pytest.mark.parametrize(
    "values",
    [
        {"split": ["train", "train", "val", "val", "test", "test"]},
        {"partition": ["training", "TRAIN", "dev", "valid", "testing", "test"]},
        {"is_val": [0, 0, 1, 1, 0, 0], "is_test": [False, False, False, False, True, True]},
    ],
)
def test_a_split_that_all_records_name_is_read_as_that_of_a_table(tmp_path, capsys, values):
    work = tmp_path / "work"
    for name, places in {"a.tar": (0, 2, 4), "b.tar": (1, 3, 5)}.items():
        records = [{"label": "ab"[n % 2], **{key: cells[n] for key, cells in values.items()}} for n in range(6)]
        (tmp_path / "set").mkdir(exist_ok=True)
        shard(tmp_path / "set" / name, [{"__key__": f"{n}", "png": noise(n), "json": records[n]} for n in places])
    for _ in range(2):  # the second time from what was kept
        table = load_images(tmp_path / "set", work=work)
        assert split_sizes(table) == [2, 2, 2] and table.reader.text_columns == ()
        assert "the split is read from" in " ".join(capsys.readouterr().err.split())


def test_names_of_tars_say_the_split_before_their_records_do(tmp_path):
    for start, name in ((0, "train-0.tar"), (10, "test-0.tar")):
        rows = [
            {"__key__": f"{name}{n}", "png": noise(start + n), "json": {"label": "ab"[n % 2], "split": "val"}}
            for n in range(4)
        ]
        shard(tmp_path / name, rows)
    assert split_sizes(load_images(tmp_path, validation_share=0)) == [4, 0, 4]


def test_member_names_never_become_paths(tmp_path):
    members = []
    for n, name in enumerate(["../../up", "/abs/olute", "./dot", "plain"]):
        members += [(f"{name}.png", noise(n)), (f"{name}.cls", b"ab"[n % 2 : n % 2 + 1])]
    members += [
        ("._plain.png", b"mac"),
        ("lonely.cls", b"a"),
        ("two.png", noise(9)),
        ("two.jpg", noise(8)),
        ("two.cls", b"a"),
    ]
    (tmp_path / "in").mkdir()
    path = raw_tar(tmp_path / "in" / "a.tar", members)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    table = load_images(path)
    assert sorted(table.path(i) for i in range(len(table))) == [
        "a.tar/../../up.png",
        "a.tar//abs/olute.png",
        "a.tar/dot.png",
        "a.tar/plain.png",
        "a.tar/two.jpg",
    ]
    assert reasons(table) == {
        "a.tar/lonely": "the sample has no image",
        "a.tar/link.png": "a link or special file inside a tar",
        "a.tar/two.png": "a further image of the sample",
    }
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.tar"]
    assert len(load_images(path, image_column="png").rejected) == 3


def test_keys_with_a_dot_keep_their_labels(tmp_path):
    names = ["v6.5 crop", "v6.7 crop", "in/a.b.c", "plain"]
    members = [
        (f"{name}.{suffix}", data)
        for number, name in enumerate(names)
        for suffix, data in (("png", noise(number)), ("cls", b"ab"[number % 2 :][:1]), ("txt", f"of {name}".encode()))
    ]
    table = load_images(raw_tar(tmp_path / "a.tar", members), validation_share=0, test_share=0)
    assert names_of(table, "train") == {f"a.tar/{name}.png": "ab"[n % 2] for n, name in enumerate(names)}
    assert table.texts("txt") == [f"of {name}" for name in names]
    assert table.rejected == ()


def test_several_images_of_a_sample_share_its_label(tmp_path):
    members = []
    for key, label in (("a", b"x"), ("b", b"y")):
        members += [(f"{key}.left.png", noise(key == "a")), (f"{key}.right.png", noise(2)), (f"{key}.cls", label)]
    table = load_images(raw_tar(tmp_path / "a.tar", members), validation_share=0, test_share=0)
    assert names_of(table, "train") == {"a.tar/a.left.png": "x", "a.tar/b.left.png": "y"}
    assert reasons(table)["a.tar/a.right.png"] == "a further image of the sample"


def test_files_of_a_sample_need_not_be_side_by_side(tmp_path):
    keys = [f"{n}" for n in range(6)]
    members = [(f"{key}.png", noise(int(key))) for key in keys]
    members += [(f"{key}.cls", b"ab"[int(key) % 2 :][:1]) for key in reversed(keys)]
    members += [("3.png", noise(10)), ("3.cls", b"b")]  # a second tar, joined to the first
    table = load_images(raw_tar(tmp_path / "a.tar", members), validation_share=0, test_share=0)
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1, 1] and table.rejected == ()
    assert table.read(6) == noise(10)


def test_keys_in_either_form_of_unicode_are_one_sample(tmp_path):
    members = []
    for n in range(4):
        members += [(f"cafe\u0301/{n}.png", noise(n)), (f"caf\u00e9/{n}.cls", b"ab"[n % 2 :][:1])]
    table = load_images(raw_tar(tmp_path / "a.tar", members), validation_share=0, test_share=0)
    assert table.labels.tolist() == [0, 1, 0, 1]


def test_tars_without_labels_say_what_they_hold_instead(tmp_path):
    images = [(f"{n}.png", noise(n)) for n in range(4)]
    other = raw_tar(tmp_path / "other.tar", [*images, *((f"{n}.class.txt", b"cat") for n in range(4))])
    with pytest.raises(DataError, match=r"its samples have .class.txt, .png, but no .cls"):
        load_images(other)
    raw_tar(tmp_path / "set-0.tar", images)
    raw_tar(tmp_path / "set-1.tar", [(f"{n}.cls", b"cat") for n in range(4)])
    with pytest.raises(DataError, match=r"4 samples without an image, such as set-1.tar/0: the files of a sample"):
        load_images(str(tmp_path / "set-{0..1}.tar"))


def test_images_before_the_damage_of_a_tar_are_kept(tmp_path):
    data = shard(tmp_path / "a.tar", samples(9)).read_bytes()
    cut = load_images(write(tmp_path / "cut.tar", data[: len(data) // 2]))
    assert 0 < len(cut) < 9 and any("cut.tar" in path for path in reasons(cut))
    place = data.index(b"s/0004.png")
    spoilt = load_images(write(tmp_path / "spoilt.tar", data[:place] + b"\xff" * 512 + data[place + 512 :]))
    assert len(spoilt) == 4 and "damaged" in reasons(spoilt)["spoilt.tar"]
    with pytest.raises(DataError, match="damaged"):
        load_images(write(tmp_path / "none.tar", b"words" * 500))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", noise(0)), ("a.json", b"{")], "a.json is not JSON"),
        ([("a.png", noise(0)), ("a.json", b"[]")], "not a JSON object"),
        ([("a.png", noise(0)), ("a.cls", b"\xff")], "not UTF-8"),
        ([("cat/a.png", noise(0)), ("dog/a.png", noise(1))], "No sample .* has a label.*unpacked"),
        ([("a.png", noise(0)), ("a.json", json.dumps({"label": [1]}).encode())], "not a single name"),
    ],
)
def test_malformed_samples_are_named(tmp_path, members, message):
    with pytest.raises(DataError, match=message):
        load_images(raw_tar(tmp_path / "a.tar", members))


@pytest.fixture
def walked(monkeypatch):
    """The names of the tars that are walked through from now on."""
    names, read = [], tars.read_contents

    def note(file, name, *rest):
        names.append(name)
        return read(file, name, *rest)

    monkeypatch.setattr(tars, "read_contents", note)
    return names


def same_images(first, second):
    ids = [table.rows.drop_columns(["row"]).to_pylist() for table in (first, second)]
    return ids[0] == ids[1] and first.rejected == second.rejected and first.classes == second.classes


def test_listings_of_tars_are_kept(tmp_path, walked):
    for number in range(2):
        shard(tmp_path / "set" / f"a-train-{number}.tar", samples(5, 10 * number))
    raw_tar(tmp_path / "set" / "b-train.tar", [("x.png", noise(99)), ("x.cls", b"1"), ("y.cls", b"0")])
    first = load_images(tmp_path / "set", work=tmp_path / "work")
    assert sorted(walked) == ["a-train-0.tar", "a-train-1.tar", "b-train.tar"] and reasons(first)
    second = load_images(tmp_path / "set", work=tmp_path / "work")
    assert len(walked) == 3 and same_images(first, second)
    assert [second.read(n) for n in range(len(second))] == [first.read(n) for n in range(len(first))]
    assert second.texts("txt") == first.texts("txt")
    assert len(load_images(tmp_path / "set")) == len(first) and len(walked) == 6


def test_tar_that_is_replaced_is_listed_again(tmp_path, walked):
    """Even by one of the same size and modification time."""
    shard(tmp_path / "set" / "a-train.tar", samples(6))
    place = shard(tmp_path / "set" / "b-train.tar", samples(4, 10))
    load_images(tmp_path / "set", work=tmp_path / "work", validation_share=0, test_share=0)
    status = place.stat()
    place.write_bytes(place.read_bytes().replace(b"s/0010.", b"s/0099."))
    raw = bytearray(place.read_bytes())
    for start in range(0, len(raw), 512):
        if raw[start : start + 7] == b"s/0099.":
            raw[start + 148 : start + 156] = b" " * 8
            raw[start + 148 : start + 156] = b"%06o\0 " % sum(raw[start : start + 512])
    place.write_bytes(raw)
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert place.stat().st_size == status.st_size
    walked.clear()
    again = load_images(tmp_path / "set", work=tmp_path / "work", validation_share=0, test_share=0)
    assert walked == ["b-train.tar"]
    assert "b-train.tar/s/0099.png" in again.rows["path"].to_pylist()
    assert len(list((tmp_path / "work" / "images" / "tars").iterdir())) == 2


def test_damaged_kept_listing_is_made_again(tmp_path, walked):
    shard(tmp_path / "a-train.tar", samples(6))
    first = load_images(tmp_path / "a-train.tar", work=tmp_path / "work")
    (kept,) = (tmp_path / "work" / "images" / "tars").iterdir()
    for damaged in (kept.read_bytes()[:100], b"", b"words"):
        kept.write_bytes(damaged)
        walked.clear()
        assert same_images(first, load_images(tmp_path / "a-train.tar", work=tmp_path / "work"))
        assert walked == ["a-train.tar"]


def test_byte_order_mark_is_no_part_of_a_label(tmp_path):
    made = [{"__key__": f"{n}", "png": noise(n), "cls": b"\xef\xbb\xbfcat" if n % 2 else b"dog\r\n"} for n in range(8)]
    assert load_images(shard(tmp_path / "a.tar", made)).classes == ("cat", "dog")
