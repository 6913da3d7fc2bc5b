"""A model hub on 127.0.0.1 for the real clients: huggingface_hub, transformers and datasets.

It answers what those clients ask of the real hub: files by HEAD and GET, with hashes, ranges and
the redirect of large files to another address; a repository's description, tree and paths. A test
can give any file a fault.
"""

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

# Stored at another address, by their SHA-256, as the hub's large files are.
LARGE = {".safetensors", ".bin", ".model", ".csv"}


@dataclass(frozen=True)
class Repository:
    """A folder served as the newest and only commit of a repository."""

    name: str
    folder: Path
    kind: str = "models"

    @property
    def commit(self) -> str:
        content = [f"{file} {_git_hash(path)}" for file, path in self.files().items()]
        return hashlib.sha1("\n".join(content).encode()).hexdigest()

    def files(self) -> dict[str, Path]:
        return {
            p.relative_to(self.folder).as_posix(): p
            for p in sorted(self.folder.rglob("*"))
            if p.is_file()
        }


@dataclass
class Fault:
    """What goes wrong with requests for a file.

    An HTTP status; the answer cut off, with one bit flipped, or without its last bytes; the
    connection reset; or no answer for a while. `times` is how many requests meet the fault; None
    means all.
    """

    status: int | None = None
    code: str | None = None
    cut_after: int | None = None
    flip_byte: int | None = None
    short_by: int | None = None
    reset_after: int | None = None
    hang: float | None = None  # seconds before the answer begins
    methods: tuple[str, ...] = ("GET",)
    times: int | None = None


@dataclass
class LoopbackHub:
    """The hub's state: repositories, faults by repository and file, and the requests so far."""

    repositories: list[Repository]
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def large_file(self, repository: Repository, file: str) -> str:
        """Return the address of a large file, on another host, as at the real hub."""
        place = f"{repository.kind}/{repository.name}/{repository.commit}/{file}"
        return f"http://localhost:{self.port}/large/{place}"

    def answers(self, name: str, file: str) -> list[tuple[str, int]]:
        """Return method and status of every answer about a repository's file."""
        asked = re.compile(rf"/{re.escape(name)}/.*{re.escape(file)}$")
        return [(method, status) for method, path, status in self.requests if asked.search(path)]

    def fault(self, method: str, name: str, file: str) -> Fault | None:
        """Return the fault that this request meets, and count it."""
        fault = self.faults.get(f"{name}/{file}")
        if fault is None or method not in fault.methods or fault.times == 0:
            return None
        if fault.times is not None:
            fault.times -= 1
        return fault


