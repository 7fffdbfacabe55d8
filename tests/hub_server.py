"""A small Hugging Face Hub on this machine: a real HTTP server with what a push and a pull ask of it, and with faults on demand.

Endpoints: whoami, repository creation, model info, preupload, large files (LFS, basic transfer), commits (NDJSON), YAML check,
files.  A process that talks to it needs `environment()`: huggingface_hub reads these names when it is imported.
"""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import llm_unlearn

TOKEN = "hf_of_the_tests"
LARGE = (".safetensors", ".png")
LICENCES = ("apache-2.0", "mit", "other", "cc-by-4.0")


@dataclass
class Repo:
    """One model repository."""

    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0
    private: bool = False
    gated: bool = False

    @property
    def head(self) -> str:
        """The last commit."""
        return f"{self.commits:040x}"


@dataclass
class Hub:
    """The server's state; `fault` maps a regular expression over "METHOD path" to "drop", "hold" or a status."""

    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    fault: dict[str, str | int] = field(default_factory=dict)
    url: str = ""
    held: threading.Event = field(default_factory=threading.Event)  # set while a request is on hold
    release: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Start to serve."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Return the variables of a process that is to talk to this server and to nothing else."""
        names = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        names |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        names |= {"PYTHONPATH": str(Path(llm_unlearn.__file__).parents[1])}  # this checkout, whatever is installed
        return names | ({"HF_TOKEN": token} if token else {})


def yaml_faults(content: str) -> list[str]:
    """Return what the Hub's own check of a card's header would refuse (the parts of its schema that a card of ours uses)."""
    import yaml

    header = yaml.safe_load(content.split("---\n")[1])
    faults = [
        f"{name} must be text" for name in ("library_name", "pipeline_tag") if not isinstance(header.get(name), str)
    ]
    if not all(isinstance(tag, str) for tag in header.get("tags", ())):
        faults.append("tags must be texts")
    if "license" in header and header["license"] not in LICENCES:
        faults.append(f"license {header['license']!r} is none of the Hub's")
    if "base_model" in header and not re.fullmatch(r"[\w.-]+/[\w.-]+", header["base_model"]):
        faults.append(f"base_model {header['base_model']!r} is no model id")
    if header.get("base_model_relation") not in (None, "adapter", "finetune", "merge", "quantized"):
        faults.append("base_model_relation")
    for model in header.get("model-index", ()):
        faults += [] if isinstance(model.get("name"), str) else ["model-index without a name"]
        for result in model.get("results", ()):
            if not (result.get("task", {}).get("type") and result.get("dataset", {}).get("name")):
                faults.append("a result without task.type or dataset.name")
            if not re.fullmatch(r"[\w./-]+", str(result.get("dataset", {}).get("type"))):
                faults.append("a result's dataset.type")
            faults += [
                "a metric" for m in result["metrics"] if not m.get("type") or not isinstance(m["value"], int | float)
            ]
    return faults


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _send(self, code: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
            raw = isinstance(content, bytes)
            data = content if raw else b"" if content is None else json.dumps(content).encode()
            self.send_response(code)
            kind = "application/octet-stream" if raw else "application/json"
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _any(self) -> None:
            path, body = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path), self._body()
            hub.requests.append((self.command, self.path, dict(self.headers), body))
            for pattern, what in hub.fault.items():
                if re.search(pattern, f"{self.command} {path}"):
                    if what == "hold":
                        hub.held.set()
                        hub.release.wait(30)
                    if isinstance(what, str):
                        self.close_connection = True
                        self.connection.close()
                        return
                    return self._send(what, {"error": "a fault"})
            self._send(*_answer(hub, self.command, path, body, self.headers.get("Authorization")))

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _any

        def handle_one_request(self) -> None:
            """Serve one; a connection that the test dropped is no news."""
            try:
                super().handle_one_request()
            except (OSError, ValueError):
                self.close_connection = True

    return Handler


Answer = tuple[Any, ...]  # status, content, headers


