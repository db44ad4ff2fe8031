"""Whether waiting threads keep their processors busy. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import MutableMapping

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

# By default waiting threads spin: 300,000 times in libgomp, which is part of torch's Linux wheels, and for 200 ms in
# the OpenMP of LLVM and Intel. If another process is busy, they keep a processor from the very thread that they wait
# for. Even 1,000 spins make a small training step several times as long (`benchmarks/waiting.py`).
SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Let OpenMP threads sleep while they wait, in this process and its children, unless the user has set a policy.

    OpenMP reads the environment when it is loaded, so this must come before torch.

    >>> own: dict[str, str] = {"OMP_WAIT_POLICY": "ACTIVE"}
    >>> wait_passively(own)
    >>> own
    {'OMP_WAIT_POLICY': 'ACTIVE'}
    """
    if not any(name in environment for name in CHOICES):
        environment.update(SETTINGS)
