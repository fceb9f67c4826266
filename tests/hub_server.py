"""A stand-in for the Hugging Face hub: a web server in a thread, to which the real ``huggingface_hub`` pushes and from
which it pulls.

``conftest.hub`` is a fixture of it. ``huggingface_hub`` reads its settings when it is imported, so that what talks to
the hub runs in a process of its own, which knows this hub alone and has a cache of its own below ``tmp_path``:

    def test_a_model_is_pushed_and_pulled(hub):
        hub.create("me/model", {"config.json": b"{}"})          # a repository with one commit, without any client
        hub.python("from huggingface_hub import HfApi\n"        # or by the real client: prints are returned
                   "api = HfApi()\n"
                   "api.create_repo('me/model', exist_ok=True)\n"
                   "api.upload_folder(repo_id='me/model', folder_path=sys.argv[1])", folder)
        done = hub.command("evaluate", "--from_pretrained", "hf://me/model")   # volta-switch evaluate
        assert done.returncode == 0, done.stderr

``python`` and ``command`` take ``offline=True``, ``cache=FOLDER`` and environment variables. What the hub has:
``hub.files("me/model", "main")``, ``hub.commit_of(...)``; a tag: ``hub.repositories["me/model"].refs["v1"] = commit``.
What went wrong and what was asked: see ``HubServer``.

It knows models alone, no tokens, and stores all commits whole. Files that end in .bin and .safetensors are large: they
are uploaded and linked as Git LFS has them. Xet, by which the hub's own servers store them today, is switched off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TESTS = Path(__file__).parent
SECONDS = "2"  # that clients wait for an answer


@dataclass
class Repository:
    """All commits of a model, and what branches and tags name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def add(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Makes a commit of these files, and of these alone; returns its name."""
        listed = json.dumps([len(self.commits), *((name, _sha256(files[name])) for name in sorted(files))])
        commit = hashlib.sha1(listed.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[branch] = commit
        return commit

    def resolved(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


class HubServer:
    """The server of one hub.

    Attributes:
        url: what ``HF_ENDPOINT`` says.
        repositories: owner/name -> repository.
        fault: a status for every request, or "silent": it never answers.
        refused: owner/name -> "private", or "gated".
        cuts: a file's name -> how many bytes its next downloads send before the connection is cut, in order.
        wrong: names of files that are sent with other bytes.
        asked: the number of requests: "HEAD vocab.txt" of a file, "GET revision/main" of the list of a revision's,
            "POST commit" and others of a push.
        sent: a file's name -> bytes of it that were sent.
    """

    def __init__(self, folder: Path) -> None:
        """``folder``: where clients have their caches."""
        self.folder = folder
        self.repositories: dict[str, Repository] = {}
        self.fault: int | str = 0
        self.refused: dict[str, str] = {}
        self.cuts: dict[str, list[int]] = {}
        self.wrong: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.uploads: dict[str, bytes] = {}  # by SHA-256
        self.over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuses all connections from now on."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def create(self, name: str, files: Mapping[str, bytes] | Path, branch: str = "main") -> str:
        """Makes a commit of files, or of a folder's, and the repository where there is none; returns its name."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}
        return self.repositories.setdefault(name, Repository()).add(files, branch)

    def commit_of(self, name: str, revision: str = "main") -> str:
        return self.repositories[name].refs[revision]

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[name]
        return repository.commits[repository.resolved(revision) or ""]

    def environment(self, offline: bool = False, cache: Path | None = None, **changes: str) -> dict[str, str]:
        """Returns the environment of a process that knows this hub alone."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own |= {"HF_ENDPOINT": self.url, "HF_HOME": str(cache or self.folder / "hf"), "HF_TOKEN": "hf_of_a_test"}
        own |= {"HF_HUB_ETAG_TIMEOUT": SECONDS, "HF_HUB_DOWNLOAD_TIMEOUT": SECONDS, "HF_HUB_DISABLE_XET": "1"}
        path = os.pathsep.join((str(TESTS.parent), str(TESTS)))
        return own | {
            **{"HF_HUB_OFFLINE": str(int(offline)), "NO_PROXY": "127.0.0.1,localhost", "PYTHONPATH": path},
            **changes,
        }

    def python(self, code: str, *args: Any, **options: Any) -> str:
        """Runs a program in a process of its own and returns what it prints; ``sys``, ``json`` are imported."""
        command = [sys.executable, "-c", f"import json, sys\n{code}", *map(str, args)]
        done = self._run(command, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def command(self, *args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs ``volta-switch`` with these arguments, in ``folder``."""
        return self._run([sys.executable, "-m", "volta_switch", *map(str, args)], **options)

    def _run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        environment = self.environment(**options)
        return subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=100)


