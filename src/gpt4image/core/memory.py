"""Memory allocation in this process."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # numbers of the settings in glibc's malloc.h
KEPT = 2**31 - 1  # bytes that may stay free at the end of the heap, the most that glibc allows


@cache
def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensors instead of handing it back at every step.

    The operating system zeroes new memory page by page, which takes a fifth of a training step of a small model on a
    CPU. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(MMAP_MAX, 0)  # blocks of any size come from the heap
    mallopt(TRIM_THRESHOLD, KEPT)


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Collect no garbage while many objects are made that all stay.

    Every collection goes over all that there are, which takes a fifth of the time in which 100,000 files are listed.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
