"""Video files: the frames of every format are those of a plain decoder, and files that are none are named."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest

from gpt4image.core.errors import ImageError, MissingExtraError
from gpt4image.images.clips import FrameChoice
from gpt4image.images.video import find_frames, frame_times, read_clip
from support.clips import draw_clip, write_video

av = pytest.importorskip("av")

FORMATS = {
    "avi": ("mpeg4", {}),
    "mkv": ("ffv1", {}),
    "mov": ("libx264", {"g": "5", "bf": "2"}),
    "mp4": ("mpeg4", {"g": "4"}),
    "mpg": ("mpeg1video", {}),
    "ts": ("mpeg2video", {}),
    "webm": ("libvpx-vp9", {}),
    "h264": ("libx264", {}),
}


def plainly(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("rule", ["even", "scene"])
def test_chosen_frames_are_those_that_a_plain_loop_decodes(suffix, rule, tmp_path):
    codec, options = FORMATS[suffix]
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = write_video(tmp_path / f"clip.{suffix}", draw_clip("right", length=23), codec, **options)
    every, choice = plainly(path), FrameChoice(5, rule)
    found = [np.asarray(frame) for frame in read_clip(path, "clip", choice)]
    positions = choice.positions(len(every)) if rule == "even" else [1, 4, 8, 13, 19]
    assert len(every) == 23
    if rule == "even":
        for frame, position in zip(found, positions, strict=True):
            np.testing.assert_array_equal(frame, every[position])
    else:  # nothing is cut, so that stretches are halved
        assert len(found) == 5 and all(any((frame == other).all() for other in every) for frame in found)


def test_frames_are_found_by_time_from_the_key_frame_before(tmp_path):
    path = write_video(tmp_path / "clip.mp4", draw_clip("right", length=40), "mpeg4", g="6")
    times, every = frame_times(path, "clip"), plainly(path)
    assert len(times.all) == 40 and len(times.keys) == 7
    found = find_frames(path, "clip", [times.all[at] for at in (3, 20, 39)], times.keys, 0)
    for frame, at in zip(found, (3, 20, 39), strict=True):
        np.testing.assert_array_equal(np.asarray(frame), every[at])
    with pytest.raises(ImageError, match="no frame at time 1 "):
        find_frames(path, "clip", [1], times.keys, 0)


def test_frame_between_cuts_stands_for_each_scene(tmp_path):
    scenes = [draw_clip(name, length=length) for name, length in (("down", 4), ("left", 15), ("right", 3))]
    dark = [frame.point(lambda value: value // 4) for frame in scenes[1]]
    path = write_video(tmp_path / "clip.avi", [*scenes[0], *dark, *scenes[2]])
    every = plainly(path)
    found = [np.asarray(frame) for frame in read_clip(path, "clip", FrameChoice(3, "scene"))]
    for frame, position in zip(found, (2, 11, 20), strict=True):
        np.testing.assert_array_equal(frame, every[position])


def test_large_frames_are_scaled_down(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [frame.resize((96, 64)) for frame in draw_clip("left", length=3)])
    assert {frame.size for frame in read_clip(path, "clip", FrameChoice(2, side=48))} == {(48, 32)}


def test_turned_video_is_read_upright(tmp_path):
    """A phone films sideways and notes a quarter turn clockwise: what is at the left is then at the top."""
    frames = draw_clip("down", length=4)
    for frame in frames:
        frame.paste("black", (0, 0, 8, 48))
    path = write_video(tmp_path / "clip.mp4", [frame.resize((64, 48)) for frame in frames])
    data, upright = path.read_bytes(), struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = data.index(upright, data.index(b"tkhd"))
    turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    (frame,) = read_clip(path, "clip", FrameChoice(1))
    assert frame.size == (48, 64)
    assert np.asarray(frame)[:6].mean() < 40 and np.asarray(frame)[-6:].mean() > 150


def test_broken_files_are_named_with_the_reason(tmp_path):
    path = write_video(tmp_path / "whole.mp4", draw_clip("left"))
    whole = path.read_bytes()
    cases = {"cut.mp4": whole[: len(whole) // 2], "empty.mp4": b"", "text.mp4": b"no clip at all" * 50}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=name):
            read_clip(tmp_path / name, name, FrameChoice())


def test_frames_beyond_the_limit_of_pixels_are_refused_and_a_larger_limit_takes_them(tmp_path):
    path = write_video(tmp_path / "clip.mp4", draw_clip("left"))
    width, height = read_clip(path, "clip.mp4", FrameChoice(1, side=0))[0].size
    with pytest.raises(ImageError, match=rf"{width} x {height} pixels are more than the .* that max_pixels"):
        read_clip(path, "clip.mp4", FrameChoice(1), max_pixels=width * height - 1)
    assert read_clip(path, "clip.mp4", FrameChoice(1), max_pixels=width * height)


def test_file_that_lacks_announced_frames_is_cut_off(tmp_path):
    path = write_video(tmp_path / "clip.avi", draw_clip("left", length=24), "mjpeg")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match=r"cut off: it has \d+ of 24 frames"):
        read_clip(path, "clip.avi", FrameChoice())


@pytest.mark.parametrize(("suffix", "codec"), [("flv", "flv1"), ("gif", "gif")])
def test_cut_file_of_a_format_that_does_not_count_its_frames_is_named(suffix, codec, tmp_path):
    """A clip of three frames is whole, although FLV does not say how long the last of them lasts."""
    file = tmp_path / f"clip.{suffix}"
    assert len(read_clip(write_video(file, draw_clip("left", length=3), codec), file.name, FrameChoice())) == 3
    data = write_video(file, draw_clip("left", length=24), codec).read_bytes()
    for size in (len(data) // 3, len(data) // 2, len(data) * 4 // 5):
        file.write_bytes(data[:size])
        with pytest.raises(ImageError, match=rf"clip\.{suffix}: the file is cut off: "):
            read_clip(file, file.name, FrameChoice())
    file.write_bytes(data + b"more")  # after the end, as some programs leave
    assert len(read_clip(file, file.name, FrameChoice())) == 8


@pytest.mark.parametrize("sound", [False, True])
def test_matroska_file_that_lacks_announced_seconds_is_cut_off(tmp_path, sound):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 48
        audio = container.add_stream("pcm_s16le", rate=8000) if sound else None
        for frame in draw_clip("left", length=50):
            container.mux(video.encode(av.VideoFrame.from_image(frame)))
        container.mux(video.encode())
        if audio is not None:  # four seconds, twice as long
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 32_000), np.int16), "s16", "mono")
            quiet.sample_rate = 8000
            container.mux(audio.encode(quiet))
    assert len(read_clip(path, "clip.mkv", FrameChoice(4))) == 4
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(ImageError, match=r"cut off: [01]\.\d of [24]\.0 seconds"):
        read_clip(path, "clip.mkv", FrameChoice(4))


def test_playlist_under_the_name_of_a_clip_opens_no_other_file(tmp_path):
    other = write_video(tmp_path / "other.ts", draw_clip("left"), "mpeg2video")
    lists = {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{other}\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile {other}\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ImageError, match="cannot be decoded"):
            read_clip(tmp_path / name, name, FrameChoice())


def test_missing_library_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", draw_clip("left"))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gpt4image\[video\]'"):
        read_clip(path, "clip.mp4", FrameChoice())
