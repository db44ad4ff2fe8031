"""Which kind of source a name means."""

import pytest

from gpt4image.core.errors import DataError
from gpt4image.images import load_images
from gpt4image.images.sources.detect import expand_braces
from support.image_files import samples, shard, write


@pytest.mark.parametrize("pattern", ["t-{000..001}.tar", "t-*.tar", "t-00{0,1}.tar"])
def test_patterns_of_tars(tmp_path, pattern):
    for number in range(2):
        shard(tmp_path / f"t-{number:03d}.tar", samples(4, number * 10))
    shard(tmp_path / "other.tar", samples(4, 50))
    assert len(load_images(str(tmp_path / pattern))) == 8
    with pytest.raises(DataError, match=r"t-002\.tar does not exist"):
        load_images(str(tmp_path / "t-{000..003}.tar"))


def test_braces_expand_as_in_a_shell():
    assert expand_braces("{a,b{1..2}}") == ["a", "b1", "b2"]
    assert expand_braces("x{8..10}") == ["x8", "x9", "x10"]


def test_unknown_sources_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not exist\. A source is a folder"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no image source"):
        load_images(write(tmp_path / "notes.txt", b"words"))
    with pytest.raises(DataError, match="compressed"):
        load_images(write(tmp_path / "x.tar.gz", b"words"))
