"""A Hugging Face hub on this machine: a few repositories behind the four addresses that the client asks for."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

import pytest

FIRST, SECOND = "1" * 40, "2" * 40


@dataclass
class Hub:
    """Repositories by "models/ID" or "datasets/ID", each commit -> path -> content. `main` is the last commit.

    fault: what goes wrong with the request for a path: a status with headers, or "hang", "cut", "portal", "no commit".
    large: the end of the names of files stored by their sha256, as git-lfs does.
    asked: every request so far.
    """

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    fault: object = lambda path: None
    large: str = ".safetensors"
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""


class _Answers(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("authorization"))
        fault = self.hub.fault(path)  # pyright: ignore[reportCallIssue]
        if fault == "hang":
            Event().wait(5)
        elif fault == "portal":
            self._send(200, b"<html>log in to the wireless network</html>")
        elif fault == "no commit":
            self._json({"id": "org/rows"})
        elif isinstance(fault, tuple):
            self._send(fault[0], b"", fault[1])
        else:
            self._answer(path.removeprefix("/"), cut=fault == "cut")

    do_HEAD = do_GET

    def _answer(self, path: str, cut: bool) -> None:
        name = next((name for name in self.hub.repositories if name.removeprefix("models/") in path), None)
        if name is None:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        commits = self.hub.repositories[name]
        tail = path.split(name.removeprefix("models/"), 1)[1].removeprefix("/")
        verb, _, rest = tail.partition("/")
        commit, _, file = rest.partition("/")
        commit = list(commits)[-1] if commit in ("", "main") else commit
        if commit not in commits:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = commits[commit]
        if verb in ("", "revision"):
            self._json({"id": name.split("/", 1)[1], "sha": commit, "siblings": [{"rfilename": f} for f in files]})
        elif verb == "tree":
            self._json([self._entry(file, content) for file, content in files.items()])
        elif file not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            entry = self._entry(file, files[file])
            etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
            self._send(200, files[file], {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, cut)

    def _entry(self, file: str, content: bytes) -> dict:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": file, "size": len(content), "oid": oid}
        if file.endswith(self.hub.large):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return entry

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve the hub on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    server.daemon_threads = True
    server.block_on_close = False
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def client_of(hub: Hub, home: Path) -> Iterator[None]:
    """Point the hub's client, in this process, to the hub and to an empty cache in `home`."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.delenv("HF_TOKEN", raising=False)
        yield
