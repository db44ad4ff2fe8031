"""A loopback server with the Hugging Face Hub's protocol: create, preupload, LFS, Xet, commit, tree, resolve.

with HubServer() as hub:
    ...  # run a process with HF_ENDPOINT=hub.url and HF_TOKEN=TOKEN; then look at hub.repos and hub.log
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

TOKEN = "hf_loopbacktokenforthistest"
XET_TOKEN = "short-lived-token-of-the-storage"
USER = "tester"
KINDS = ("models", "datasets")


@dataclass
class Repo:
    """A repository: its files by path, and whether it is private."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def sha(self) -> str:
        """Name of the newest commit."""
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


class HubServer:
    """The server in a thread. Large files are those that are not text, as on the Hub.

    Attributes:
        repos: the repositories by kind and name, such as `models/tester/flowers`.
        log: method and path of every request.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[str] = []

    def __enter__(self) -> Self:
        hub = self

        class Bound(Handler):
            server_state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server_state: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""

    def handle_request(self) -> None:
        """Answer by the first route that fits."""
        hub, path = self.server_state, urlsplit(self.path).path
        hub.log.append(f"{self.command} {path}")
        self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.content = self.read_chunks()
        open_to_all = (self.command in ("GET", "HEAD") and "-token/" not in path) or path.startswith("/lfs/")
        token = XET_TOKEN if re.match("/v[12]/", path) else TOKEN
        if not open_to_all and self.headers.get("Authorization") != f"Bearer {token}":
            return self.answer(401, {"error": "Invalid username or password."})
        for pattern, method in ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                return method(self, **found.groupdict())
        return self.answer(404, {"error": "not found"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815 - the names that the base class calls

    def read_chunks(self) -> bytes:
        """Read a body of unknown length."""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, body: object, **headers: str) -> None:
        """Send a body, as JSON unless it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def create(self) -> None:
        asked = json.loads(self.content)
        name = f"{asked['organization']}/{asked['name']}"
        place = f"{asked.get('type') or 'model'}s/{name}"
        if asked["organization"] != USER:
            return self.answer(403, {"error": f"You don't have the rights to create a model under {name}"})
        url = f"{self.server_state.url}/{place.removeprefix('models/')}"
        if place in self.server_state.repos:
            return self.answer(409, {"error": "You already created this repo", "url": url})
        private = asked.get("private") is True or asked.get("visibility") == "private"
        self.server_state.repos[place] = Repo(private)
        return self.answer(200, {"url": url, "id": name})

    def info(self, place: str) -> None:
        repo = self.server_state.repos.get(place)
        if repo is None:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        siblings = [{"rfilename": path} for path in repo.files]
        name = place.partition("/")[2]
        return self.answer(200, {"id": name, "private": repo.private, "sha": repo.sha, "siblings": siblings})

    def tree(self, place: str) -> None:
        files = self.server_state.repos[place].files
        self.answer(200, [{"type": "file", "path": p, "size": len(d), "oid": "0" * 40} for p, d in files.items()])

    def validate(self) -> None:
        self.answer(200, {"warnings": [], "errors": []})

    def preupload(self, place: str) -> None:
        assert place in self.server_state.repos
        files = json.loads(self.content)["files"]
        modes = {file["path"]: mode_of(base64.b64decode(file["sample"])) for file in files}
        self.answer(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})

    def batch(self, place: str) -> None:
        asked = json.loads(self.content)
        objects = asked["objects"]
        if "xet" in asked.get("transfers", ()):
            return self.answer(200, {"transfer": "xet", "objects": objects})
        actions = {"upload": {"href": f"{self.server_state.url}/lfs/{{oid}}"}}
        found = [
            {**each, "actions": {"upload": {"href": actions["upload"]["href"].format(oid=each["oid"])}}}
            for each in objects
        ]
        return self.answer(200, {"transfer": "basic", "objects": found})

    def xet_token(self, place: str) -> None:
        granted = {"casUrl": self.server_state.url, "accessToken": XET_TOKEN, "exp": 2**32}
        headers = {"X_Xet_Cas_Url": granted["casUrl"], "X_Xet_Access_Token": XET_TOKEN}
        self.answer(200, granted, X_Xet_Token_Expiration=str(granted["exp"]), **headers)

    def store_xorb(self) -> None:
        """Keep a file that is sent as one xorb, if its chunks are not compressed: what does not shrink is sent so."""
        data, rest = b"", self.content
        while rest[:1] == b"\0":  # a chunk's header: version, length, compression, original length
            length = int.from_bytes(rest[1:4], "little")
            assert rest[4] == 0 and int.from_bytes(rest[5:8], "little") == length
            data, rest = data + rest[8 : 8 + length], rest[8 + length :]
        self.server_state.blobs[hashlib.sha256(data).hexdigest()] = data
        self.answer(200, {"was_inserted": True})

    def store_shard(self) -> None:
        self.answer(200, {"result": 1})

    def no_such_chunk(self) -> None:
        self.answer(404, {"error": "not found"})

    def store(self, oid: str) -> None:
        assert hashlib.sha256(self.content).hexdigest() == oid
        self.server_state.blobs[oid] = self.content
        self.answer(200, b"")

    def commit(self, place: str) -> None:
        repo = self.server_state.repos[place]
        for line in map(json.loads, self.content.splitlines()):
            value = line["value"]
            match line["key"]:
                case "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    repo.files[value["path"]] = self.server_state.blobs[value["oid"]]
                case "deletedFile":
                    del repo.files[value["path"]]
        repo.commits += 1
        url = f"{self.server_state.url}/{place.removeprefix('models/')}/commit/{repo.sha}"
        self.answer(200, {"success": True, "commitOid": repo.sha, "commitUrl": url})

    def resolve(self, place: str, file: str) -> None:
        repo = self.server_state.repos.get(place if place.startswith("datasets/") else f"models/{place}")
        if repo is None:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if file not in repo.files:
            return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        data = repo.files[file]
        return self.answer(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=repo.sha)


def mode_of(sample: bytes) -> str:
    """Return how the Hub stores a file that begins like this."""
    return "lfs" if b"\0" in sample else "regular"


PLACE = r"(?P<place>(?:models|datasets)/[^/]+/[^/]+)"
ROUTES = (
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/api/{PLACE}/preupload/main", Handler.preupload),
    (rf"/api/{PLACE}/commit/main", Handler.commit),
    (rf"/api/{PLACE}/tree/[^/]+", Handler.tree),
    (rf"/api/{PLACE}/xet-write-token/main", Handler.xet_token),
    (r"/v1/xorbs/default/[0-9a-f]{64}", Handler.store_xorb),
    (r"/v1/shards", Handler.store_shard),
    (r"/v1/chunks/default-merkledb/[0-9a-f]{64}", Handler.no_such_chunk),
    (rf"/api/{PLACE}(?:/revision/[^/]+)?", Handler.info),
    (r"/(?P<place>.+)\.git/info/lfs/objects/batch", Handler.batch),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.store),
    (r"/(?P<place>(?:datasets/)?[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)", Handler.resolve),
)
