"""Folders of clips: files and folders of frames, broken ones named, ids that outlast the choice of frames."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from gpt4image import load_images
from gpt4image.core.errors import ConfigError, DataError, ImageError
from gpt4image.images.load import load_pictures
from gpt4image.images.sources import clip_folders
from support.clips import CLASSES, draw_clip, write_clip_set, write_frames, write_video
from support.drawings import write_image_set


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory):
    return write_clip_set(tmp_path_factory.mktemp("clips") / "set")


def test_clips_are_rows_and_what_cannot_be_read_is_named(clip_set, tmp_path):
    images = load_images(clip_set, frames=4, work=tmp_path)
    assert (len(images), images.classes, images.task) == (18, tuple(CLASSES), "clip-classification")
    reasons = {rejected.path: rejected.reason for rejected in images.rejected}
    assert reasons.pop("left/cut.mp4").startswith("cannot be decoded: ")
    assert reasons == {
        "down/nothing": "an empty folder without frames",
        "down/notes.txt": "not a clip (suffix .txt)",
        "right/empty.mp4": "the file is empty (0 bytes)",
    }
    assert "down/clip2" in images.rows["path"].to_pylist()
    assert all(len(images.read_frames(row)) == 4 for row in range(18))


def test_frames_are_made_once_and_kept(clip_set, tmp_path, monkeypatch):
    first = load_images(clip_set, frames=4, work=tmp_path)
    kept = [first.read(row) for row in range(len(first))]

    def make(place, *rest):
        made.append(place.name)
        return make_frames(place, *rest)

    made, make_frames = [], clip_folders.make_frames
    monkeypatch.setattr(clip_folders, "make_frames", make)
    again = load_images(clip_set, frames=4, work=tmp_path)
    assert again.rows.equals(first.rows) and [again.read(row) for row in range(len(again))] == kept
    assert sorted(set(made)) == ["cut.mp4", "empty.mp4"]  # a file that could not be read may be whole by now
    (damaged, *_) = sorted((tmp_path / "images" / "clips").rglob("*.frames"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert [again.read(row) for row in range(len(again))] == kept


def test_ids_are_those_of_the_files_whichever_frames_are_seen(clip_set, tmp_path):
    ids = [load_images(clip_set, frames=count, frame_rule=rule, work=tmp_path).ids for count, rule in
           ((2, "even"), (5, "even"), (2, "scene"))]  # fmt: skip
    assert (ids[0] == ids[1]).all() and (ids[0] == ids[2]).all() and len(set(ids[0].tolist())) == 18


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    for name in CLASSES:
        for number in range(2):
            write_frames(tmp_path / name / f"clip{number}", draw_clip(name, number, length=12))
    images = load_images(tmp_path, frames=12, validation_share=0, test_share=0)
    row = images.rows["path"].to_pylist().index("right/clip1")
    found = [np.asarray(frame.decode()).astype(int) for frame in images.encoded_frames(row)]
    for frame, drawn in zip(found, draw_clip("right", 1, length=12), strict=True):
        assert np.abs(frame - np.asarray(drawn)).mean() < 3  # frame10 after frame9, up to JPEG


def test_videos_alone_are_clips_unasked_and_images_are_not(tmp_path):
    for name in CLASSES:
        for number in range(2):
            write_video(tmp_path / "videos" / name / f"{number}.webm", draw_clip(name, number), "libvpx-vp9")
    images = load_images(tmp_path / "videos", validation_share=0, test_share=0)
    assert images.frames is not None and images.frames.count == 8
    assert load_images(write_image_set(tmp_path / "images")).frames is None


def test_splits_unlabelled_clips_and_copies_work_as_with_images(tmp_path):
    for split in ("train", "test"):
        for at, name in enumerate(CLASSES):
            for number in range(2):
                place = tmp_path / "set" / split / name / f"{number}.avi"
                write_video(place, draw_clip(name, 10 * at + number + 5 * (split == "test")))
    shutil.copy(tmp_path / "set/train/left/0.avi", tmp_path / "set/test/left/copy.avi")
    write_frames(tmp_path / "more" / "clip", draw_clip("down", 99))
    write_video(tmp_path / "more" / "1.avi", draw_clip("down", 98))
    images = load_images(tmp_path / "set", frames=3, unlabelled=[tmp_path / "more"], validation_share=0)
    assert len(images.split("test")) == 7 and (images.labels < 0).sum() == 2
    assert len(set(images.ids.tolist())) == len(images) - 1
    with pytest.raises(DataError, match="sources of the same kind"):
        load_images(write_image_set(tmp_path / "images"), unlabelled=[tmp_path / "set"])


def test_clips_to_look_at_need_no_classes(tmp_path):
    write_frames(tmp_path / "clip", draw_clip("down", 1))
    write_video(tmp_path / "1.avi", draw_clip("left", 2))
    table = load_pictures(tmp_path, frames=clip_folders.FrameChoice(3))
    assert sorted(table.rows["path"].to_pylist()) == ["1.avi", "clip"]
    assert table.image(0).size == (96, 96)


def test_clip_that_changes_meanwhile_is_noticed(clip_set, tmp_path):
    shutil.copytree(clip_set, tmp_path / "set")
    images = load_images(tmp_path / "set", frames=2)
    row = images.rows["path"].to_pylist().index("left/1.mp4")
    shutil.copy(tmp_path / "set/right/1.mp4", tmp_path / "set/left/1.mp4")
    with pytest.raises(ImageError, match=r"left/1\.mp4: the file has changed"):
        images.read_frames(row)


def test_settings_that_clips_do_not_take_are_refused(clip_set, image_set):
    with pytest.raises(DataError, match="one class each"):
        load_images(clip_set, frames=2, task="multi-label")
    with pytest.raises(ConfigError, match="have no boxes"):
        load_images(clip_set, frames=2, task="detection")
    with pytest.raises(ConfigError, match="has no columns"):
        load_images(clip_set, frames=2, label_column="name")
    with pytest.raises(DataError, match="has no clips in class folders"):
        load_images(image_set, frames=2)
