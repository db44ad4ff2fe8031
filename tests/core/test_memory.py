"""How this process gets its memory."""

import ctypes
import gc
import platform

import psutil
import pytest
import torch

from gpt4image.core.memory import keep_freed_memory, pause_garbage_collection


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_of_freed_tensors_is_kept_for_the_next():
    keep_freed_memory()
    ctypes.CDLL(None).malloc_trim(0)  # so that nothing freed by earlier tests is taken again
    before = psutil.Process().memory_info().rss
    torch.ones(2**26)  # 256 MB, freed at once
    kept = psutil.Process().memory_info().rss - before
    ctypes.CDLL(None).malloc_trim(0)
    assert kept > 2**27


def test_garbage_collection_goes_on_after_a_pause_and_after_an_error_in_it():
    with pytest.raises(KeyError), pause_garbage_collection():
        with pause_garbage_collection():
            pass
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
