"""A hub on this machine: as much of huggingface.co's protocol as snapshot_download speaks, and its ways to fail."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pipelines

COMMIT = "c0ffee" * 6 + "c0de"
# What the real hub answers: status, X-Error-Code, X-Error-Message.
REFUSALS = {
    "gated": (403, "GatedRepo", "Access to this model is restricted."),
    "forbidden": (403, "", "You do not have access."),
    "unauthorised": (401, "", "Invalid credentials in Authorization header"),
    "not found": (404, "RepoNotFound", "Repository not found"),
    "vanished": (404, "RevisionNotFound", "Revision not found"),
    "failing": (500, "", "Internal error"),
}


@dataclass
class Hub:
    repos: dict[str, dict[str, bytes]]  # repository, "spaces/" before that of a Space -> name -> content
    fault: str = ""  # a key of REFUSALS, "cut off" or "tampered"
    only: str = ""  # what the names of files end with that are tampered with; all of them
    go: threading.Event = field(default_factory=threading.Event)  # cleared: files are not sent yet
    requests: list[str] = field(default_factory=list)
    gated: bool = False  # what its listing says
    url: str = ""


@contextmanager
def serve(repos: dict[str, dict[str, bytes]]):
    """Yields a running Hub; change its fields to change its behaviour."""
    hub = Hub(repos)
    hub.go.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go.set()
        server.shutdown()
        server.server_close()
        thread.join()


def forget(monkeypatch, home: Path) -> None:
    """Nothing is loaded, downloads go to a folder of their own, and no setting of this machine counts."""
    for table in ("_loaded", "_memory"):
        monkeypatch.setattr(pipelines, table, {})
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRUGBILD_MEMORY_MB", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setattr(pipelines.hub, "_reachable", None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        self.hub.requests.append(f"{self.command} {self.path}")
        parts = self.path.partition("?")[0].removeprefix("/api").removeprefix("/models").strip("/").split("/")
        names = 3 if parts[0] == "spaces" else 2
        repo, (action, _, *rest) = "/".join(parts[:names]), (*parts[names:], "", "")[: max(2, len(parts) - names)]
        files = self.hub.repos.get(repo)
        fault = "not found" if files is None else self.hub.fault
        if fault in REFUSALS:
            status, code, message = REFUSALS[fault]
            self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})
        elif action in ("revision", ""):
            files = [_sibling(_entry(name, content)) for name, content in files.items()]
            info = {"id": repo, "sha": COMMIT, "gated": self.hub.gated and "auto", "siblings": files}
            self._send(200, json.dumps(info).encode())
        elif action == "tree":
            self._send(200, json.dumps([_entry(name, content) for name, content in files.items()]).encode())
        elif (name := "/".join(rest)) not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._file(files[name])

    def _file(self, content: bytes):
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if self.command == "GET":
            self.hub.go.wait()
        if self.hub.fault == "tampered" and self.path.partition("?")[0].endswith(self.hub.only):
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = len(content) // 2 if self.hub.fault == "cut off" and self.command == "GET" else None
        self._send(206 if start else 200, content[start:], headers, cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: cut if len(body) > (cut or 0) else 0])
        self.close_connection = cut is not None

    def log_message(self, *_):
        pass


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(entry: dict) -> dict:
    """An entry of a tree as the information on a repository has it."""
    sibling = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
    lfs = entry.get("lfs")
    return sibling | ({"lfs": {**lfs, "sha256": lfs["oid"]}} if lfs else {})


def _entry(name: str, content: bytes) -> dict:
    sha256 = hashlib.sha256(content).hexdigest()
    entry = {"type": "file", "path": name, "size": len(content), "oid": git_sha1(content)}
    lfs = {"oid": sha256, "size": len(content), "pointerSize": 134}
    return entry | ({"lfs": lfs} if name.endswith(".safetensors") else {})