@contextmanager
def serve(repositories: list[Repository]) -> Iterator[LoopbackHub]:
    """Run the hub in a thread while the block runs."""
    hub = LoopbackHub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.port = server.server_port
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *arguments: object) -> None:
        """Print nothing: the tests read `hub.requests`."""

    def _answer(self) -> None:
        self.path_only = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name, revision = r"([\w.-]+(?:/[\w.-]+)?)", r"([^/]+)"
        if match := re.fullmatch(rf"/(datasets/)?{name}/resolve/{revision}/(.+)", self.path_only):
            self._file("datasets" if match[1] else "models", *match.groups()[1:])
        elif match := re.fullmatch(
            rf"/large/(models|datasets)/{name}/{revision}/(.+)", self.path_only
        ):
            self._large_file(*match.groups())
        elif match := re.fullmatch(
            rf"/api/(models|datasets)/{name}(?:/revision/{revision})?", self.path_only
        ):
            self._description(*match.groups())
        elif match := re.fullmatch(
            rf"/api/(models|datasets)/{name}/tree/{revision}(?:/(.*))?", self.path_only
        ):
            self._tree(*match.groups())
        elif match := re.fullmatch(
            rf"/api/(models|datasets)/{name}/paths-info/{revision}", self.path_only
        ):
            self._paths(*match.groups(), body)
        else:
            self._refuse(404, "RepoNotFound", "no such address")

    # Files

    def _file(self, kind: str, name: str, revision: str, file: str) -> None:
        if not (repository := self._repository(kind, name, revision)):
            return
        path, common = repository.files().get(file), {"X-Repo-Commit": repository.commit}
        fault = self.hub.fault(self.command, name, file)
        if fault and fault.status:
            self._refuse(fault.status, fault.code, f"a fault of {file}")
        elif path is None:
            self._refuse(404, "EntryNotFound", f"no file {file}", common)
        elif path.suffix in LARGE:
            large = {
                "X-Linked-Etag": f'"{_sha256(path)}"',
                "X-Linked-Size": str(path.stat().st_size),
            }
            self._send(
                302, b"", common | large | {"Location": self.hub.large_file(repository, file)}
            )
        else:
            self._send_file(path, common | {"ETag": f'"{_git_hash(path)}"'}, fault)

    def _large_file(self, kind: str, name: str, revision: str, file: str) -> None:
        if not (repository := self._repository(kind, name, revision)):
            return
        path, fault = repository.files()[file], self.hub.fault(self.command, name, file)
        if fault and fault.status:
            self._refuse(fault.status, fault.code, f"a fault of {file}")
        else:
            self._send_file(path, {"ETag": f'"{_sha256(path)}"'}, fault)

    def _send_file(self, path: Path, headers: dict[str, str], fault: Fault | None) -> None:
        content = bytearray(path.read_bytes())
        if fault and fault.flip_byte is not None:
            content[fault.flip_byte] ^= 1
        if fault and fault.short_by is not None:
            del content[-fault.short_by :]
        if fault and fault.hang is not None:
            time.sleep(fault.hang)
        status, total, start = 200, len(content), 0
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            status, start, end = 206, int(match[1]), int(match[2] or total - 1)
            content = content[start : end + 1]
            headers = headers | {"Content-Range": f"bytes {start}-{end}/{total}"}
        headers = headers | {"Accept-Ranges": "bytes"}
        if fault and fault.reset_after is not None:
            self._send(status, bytes(content), headers, only=fault.reset_after)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if fault and fault.cut_after is not None:  # the connection ends before the last bytes
            self._send(status, bytes(content), headers, only=fault.cut_after)
            self.close_connection = True
            return
        self._send(status, bytes(content), headers)

    # Descriptions

    def _description(self, kind: str, name: str, revision: str | None) -> None:
        if repository := self._repository(kind, name, revision):
            files = [{"rfilename": file} for file in repository.files()]
            identity = {
                "_id": repository.commit[:24],
                "id": name,
                "modelId": name,
                "private": False,
                "gated": False,
            }
            dates = {
                "lastModified": "2024-01-01T00:00:00.000Z",
                "createdAt": "2023-01-01T00:00:00.000Z",
            }
            rest = {
                "sha": repository.commit,
                "siblings": files,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
            self._send_json(identity | dates | rest)

    def _tree(self, kind: str, name: str, revision: str, under: str | None) -> None:
        fault = None if under else self.hub.fault(self.command, name, "tree")
        if fault and fault.status:
            self._refuse(fault.status, fault.code, "a fault of the list of files")
        elif repository := self._repository(kind, name, revision):
            files = repository.files()
            inside = [file for file in files if not under or file.startswith(f"{under}/")]
            if under and not inside:
                self._refuse(
                    404, "EntryNotFound", f"no folder {under}", {"X-Repo-Commit": repository.commit}
                )
            else:
                self._send_json([_entry(file, files[file]) for file in inside])

    def _paths(self, kind: str, name: str, revision: str, body: bytes) -> None:
        if repository := self._repository(kind, name, revision):
            asked = (
                json.loads(body)["paths"]
                if body[:1] == b"{"
                else parse_qs(body.decode()).get("paths", [])
            )
            self._send_json(
                [_entry(f, path) for f, path in repository.files().items() if f in asked]
            )

    # Answers

    def _repository(self, kind: str, name: str, revision: str | None) -> Repository | None:
        """Return the repository asked for, or answer that there is none."""
        for repository in self.hub.repositories:
            if (repository.kind, repository.name) == (kind, name):
                if revision in (None, "main", repository.commit):
                    return repository
                self._refuse(404, "RevisionNotFound", f"no revision {revision}")
                return None
        # The hub does not tell private repositories from those that do not exist.
        self._refuse(401, "RepoNotFound", "Repository not found")
        return None

    def _refuse(
        self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None
    ) -> None:
        code_header = {"X-Error-Code": code} if code else {}
        self._send(status, b"", {"X-Error-Message": message} | code_header | (headers or {}))

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], only: int | None = None
    ) -> None:
        self.hub.requests.append((self.command, self.path_only, status))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:only])


def _entry(file: str, path: Path) -> dict:
    entry = {"type": "file", "path": file, "size": path.stat().st_size, "oid": _git_hash(path)}
    if path.suffix in LARGE:
        entry["lfs"] = {"oid": _sha256(path), "size": path.stat().st_size, "pointerSize": 134}
    return entry


_HASHES: dict[tuple[str, float, str], str] = {}


def _hash_once(path: Path, kind: str, compute: Callable[[bytes], str]) -> str:
    key = (str(path), path.stat().st_mtime, kind)
    if key not in _HASHES:
        _HASHES[key] = compute(path.read_bytes())
    return _HASHES[key]


def _sha256(path: Path) -> str:
    return _hash_once(path, "sha256", lambda content: hashlib.sha256(content).hexdigest())


def _git_hash(path: Path) -> str:
    return _hash_once(
        path, "git", lambda content: hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    )
