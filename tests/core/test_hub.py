"""Without a hub to reach, loading fails within seconds and in one line, or uses what is there."""

import logging
import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import datasets
import pytest
import timm
from huggingface_hub import constants, hf_hub_download

from gpt4image.core import hub
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.core.hub import HubError, hub_access
from gpt4image.embed.encoders import load_encoder
from gpt4image.images import load_images
from gpt4image.llm.local.loading import DescribeError, load
from gpt4image.train.backbone import create_model


@contextmanager
def silent():
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1], []


@contextmanager
def answering(status):
    """A server that answers every request with one status."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815 - the server's name

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, asked
    server.shutdown()
    server.server_close()


@contextmanager
def refusing():
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port, []


@pytest.fixture
def go_online(monkeypatch, tmp_path):
    """Return a function that lets the libraries ask a hub on some port, with an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "SECONDS", 0.3)

    def go_online(port):
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )

    hub.find_fault.cache_clear()
    yield go_online
    hub.find_fault.cache_clear()


@pytest.mark.parametrize(
    ("server", "fault"), [(silent(), "timed out|no answer"), (answering(503), "status 503"), (refusing(), "refused")]
)
def test_unreachable_hub_is_asked_once_and_told_in_one_line(server, fault, go_online, tmp_path, capfd, caplog):
    calls = [
        lambda: load_images("nobody/nothing"),
        lambda: load_images("hf:nothing"),
        lambda: create_model("test_resnet", pretrained=True),
        lambda: create_model("hf-hub:nobody/nothing", pretrained=False),
        lambda: load_encoder("nobody/nothing"),
        lambda: load_encoder("open-clip:hf-hub:nobody/nothing"),
        lambda: load_encoder("open-clip:RN50/openai"),
        lambda: load("nobody/nothing", "cpu", "auto"),
    ]
    with server as (port, asked):
        go_online(port)
        with caplog.at_level(logging.WARNING):
            for call in calls:
                with pytest.raises(
                    (ConfigError, DataError, DescribeError), match=rf"hub does not answer \(.*({fault})"
                ):
                    call()
        assert asked in ([], ["/"])
    printed = " ".join(capfd.readouterr().err.split())
    assert printed.count("hub does not answer") == 1
    assert {record.name for record in caplog.records} <= {"gpt4image.core.hub"}


def test_cached_files_are_used_without_a_hub(go_online, tmp_path):
    commit = "0" * 40
    folder = tmp_path / "cache" / "models--me--mine"
    for path, text in ((f"snapshots/{commit}/a.txt", "kept"), ("refs/main", commit)):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)
    with refusing() as (port, _):
        go_online(port)
        with hub_access():
            found = hf_hub_download("me/mine", "a.txt", cache_dir=str(tmp_path / "cache"))
    assert Path(found).read_text() == "kept"
    assert not constants.HF_HUB_OFFLINE, "the libraries are as before"


def test_answering_hub_is_left_to_the_libraries(go_online, capfd):
    with answering(404) as (port, asked):
        go_online(port)
        with pytest.raises(ConfigError, match=r"cannot be loaded: (?!the Hugging Face hub does not answer)"):
            load_encoder("nobody/nothing")
        assert len(asked) > 1
    assert "does not answer" not in capfd.readouterr().err


def test_errors_that_have_nothing_to_do_with_the_hub_stay(go_online):
    with refusing() as (port, _):
        go_online(port)
        with pytest.raises(RuntimeError, match="out of memory"), hub_access():
            raise RuntimeError("out of memory")
        with pytest.raises(HubError), hub_access():
            raise RuntimeError("failed") from OSError("no file")


def test_mistyped_local_names_ask_nobody(go_online, tmp_path, monkeypatch):
    (tmp_path / "photos" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm, "create_model", None)
    with answering(200) as (port, asked):
        go_online(port)
        with pytest.raises(DataError, match=r"phtos does not exist\. Did you mean photos\?"):
            load_images("phtos")
        with pytest.raises(DataError, match=r"photos/trian does not exist\. Did you mean photos/train\?"):
            load_images("photos/trian")
        with pytest.raises(ConfigError, match=r"Did you mean 'minilm'.*write sentence-transformers:minilmm"):
            load_encoder("minilmm")
        with pytest.raises(ConfigError, match="Did you mean 'test_resnet'"):
            create_model("test_resnett", pretrained=True)
        assert not asked
