"""A push to the Hub: asked for, with a token from the environment that is shown to nobody, and clear when it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt4image.core.errors import ConfigError
from gpt4image.core.hub_push import hub_token, push_folder
from gpt4image.core.options import PushOptions
from support.hub_server import TOKEN, HubServer

PUSH = """
import sys
from pathlib import Path
from gpt4image.core.errors import Gpt4ImageError
from gpt4image.core.hub_push import push_folder
from gpt4image.core.options import PushOptions
folder, repo, private, kind = sys.argv[1:]
try:
    print(push_folder(Path(folder), PushOptions(repo, private == "private"), kind=kind, old=["data/*"]))
except Gpt4ImageError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "model" / "data").mkdir(parents=True)
    (tmp_path / "model" / "README.md").write_text("---\nlibrary_name: timm\n---\n\nText.\n")
    (tmp_path / "model" / "data" / "b.bin").write_bytes(bytes(range(256)))
    return tmp_path / "model"


def push(folder, repo, endpoint, *, private=False, kind="model", **environment) -> subprocess.CompletedProcess[str]:
    home = {"HF_HOME": str(folder.parent / "home"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    settings = {"HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN, **home, **environment}
    command = [sys.executable, "-c", PUSH, str(folder), repo, "private" if private else "public", kind]
    return subprocess.run(command, check=False, env={**os.environ, **settings}, capture_output=True, text=True)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert TOKEN not in result.stdout + result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_push_by_xet_replaces_what_an_earlier_one_by_lfs_left(hub, folder):
    first = push(folder, "tester/set", hub.url, kind="dataset")
    assert first.stdout.strip() == f"{hub.url}/datasets/tester/set", first.stderr
    assert TOKEN not in first.stdout + first.stderr
    assert "Upload" not in first.stderr  # no bar where there is no terminal
    (folder / "data" / "b.bin").rename(folder / "data" / "c.bin")
    (folder / "data" / "c.bin").write_bytes(bytes(range(255, -1, -1)))
    second = push(folder, "tester/set", hub.url, kind="dataset", HF_HUB_DISABLE_XET="0")
    assert second.returncode == 0, second.stderr
    assert sum(line.startswith("PUT /lfs/") for line in hub.log) == 1  # the first
    assert sum(line.startswith("POST /v1/xorbs/") for line in hub.log) == 1  # the second
    repo = hub.repos["datasets/tester/set"]
    assert repo.files == {p: (folder / p).read_bytes() for p in ("README.md", "data/c.bin")}
    assert not repo.private and repo.commits == 2


@pytest.mark.slow
def test_private_push_leaves_a_public_repository_alone(hub, folder):
    assert push(folder, "tester/open", hub.url).returncode == 0
    before = hub.repos["models/tester/open"].commits
    assert "is already public; nothing was pushed" in last_line(push(folder, "tester/open", hub.url, private=True))
    assert hub.repos["models/tester/open"].commits == before
    assert push(folder, "tester/closed", hub.url, private=True).returncode == 0
    assert hub.repos["models/tester/closed"].private


@pytest.mark.slow
def test_failures_are_one_line_with_the_remedy(hub, folder):
    said = last_line(push(folder, "tester/flowers", hub.url, HF_TOKEN="hf_someothertoken12345"))
    assert "tester/flowers: the Hub does not accept this token" in said
    assert "hf_someothertoken" not in said
    said = last_line(push(folder, "stranger/flowers", hub.url))
    assert "stranger/flowers: this token has no write access there" in said
    said = last_line(push(folder, "tester/flowers", "http://127.0.0.1:9"))
    assert "the Hub cannot be reached" in said and "HF_ENDPOINT" in said
    assert "HF_HUB_OFFLINE blocks" in last_line(push(folder, "tester/flowers", hub.url, HF_HUB_OFFLINE="1"))
    assert hub.repos == {}


def test_token_comes_from_the_environment_only(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_from_a_file")
    with pytest.raises(ConfigError, match="HF_TOKEN is not set"):
        hub_token("tester/flowers")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_older_name")
    assert hub_token("tester/flowers") == "hf_older_name"


@pytest.mark.parametrize(
    "name", ["flowers", "tester/", "/flowers", "a/b/c", "tester/flo wers", 'tester/"x"', "tester/\n"]
)
def test_names_that_are_no_repository_are_refused(name):
    with pytest.raises(ConfigError, match="write USER/NAME"):
        hub_token(name)


def test_nothing_is_pushed_without_being_asked(tmp_path):
    assert push_folder(tmp_path, PushOptions(), kind="model", old=[]) is None
    with pytest.raises(ConfigError, match="name one with push"):
        PushOptions(private=True)
