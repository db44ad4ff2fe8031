"""Write `tests/data/work_0_1`: a work directory, an exported model and an exported dataset of version 0.1.

    PYTHONPATH=tests python -m support.make_work_directory FOLDER

FOLDER must not exist. The installed version writes everything through its command line, interrupted and killed halfway
where a user would interrupt or kill it. All paths are relative to FOLDER. `said.json` records what it reported.
Version 0.1.0 wrote the data in the repository; do not regenerate it, or it no longer tests compatibility.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from gpt4image import DescriptionStore
from gpt4image.__main__ import main
from support import tiny_backbone
from support.drawings import COLOURS, SHAPES, draw
from support.stub_scenario import Fault, Scenario
from support.stub_server import MODEL, StubServer, mark_of

PORT = 18417
"""Port of the server. The address is part of a pending batch, so the tests replace it there."""
SPLITS = {"train": range(6), "validation": range(6, 8), "test": range(8, 12)}
DATA = ["photos", "--work", "work"]
PAID = ["--price-in", "10", "--price-out", "20", "--max-tokens", "60", "--model", MODEL]
TINY = ["--backbone", tiny_backbone.NAME, "--no-pretrained", "--image-size", "32", "--batch-size", "6"]
TINY += ["--lr", "2e-2", "--projector-hidden", "8"]
PLAIN = ["--use-prompts", "plain"]
TEACHER = ["--teacher", f"timm:{tiny_backbone.NAME}", "--teacher-checkpoint", "work/runs/baseline-0/best.safetensors"]
TAUGHT = ["--teachers", f"timm:{tiny_backbone.NAME}", "--soft-labels", "0.3"]
FROZEN = ["--freeze", "conv1", "bn1", "maxpool", "layer1", "--cached-views", "2"]
INTERRUPTED = ["--arm", "described", "--seed", "5", "--epochs", "8", *TAUGHT, *FROZEN]
COMPARED = ["--epochs", "20", "--seeds", "2"]
CONFUSIONS = ["--confusions", "work/runs/baseline-0"]
PAIR_BATCH = ["--splits", "validation", "--prompt-file", "pair.toml", "--describer", "batch"]
STEPS_BEFORE_SIGNAL = 11
"""At three steps per epoch, the run stops inside its fourth epoch."""
PAIR = '[pair]\nturns = ["What is in the picture?", "Which colour does it have?"]\n'


def run(*words: str, status: int = 0) -> str:
    """Run a command and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        ended = main(words)
    assert ended == status, f"{words} ended with {ended}"
    return out.getvalue()


def describe_command(*words: str) -> list[str]:
    return ["describe", *DATA, *PAID, "--base-url", f"http://127.0.0.1:{PORT}/v1", *words]


def describe(faults: Sequence[Fault], *words: str, status: int = 0) -> None:
    with StubServer(Scenario(faults=tuple(faults)), port=PORT):
        run(*describe_command("--yes", *words), status=status)


def kill_when(server: StubServer, reached: Callable[[], bool], *words: str) -> None:
    """Describe in a subprocess, and kill it once the server reaches a state."""
    process = subprocess.Popen([sys.executable, "-m", "gpt4image", *describe_command("--yes", *words)])
    while not reached():
        assert process.poll() is None, "the process ended before the kill"
        time.sleep(0.05)
    time.sleep(2.0)
    process.kill()
    process.wait()


def draw_images() -> dict[str, list[str]]:
    """Draw three classes of twelve images; return the marks that identify them in the server log, by split."""
    marks: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, numbers in SPLITS.items():
        for name, colour in COLOURS.items():
            folder = Path("photos", split, name)
            folder.mkdir(parents=True)
            for number in numbers:
                path = folder / f"{number:03}.png"
                draw(colour, SHAPES[number % len(SHAPES)], number, 32).save(path)
                marks[split].append(mark_of(path.read_bytes()))
    return marks


def describe_plain(marks: dict[str, list[str]]) -> None:
    """Describe all images with one prompt: a finished batch, two failures, two refusals that a check drops."""
    train = marks["train"]
    faults = [Fault("content_filter", mark=train[2]), Fault("invalid_image", mark=marks["validation"][0])]
    faults += [Fault("refusal_text", mark=mark) for mark in (train[4], train[11])]
    describe(faults, "--splits", "train", "validation", "--prompts", "plain")
    describe([], "--splits", "test", "--prompts", "plain", "--describer", "batch")
    run("describe", "check", *DATA, *PLAIN, "--drop", "refusal")


