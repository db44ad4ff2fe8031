"""Chance that depends on seed, epoch and image alone, whatever is asked for beside it and in whatever process."""

from __future__ import annotations

import numpy as np

GAMMA = 0x9E3779B97F4A7C15
"""Keeps words of zeros from being lost: SplitMix64's increment."""


def draw_below(counts: np.ndarray, ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """One number from 0 to below each count, all equally likely, int64 [B].

    Args:
        counts: the counts, int64 [B], from 1 to below 2**32.
        ids: image ids, S32 [B].
        seed: seed of the draws.
        epoch: another epoch draws anew.
    """
    words = np.ascontiguousarray(ids, dtype="S32").view("<u8").reshape(-1, 4)
    hashed = np.zeros(len(words), dtype=np.uint64)
    for word in (np.uint64(seed % 2**64), np.uint64(epoch % 2**64), *words.T):
        hashed = mix_bits((hashed ^ word) + np.uint64(GAMMA))
    share = hashed >> np.uint64(32)  # of 2**32
    return np.asarray(share * counts.astype(np.uint64) >> np.uint64(32), dtype=np.int64)


def mix_bits(words: np.ndarray) -> np.ndarray:
    """Scramble words of 64 bits, uint64 [B], one to one: the last step of SplitMix64.

    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, with the constants of
    Stafford's variant 13.

    >>> hex(mix_bits(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))[0])
    '0xe220a8397b1dcdaf'
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