class _Handler(BaseHTTPRequestHandler):
    """One request; ``self.path`` is ``/api/...``, ``/<owner>/<name>/resolve/...``, ``/lfs/...`` or a Git LFS batch."""

    hub: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0]).lstrip("/")
        content = self._body()
        kind, _, rest = path.partition("/")
        if kind == "api" and not rest.startswith(("models/", "repos/", "validate-yaml", "whoami")):
            self._refuse(404)  # the library has questions of its own
            return
        self.hub.asked[f"{self.command} {_described(path)}"] += 1
        if self.hub.fault == "silent":
            self.hub.over.wait(120)
        elif self.hub.fault:
            self._refuse(int(self.hub.fault))
        elif kind == "lfs":
            self._large(rest, content)
        elif kind == "api":
            self._api(rest, content)
        elif "/resolve/" in path:
            name, _, rest = path.partition("/resolve/")
            self._resolve(name, rest)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._json(
                {"transfer": "basic", "objects": [self._upload(each) for each in json.loads(content)["objects"]]}
            )
        else:
            self._refuse(404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _api(self, path: str, content: bytes) -> None:
        if path == "repos/create":
            asked = json.loads(content)
            name = "/".join((asked.get("organization") or "me", asked["name"]))
            there = name in self.hub.repositories
            if not there:
                self.hub.create(name, {})
            self._json({"url": f"{self.hub.url}/{name}", "name": name}, 409 if there else 200)
        elif path == "validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "whoami-v2":
            self._json({"type": "user", "name": "me", "orgs": []})
        else:
            owner, name, *rest = path.split("/")[1:]
            self._model(f"{owner}/{name}", rest[0] if rest else "revision", "/".join(rest[1:]) or "main", content)

    def _model(self, name: str, what: str, revision: str, content: bytes) -> None:
        if (repository := self._readable(name)) is None:
            return
        commit = repository.resolved(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        files = repository.commits[commit]
        if what == "revision":
            listed = [{"rfilename": path, **_described_file(path, files[path])} for path in sorted(files)]
            self._json({"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": listed})
        elif what == "tree":
            listed = [{"type": "file", "path": path, **_described_file(path, files[path])} for path in sorted(files)]
            self._json([{**each, "oid": each.pop("blobId")} for each in listed])
        elif what == "preupload":
            asked = [each["path"] for each in json.loads(content)["files"]]
            modes = {path: "lfs" if _is_large(path) else "regular" for path in asked}
            self._json({"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in asked]})
        elif what == "commit":
            made = repository.add(self._changed(files, content), revision)
            self._json({"success": True, "commitOid": made, "commitUrl": f"{self.hub.url}/{name}/commit/{made}"})
        else:
            self._refuse(404)

    def _changed(self, files: Mapping[str, bytes], content: bytes) -> dict[str, bytes]:
        """Returns a commit's files after the changes that a push sends, one JSON object a line."""
        changed = dict(files)
        for line in content.splitlines():
            key, value = (each := json.loads(line))["key"], each["value"]
            if key == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                changed[value["path"]] = self.hub.uploads[value["oid"]]
            elif key == "deletedFile":
                del changed[value["path"]]
        return changed

    def _upload(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Returns where a large file is to be sent; nowhere where it is there."""
        if wanted["oid"] in self.hub.uploads:
            return {**wanted}
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}

    def _resolve(self, name: str, rest: str) -> None:
        if (repository := self._readable(name)) is None:
            return
        revision, _, file = rest.rpartition("/")
        commit = repository.resolved(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        content = repository.commits[commit].get(file)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            self._refuse(404, "EntryNotFound", headers)
        elif _is_large(file):
            other = self.hub.url.replace("127.0.0.1", "localhost")  # large files come from another host
            self.hub.uploads[_sha256(content)] = content
            headers |= {"X-Linked-Etag": f'"{_sha256(content)}"', "X-Linked-Size": str(len(content))}
            self._send(302, b"", headers | {"Location": f"{other}/lfs/{_sha256(content)}/{file}"})
        else:
            self._send_file(file, content, headers | {"ETag": f'"{_git_sha1(content)}"'})

    def _large(self, rest: str, content: bytes) -> None:
        digest, _, file = rest.partition("/")
        if self.command == "PUT":
            right = _sha256(content) == digest
            if right:
                self.hub.uploads[digest] = content
            self._send(200 if right else 400)
        else:
            self._send_file(file, self.hub.uploads[digest], {"ETag": f'"{digest}"'})

    def _send_file(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        """Sends a file, or the end of it that is asked for, unless the test wants less, or other bytes."""
        if file in self.hub.wrong:
            content = bytes(byte ^ 1 for byte in content)
        status, whole = 200, len(content)
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            status, content = 206, content[start:]
            headers |= {"Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
        headers |= {"Content-Length": str(len(content)), "Accept-Ranges": "bytes"}
        if self.command == "GET":
            if self.hub.cuts.get(file):
                content = content[: self.hub.cuts[file].pop(0)]
            self.hub.sent[file] += len(content)
        self._send(status, content, headers)

    def _readable(self, name: str) -> Repository | None:
        """Returns a repository; None, and the answer is sent, where there is none or it is kept from the client."""
        refused = self.hub.refused.get(name)
        if refused == "gated":
            self._refuse(403, "GatedRepo")
        elif refused or name not in self.hub.repositories:
            self._refuse(401, "RepoNotFound")  # which the hub says of a private one, too
        else:
            return self.hub.repositories[name]
        return None

    def _refuse(self, status: int, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        self._send(status, b"", {**(headers or {}), **({"X-Error-Code": code} if code else {})})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _described(path: str) -> str:
    """Returns what a request asks for, as ``HubServer.asked`` names it."""
    if path.startswith("api/models/"):
        what = path.split("/")[4:]
        return "/".join(what) if what and what[0] == "revision" else what[0] if what else "revision"
    return path.removeprefix("api/") if path.startswith("api/") else path.rpartition("/")[2]


def _described_file(path: str, content: bytes) -> dict[str, Any]:
    """Returns what the hub says of a file."""
    if not _is_large(path):
        return {"size": len(content), "blobId": _git_sha1(content)}
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{_sha256(content)}\nsize {len(content)}\n".encode()
    )
    lfs = {"sha256": _sha256(content), "oid": _sha256(content), "size": len(content), "pointerSize": len(pointer)}
    return {"size": len(content), "blobId": _git_sha1(pointer), "lfs": lfs}


def _is_large(path: str) -> bool:
    return path.endswith((".bin", ".safetensors"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