def pay_without_answer(mark: str) -> None:
    """Pay for an empty response, with no money left for the retry."""
    faults = [Fault("empty", mark=mark, times=1), Fault("quota", mark=mark)]
    describe(faults, "--splits", "validation", "--prompts", "attributes", status=1)


def leave_pending_batch() -> None:
    """Kill the process while a batch holds the second turn of each conversation."""
    Path("pair.toml").write_text(PAIR)
    with StubServer(Scenario(batch_polls=3), state=Path("server"), port=PORT) as server:
        made = lambda: sum(entry.endpoint == "create" for entry in server.log) == 2  # noqa: E731
        kill_when(server, made, *PAIR_BATCH)


def leave_conversations_open(train: Sequence[str]) -> dict[str, int]:
    """Kill the process while some conversations are open; return the number of answered turns by mark."""
    answered = dict.fromkeys(train, 3) | {train[1]: 1, train[5]: 2, train[8]: 2}  # four are asked at a time at first
    waits = [Fault("slow", mark=mark, turn=turns + 1, seconds=30) for mark, turns in answered.items() if turns < 3]
    with StubServer(Scenario(faults=tuple(waits)), port=PORT) as server:
        reached = lambda: server.paid_by_mark.total() == sum(answered.values())  # noqa: E731
        kill_when(server, reached, "--splits", "train", "--prompts", "questions")
        assert server.paid_by_mark == Counter(answered)
    return answered


def remove_paths(path: Path) -> None:
    """Remove the stack traces that torch stores in a graph: they hold paths of this machine."""
    model = onnx.load(path)
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    onnx.save(model, path)


def interrupt_training() -> None:
    """Train until SIGTERM arrives in mid-epoch."""
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == STEPS_BEFORE_SIGNAL:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(count)
    run("train", *DATA, *PLAIN, *TINY, *INTERRUPTED, status=130)
    hook.remove()


def train_and_compare() -> dict[str, str]:
    """Run all stages after `describe`; return what they print."""
    said = {"embed": run("embed", *DATA, *PLAIN), "label": run("label", *DATA, *PLAIN)}
    said["compare"] = run("compare", *DATA, *PLAIN, *TINY, *COMPARED)
    said["embed images"] = run("embed", "images", *DATA, *TEACHER, "--views", "2")
    said["label images"] = run("embed", "images", *DATA, "--teacher", "run:work/runs/baseline-0")
    run("export", *DATA, "--run", "work/runs/described-0", "--out", "model")
    remove_paths(Path("model/model.onnx"))
    said["predict"] = run("predict", "model", "photos/test", "--top", "1")
    interrupt_training()
    check = ["--backbone", tiny_backbone.NAME, "--checkpoint", "work/runs/baseline-0/best.safetensors"]
    said["check"] = run("describe", "check", *DATA, *PLAIN, *check, "--image-size", "32")
    return said


def account(store: DescriptionStore) -> dict[str, object]:
    """Summarize a description store."""
    current = store.current(dropped=True)
    return {
        "cost": store.spent().cost,
        "tokens": [store.spent().tokens_in, store.spent().tokens_out],
        "answered": dict(Counter(record.prompt for record in current if record.answered)),
        "failures": dict(store.failures()),
        "dropped": sorted(mark.key for mark in store.marks().values() if mark.verdict == "drop"),
        "texts": {record.key: record.text for record in current if record.answered},
    }


def make() -> None:
    marks = draw_images()
    run("images", *DATA)
    describe_plain(marks)
    said = train_and_compare()
    describe([], "--splits", "validation", "--prompts", "contrast", *CONFUSIONS)
    pay_without_answer(marks["validation"][3])
    leave_pending_batch()
    run("describe", "export", *DATA, "--out", "shared", "--images-inside", "--with-cost")
    turns = leave_conversations_open(marks["train"])
    rows = [{"path": f"train/red/00{number}.png", "text": f"Something red, {number}."} for number in range(3)]
    Path("captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("describe", "import", *DATA, "--from", "captions.jsonl")
    progress = torch.load("work/runs/described-5/checkpoint.pt", weights_only=True)["progress"]
    found = {
        "printed": said,
        "marks": marks,
        "unpaid": {"failed": [marks["train"][2], marks["validation"][0]], "no money": [marks["validation"][3]]},
        "turns": turns,
        "store": account(DescriptionStore("work/descriptions")),
        "history": progress["history"],
    }
    Path("said.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir()
    os.chdir(sys.argv[1])
    make()