def _answer(hub: Hub, method: str, path: str, body: bytes, token: str | None) -> Answer:
    if found := re.match(r"/lfs-put/(\w+)$", path):
        if hashlib.sha256(body).hexdigest() != found[1]:
            return 400, {"error": "another digest"}
        hub.blobs[found[1]] = body
        return 200, {}
    known = token == f"Bearer {TOKEN}"
    if token is not None and not known:
        return 401, {"error": "Invalid username or password."}
    if path == "/api/validate-yaml":
        faults = yaml_faults(json.loads(body)["content"])
        return 200, {"errors": [{"message": each} for each in faults], "warnings": []}
    if path == "/api/repos/create":
        return _create(hub, json.loads(body), known)
    if found := re.match(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch$", path):
        return 200, {"transfer": "basic", "objects": [_large(hub, each) for each in json.loads(body)["objects"]]}
    found = re.match(r"/api/models/([^/]+/[^/]+)(?:/(.*))?$", path)
    file = re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path)
    name = found[1] if found else file[1] if file else ""
    repo = hub.repos.get(name)
    if repo is None or (repo.private and not known):
        status = 404 if known else 401
        return status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
    if repo.gated and file:
        return 403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"}
    if file:
        return _file(repo, file[2], file[3])
    return _model(hub, name, repo, (found[2] or "") if found else "", body)


def _create(hub: Hub, asked: dict[str, Any], known: bool) -> Answer:
    if not known:
        return 401, {"error": "log in"}
    name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
    if name.startswith("stranger/"):
        return 403, {"error": "You don't have the rights to create a model under the namespace stranger"}
    if name in hub.repos:
        return 409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"}
    hub.repos[name] = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
    hub.repos[name].files[".gitattributes"] = b"*.safetensors filter=lfs\n"
    return 200, {"url": f"{hub.url}/{name}", "id": name, "name": name}


def _large(hub: Hub, each: dict[str, Any]) -> dict[str, Any]:
    upload = {"actions": {"upload": {"href": f"{hub.url}/lfs-put/{each['oid']}"}}}
    return {"oid": each["oid"], "size": each["size"], **({} if each["oid"] in hub.blobs else upload)}


def _file(repo: Repo, revision: str, name: str) -> Answer:
    head = {"X-Repo-Commit": repo.head}
    if revision not in ("main", repo.head):
        return 404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"}
    if name not in repo.files:
        return 404, {"error": "no file"}, {"X-Error-Code": "EntryNotFound", **head}
    content = repo.files[name]
    tag = {
        "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
        "X-Linked-Size": str(len(content)),
        "Accept-Ranges": "bytes",
    }
    return 200, content, {**tag, **head}


def _model(hub: Hub, name: str, repo: Repo, rest: str, body: bytes) -> Answer:
    if rest.startswith("preupload/"):
        files = json.loads(body)["files"]
        return 200, {"files": [_regular(repo, each["path"]) for each in files]}
    if rest.startswith("commit/"):
        return _commit(hub, name, repo, [json.loads(line) for line in body.splitlines()])
    if revision := re.match(r"revision/([^/]+)$", rest):
        if revision[1] not in ("main", repo.head):
            return 404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"}
    elif rest.startswith("tree/"):
        files = repo.files.items()
        return 200, [{"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for f, c in files]
    elif rest:
        return 404, {"error": f"unknown endpoint {rest}"}
    siblings = [{"rfilename": each} for each in repo.files]
    info = {"_id": "0", "id": name, "modelId": name, "sha": repo.head, "private": repo.private, "siblings": siblings}
    return 200, {**info, "tags": [], "downloads": 0, "likes": 0}


def _regular(repo: Repo, path: str) -> dict[str, Any]:
    oid = None
    if path in repo.files:
        content = repo.files[path]
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {
        "path": path,
        "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
        "shouldIgnore": False,
        "oid": oid,
    }


def _commit(hub: Hub, name: str, repo: Repo, lines: list[dict[str, Any]]) -> Answer:
    """All of the commit's files at once, or none."""
    files = dict(repo.files)
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "header" and value.get("parentCommit") not in (None, repo.head):
            return 412, {"error": "A commit has happened since."}
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in hub.blobs:
                return 400, {"error": f"{value['path']} was not uploaded"}
            files[value["path"]] = hub.blobs[value["oid"]]
        elif key == "deletedFile":
            files.pop(value["path"], None)
    repo.files = files
    repo.commits += 1
    return 200, {
        "success": True,
        "commitOid": repo.head,
        "commitUrl": f"{hub.url}/{name}/commit/{repo.head}",
        "hookOutput": "",
    }
