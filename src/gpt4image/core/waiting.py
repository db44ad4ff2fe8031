"""How long threads that wait for one another keep their processors busy. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import MutableMapping

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

# By default threads turn in circles while they wait, 300,000 times in libgomp, which torch's Linux wheels bring, and
# 200 ms in the OpenMP of LLVM and Intel. Beside any other busy process they thus keep a processor from the very thread
# that they wait for. Even 1,000 turns make a small training step several times as long (`benchmarks/waiting.py`).
SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Let OpenMP threads sleep while they wait, here and in processes started from here, unless the user has chosen.

    OpenMP reads the environment when it is loaded, so this must come before torch.

    >>> own: dict[str, str] = {"OMP_WAIT_POLICY": "ACTIVE"}
    >>> wait_passively(own)
    >>> own
    {'OMP_WAIT_POLICY': 'ACTIVE'}
    """
    if not any(name in environment for name in CHOICES):
        environment.update(SETTINGS)
