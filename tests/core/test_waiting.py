"""OpenMP's threads sleep while they wait: what the library reads when it is loaded, in every kind of process."""

import os
import re
import subprocess
import sys

import pytest

from gpt4image.core.waiting import CHOICES

LOAD = "import torch; torch.ones(9).sum()"
KINDS = {
    "library": f"import gpt4image; {LOAD}",
    "public name": "from gpt4image import Recipe; Recipe(); import torch",
    "command line": "from gpt4image.cli.main import main; main(['recipes', 'fine-tune']); import torch",
    "started process": (
        "import subprocess, sys; import gpt4image; "
        f"sys.exit(subprocess.run([sys.executable, '-c', {LOAD!r}]).returncode)"
    ),
}


def policies(code, **chosen):
    """Run code in a new process; return the policies that OpenMP reports when it is loaded."""
    clean = {name: value for name, value in os.environ.items() if name not in CHOICES}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **chosen, "OMP_DISPLAY_ENV": "VERBOSE"},
        check=True,
        capture_output=True,
        text=True,
    )
    found = set(re.findall(r"OMP_WAIT_POLICY = '(\w+)'", ended.stderr))
    if not found:
        pytest.skip("this OpenMP does not report its policy")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_openmp_waits_passively(kind):
    assert policies(KINDS[kind]) == {"PASSIVE"}


@pytest.mark.slow
def test_the_users_choice_is_kept():
    assert policies(KINDS["library"], OMP_WAIT_POLICY="ACTIVE") == {"ACTIVE"}
