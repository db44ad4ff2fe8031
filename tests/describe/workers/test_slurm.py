"""datatrove's submission to Slurm, with stand-ins for Slurm's programs that run the job on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.core.options import DataOptions
from gpt4image.llm.budget import OVER_BUDGET
from gpt4image.workflows.describe import run_description
from support.running import all_once, files_with, latest_run, options, paid, records, scenario, wait_until
from support.stub_server import StubProcess

SBATCH = """#!{python}
import os, pathlib, re, shutil, subprocess, sys
script = pathlib.Path(r"{folder}") / "submitted.sh"
shutil.copy(sys.argv[-1], script)
last = int(re.search(r"--array=0-(\\d+)", script.read_text())[1])
for task in range(last + 1):
    environment = dict(os.environ, SLURM_ARRAY_TASK_ID=str(task), SLURM_NODELIST="here", RUN_OFFSET="0")
    with open(rf"{folder}/{{task}}.out", "w") as output:
        subprocess.Popen(["bash", script], env=environment, stdout=output, stderr=output, start_new_session=True)
print("Submitted batch job 7")
"""
SRUN = '#!/bin/sh\nwhile [ "$1" != launch_pickled_pipeline ]; do shift; done\nexec "$@"\n'
SCONTROL = "#!/bin/sh\necho here\n"


def put_in_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "slurm"
    folder.mkdir()
    sbatch = SBATCH.format(python=sys.executable, folder=folder)
    put_in_path(folder, monkeypatch, sbatch=sbatch, srun=SRUN, scontrol=SCONTROL)
    return folder


@pytest.mark.slow
def test_array_job_stays_within_budget_and_the_command_resumes_after_it(few_images, tmp_path, slurm, key, capfd):
    work = tmp_path / "work"
    asked = {"max_tokens": 30, "budget": 0.0095, "price_in": 1.0, "price_out": 1.0}
    with StubProcess(scenario(latency=0.2)) as server:
        chosen = options(server, "slurm", slurm_partition="main", at_once=4, **asked)
        assert run_description(DataOptions(str(few_images)), chosen, work).total == 0
        printed = capfd.readouterr().err
        assert "submitted: Slurm job 7, 2 workers." in printed
        assert "squeue --job 7" in printed
        run = latest_run(work)
        wait_until(lambda: run.read(0).pid and run.read(1).pid)

        tally = run_description(DataOptions(str(few_images)), options(server, "local", **asked), work)  # waits for them
        assert "Waiting for a worker of an earlier run to end" in capfd.readouterr().err
        assert (tally.done, tally.stopped) == (0, OVER_BUDGET)
        assert 0.0045 < sum(record.cost for record in records(work)) <= 0.0095
        assert latest_run(work) == run

        rest = run_description(DataOptions(str(few_images)), options(server, "here", max_tokens=30), work)
        assert (rest.answered, paid(server)) == (tally.total, 60)
        assert all_once(work, 60)
        assert "#SBATCH --partition=main" in (slurm / "submitted.sh").read_text()
        assert not files_with(key, tmp_path)


def test_refused_job_is_reported(few_images, tmp_path, monkeypatch):
    put_in_path(tmp_path, monkeypatch, sbatch="#!/bin/sh\necho no such partition >&2\nexit 1\n")
    with StubProcess(scenario()) as server, pytest.raises(DescribeError, match="sbatch refused the job"):
        run_description(DataOptions(str(few_images)), options(server, "slurm", slurm_partition="x"), tmp_path / "work")
