"""How this process gets its memory."""

import ctypes
import platform

import psutil
import pytest
import torch

from gpt4image.core.memory import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_of_freed_tensors_is_kept_for_the_next():
    keep_freed_memory()
    ctypes.CDLL(None).malloc_trim(0)  # so that nothing freed by earlier tests is taken again
    before = psutil.Process().memory_info().rss
    torch.ones(2**26)  # 256 MB, freed at once
    kept = psutil.Process().memory_info().rss - before
    ctypes.CDLL(None).malloc_trim(0)
    assert kept > 2**27
