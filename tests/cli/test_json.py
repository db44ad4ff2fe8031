"""For scripts: one JSON object on standard output, nothing needless with --quiet, and the exit statuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from gpt4image.cli.commands import COMMANDS
from gpt4image.cli.main import main
from support.stub_server import MODEL, StubServer

SMALL = "--backbone test_resnet --no-pretrained --image-size 32 --epochs 1 --batch-size 8 --warmup-epochs 0"
LINES = [
    "images photos --splits",
    "describe photos --base-url SERVER --model MODEL --yes",
    "describe classes photos --base-url SERVER --model MODEL --yes",
    "describe check photos --backbone test_resnet --checkpoint weights.safetensors --image-size 32",
    "describe export photos --out shared",
    "describe import photos --from captions.jsonl",
    "embed photos",
    "embed compare photos",
    "embed images photos --teacher timm:test_resnet --teacher-checkpoint weights.safetensors --teacher-size 32",
    "label photos",
    "audit photos",
    "advise photos --backbone test_resnet --checkpoint weights.safetensors --image-size 32",
    f"train photos {SMALL}",
    f"compare photos --seeds 1 {SMALL}",
    "runs",
    "report",
    "export photos --run gpt4image-work/runs/described-0 --out model --no-onnx --benchmark",
    "predict model photos/red/000.png",
    "search photos red",
    "zero-shot photos --classes classes.txt",
    "map photos --out map.html --method pca",
    "recipes fine-tune",
    "doctor",
    "completion bash",
]
ONLY_IF_ASKED = {"describe": {"estimate", "sample"}}
SLOW = {"demo"}  # of the parts of compare and export, and minutes long


@pytest.mark.slow
def test_every_command_prints_the_keys_that_its_help_explains(
    image_set, descriptions_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(image_set, "photos")
    shutil.copy(descriptions_file, "captions.jsonl")
    create_model = timm.create_model
    weights = create_model("test_resnet", num_classes=3).state_dict()
    monkeypatch.setattr(timm, "create_model", lambda *names, **options: print(names) or create_model(*names, **options))
    Path("classes.txt").write_text("red\nblue\n")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, "weights.safetensors")
    done = {}
    with StubServer() as server:
        for line in LINES:
            words = line.replace("SERVER", server.base_url).replace("MODEL", MODEL).split()
            name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
            assert main([*words, "--json", "--quiet"]) == 0, f"{line}\n{capsys.readouterr().err}"
            (printed,) = capsys.readouterr().out.splitlines()
            done[name] = json.loads(printed, parse_constant=pytest.fail)  # NaN is not JSON
            assert set(done[name]) == set(COMMANDS[name].KEYS) - ONLY_IF_ASKED.get(name, set()), line
    assert set(done) == set(COMMANDS) - SLOW
    assert done["describe"]["answered"] == done["describe"]["total"] > 20
    assert done["train"]["validation_accuracy"] == pytest.approx(done["train"]["validation_accuracy"], abs=1)
    assert done["compare"]["verdict"] == "one seed"
    assert math.isfinite(done["compare"]["difference"]["mean"])
    assert sum(sum(counts.values()) for counts in done["images"]["classes"].values()) == len(done["images"]["splits"])


def test_json_of_an_error_names_it_on_both_outputs(tmp_path, capsys):
    assert main(["report", "--work", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert set(found) == {"error", "kind"}
    assert found["kind"] == "StoreError"
    assert "".join(captured.err.split()) == "".join(f"error: {found['error']}".split())


def test_json_of_a_wrong_command_line_is_an_error_too(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["images", "photos", "--no-such-option", "--json"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["kind"] == "ConfigError"
    assert "--no-such-option" in captured.err


@pytest.mark.parametrize(("options", "shown"), [((), True), (("--quiet",), False)])
def test_what_libraries_print_is_no_result(options, shown, monkeypatch, capsys):
    details = COMMANDS["recipes"].run
    monkeypatch.setattr(COMMANDS["recipes"], "run", lambda command: print("welcome") or details(command))
    assert main(["recipes", "fine-tune", *options]) == 0
    captured = capsys.readouterr()
    assert "welcome" not in captured.out and "batch_size" in captured.out
    assert ("welcome" in captured.err) == shown


def test_quiet_command_prints_its_result_and_warnings_only(image_set, tmp_path, capsys):
    folder = shutil.copytree(image_set, tmp_path / "set")
    (folder / "red" / "broken.png").write_bytes(b"broken")
    assert main(["images", str(folder), "--work", str(tmp_path / "work"), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("left out: 1 file")
    assert "images: " not in captured.err
    assert "class\tblue" in captured.out


def test_text_in_json_cannot_steer_a_terminal(image_set, tmp_path, capsys):
    folder = shutil.copytree(image_set, tmp_path / "set")
    (folder / "red" / "a\x1b[31m\u202e.png").write_bytes(b"broken")
    assert main(["images", str(folder), "--work", str(tmp_path / "work"), "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii() and printed[:-1].isprintable()
    assert json.loads(printed)["left_out"][0]["path"] == "red/a\x1b[31m\u202e.png"
