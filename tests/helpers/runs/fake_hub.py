"""A hub on this machine, with the routes of the Hugging Face hub that huggingface_hub 2.4 calls."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Revisions of a repository, by their number; the last one is the newest."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files):
        revision = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[revision] = dict(files)
        self.tags["main"] = revision

    def find(self, revision):
        revision = self.tags.get(revision, revision)
        return (revision, self.commits[revision]) if revision in self.commits else (None, None)


class FakeHub(ThreadingHTTPServer):
    """Serves repositories; `requests` has the method and the path of every request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.objects = {}, {}
        self.requests, self.authorizations = [], set()
        self.refuse = 0
        """Status with which every request is refused, 0 for none."""

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status, code=""):
        self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        hub = self.server
        hub.requests.append((self.command, path))
        hub.authorizations.add(self.headers.get("Authorization"))
        if hub.refuse:
            return self.fail(hub.refuse)
        for method, pattern, act in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return act(self, hub, **match.groupdict())
        return self.fail(404, "NoSuchRoute")

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def create(self, hub):
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in hub.repositories:
            return self.answer({"error": "exists", "url": f"{hub.address}/{name}"}, 409)
        repository = Repository(private=wanted.get("visibility") == "private")
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        hub.repositories[name] = repository
        return self.answer({"url": f"{hub.address}/{name}", "name": name})

    def find(self, hub, name, revision="main"):
        """Returns the repository, a revision and its files; answers where there are none."""
        repository = hub.repositories.get(name)
        if repository is None:
            self.fail(404, "RepoNotFound")
            return None, None, None
        found, files = repository.find(revision)
        if found is None:
            self.fail(404, "RevisionNotFound")
        return repository, found, files

    def describe(self, hub, name, revision="main"):
        repository, found, files = self.find(hub, name, revision)
        if found:
            siblings = [{"rfilename": path} for path in files]
            facts = {"id": name, "sha": found, "private": repository.private}
            self.answer({**facts, "siblings": siblings})

    def list(self, hub, name, revision):
        _, found, files = self.find(hub, name, revision)
        if found:
            self.answer([_entry(path, content) for path, content in files.items()])

    def preupload(self, hub, name, revision):
        wanted = [file["path"] for file in json.loads(self.body)["files"]]
        modes = ["lfs" if path.endswith(".safetensors") else "regular" for path in wanted]
        files = [
            {"path": path, "uploadMode": mode, "shouldIgnore": False}
            for path, mode in zip(wanted, modes, strict=True)
        ]
        self.answer({"files": files})

    def batch(self, hub, name):
        objects = json.loads(self.body)["objects"]
        for each in objects:
            each["actions"] = {"upload": {"href": f"{hub.address}/object/{each['oid']}"}}
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, hub, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        hub.objects[oid] = self.body
        self.answer({})

    def commit(self, hub, name, revision):
        repository, _, files = self.find(hub, name, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = dict(files)
        assert lines[0]["value"]["parentCommit"] == repository.tags["main"]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        repository.commit(files)
        newest = repository.tags["main"]
        self.answer({"commitUrl": f"{hub.address}/{name}/commit/{newest}", "commitOid": newest})

    def validate(self, hub):
        assert json.loads(self.body)["content"].startswith("---\n")
        self.answer({"errors": [], "warnings": []})

    def resolve(self, hub, name, revision, path):
        _, found, files = self.find(hub, name, revision)
        if found and path not in files:
            self.fail(404, "EntryNotFound")
        elif found:
            etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
            self.answer(files[path], X_Repo_Commit=found, ETag=etag)


def _entry(path, content):
    entry = {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
    if path.endswith(".safetensors"):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry


def _oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_ROUTES = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", rf"/api/models/{_NAME}", _Handler.describe),
    ("GET", rf"/api/models/{_NAME}/revision/(?P<revision>.+)", _Handler.describe),
    ("GET", rf"/api/models/{_NAME}/tree/(?P<revision>[^/]+)", _Handler.list),
    ("POST", rf"/api/models/{_NAME}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/api/models/{_NAME}/commit/(?P<revision>.+)", _Handler.commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/object/(?P<oid>\w+)", _Handler.store),
    (("GET", "HEAD"), rf"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]


@contextmanager
def running_hub():
    """Runs a hub in a thread."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
