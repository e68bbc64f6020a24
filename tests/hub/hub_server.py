"""A model Hub on loopback: the routes that huggingface_hub needs to push and to pull, kept in memory.

Repositories hold branches of commits; a commit maps paths to bytes. `.safetensors` files go the way of large
files (LFS), the others inline. `TOKEN` may write everywhere and read private repositories, nobody else may.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "hf_loopback"
DATE = "2026-01-01T00:00:00.000Z"


class RefusedError(Exception):
    """An answer that is an error; the code is what huggingface_hub tells errors apart by."""

    def __init__(self, status: int, code: str | None = None, message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


@dataclass
class Repository:
    """One repository: its commits, and where its branches stand."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Adds a commit with these files to a branch."""
        self.messages.append(message)
        name = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[name], self.branches[branch] = dict(files), name
        return name

    def resolve(self, revision: str) -> str:
        """The commit of a branch or commit name."""
        name = self.branches.get(revision, revision)
        if name not in self.commits:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return name


class HubServer:
    """The server; `url` is what HF_ENDPOINT wants, `repositories` what was pushed, `log` the requests."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[str] = []
        self.failing: dict[str, int] = {}  # parts of paths, and the status of the answers to them
        self.url = ""
        self._server: uvicorn.Server | None = None

    # ------------------------------------------------------------------ running

    @contextlib.contextmanager
    def running(self) -> Iterator[HubServer]:
        """Serves on a free port of loopback for as long as the block runs."""
        config = uvicorn.Config(self.application(), host="127.0.0.1", port=0, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        thread = threading.Thread(target=self._server.run, daemon=True)
        thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join(timeout=10)

    def application(self) -> Starlette:
        """The routes."""
        repo = "/{owner}/{name}"
        api = f"/api/models{repo}"
        routes = [
            ("GET", "/", lambda request, body: {}),  # HEAD too: whether anybody is there
            ("POST", "/failing", self.set_failing),
            ("GET", "/api/whoami-v2", self.whoami),
            ("POST", "/api/repos/create", self.create),
            ("DELETE", "/api/repos/delete", self.delete),
            ("POST", "/api/validate-yaml", self.validate_yaml),
            ("POST", f"{api}/preupload/{{revision:path}}", self.preupload),
            ("POST", f"{api}/commit/{{revision:path}}", self.commit),
            ("POST", f"{api}/branch/{{revision:path}}", self.branch),
            ("POST", f"{api}/paths-info/{{revision:path}}", self.paths_info),
            ("GET", f"{api}/tree/{{revision}}/{{folder:path}}", self.tree),
            ("GET", f"{api}/tree/{{revision}}", self.tree),
            ("GET", f"{api}/refs", self.refs),
            ("GET", f"{api}/commits/{{revision:path}}", self.commits),
            ("GET", f"{api}/revision/{{revision:path}}", self.info),
            ("GET", api, self.info),
            ("POST", f"{repo}.git/info/lfs/objects/batch", self.batch),
            ("PUT", "/lfs/{oid}", self.put_object),
            ("POST", "/lfs-verify", self.verify),
            ("GET", f"{repo}/resolve/{{revision}}/{{path:path}}", self.resolve),  # HEAD too
        ]
        made = [Route(path, self._answer(handler), methods=[method]) for method, path, handler in routes]
        return Starlette(routes=made)

    def _answer(self, handler: Any) -> Any:
        async def answer(request: Request) -> Response:
            self.log.append(f"{request.method} {request.url.path}")
            try:
                for part, status in self.failing.items():
                    if part in request.url.path and request.url.path != "/failing":
                        raise RefusedError(status, None, "Out of order")
                result = handler(request, await request.body())
            except RefusedError as error:
                headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
                return JSONResponse({"error": error.message}, status_code=error.status, headers=headers)
            return result if isinstance(result, Response) else JSONResponse(result)

        return answer

    # ------------------------------------------------------------------ who asks for what

    def _may_write(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, None, "Invalid username or password.")

    def _find(self, request: Request) -> Repository:
        """The repository of a request; a private one does not exist for others, as on the Hub."""
        repository = self.repositories.get(self._id(request))
        known = request.headers.get("authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            raise RefusedError(404 if known else 401, "RepoNotFound", "Repository not found")
        return repository

    @staticmethod
    def _id(request: Request) -> str:
        return f"{request.path_params['owner']}/{request.path_params['name']}"

    # ------------------------------------------------------------------ routes

    def set_failing(self, request: Request, body: bytes) -> Any:
        """Lets the tests put parts of the Hub out of order."""
        self.failing = json.loads(body)
        return {}

    def whoami(self, request: Request, body: bytes) -> Any:
        self._may_write(request)
        return {
            "type": "user",
            "name": "tester",
            "orgs": [{"name": "org"}],
            "auth": {"accessToken": {"role": "write"}},
        }

    def create(self, request: Request, body: bytes) -> Any:
        self._may_write(request)
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        answer = {"url": f"{self.url}/{name}", "id": name, "name": name}
        if name in self.repositories:
            return JSONResponse(answer | {"error": "You already created this model repo"}, status_code=409)
        repository = self.repositories[name] = Repository(asked.get("private") or asked.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return answer

    def delete(self, request: Request, body: bytes) -> Any:
        self._may_write(request)
        asked = json.loads(body)
        del self.repositories[f"{asked.get('organization') or 'tester'}/{asked['name']}"]
        return {}

    def validate_yaml(self, request: Request, body: bytes) -> Any:
        return {"errors": [], "warnings": []}

    def preupload(self, request: Request, body: bytes) -> Any:
        self._may_write(request)
        self._find(request)
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
        return {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for p, m in modes.items()]}

    def batch(self, request: Request, body: bytes) -> Any:
        self._may_write(request)
        objects = []
        for entry in json.loads(body)["objects"]:
            actions = {
                "upload": {"href": f"{self.url}/lfs/{entry['oid']}"},
                "verify": {"href": f"{self.url}/lfs-verify"},
            }
            objects.append(
                {**entry, "authenticated": True} | ({} if entry["oid"] in self.objects else {"actions": actions})
            )
        return Response(
            json.dumps({"transfer": "basic", "objects": objects}), media_type="application/vnd.git-lfs+json"
        )

    def put_object(self, request: Request, body: bytes) -> Any:
        if hashlib.sha256(body).hexdigest() != request.path_params["oid"]:
            raise RefusedError(400, None, "The bytes are not those of the object.")
        self.objects[request.path_params["oid"]] = body
        return Response()

    def verify(self, request: Request, body: bytes) -> Any:
        if json.loads(body)["oid"] not in self.objects:
            raise RefusedError(404, None, "Unknown object.")
        return {}

    def commit(self, request: Request, body: bytes) -> Any:
        self._may_write(request)
        repository, branch = self._find(request), request.path_params["revision"]
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        files, summary = dict(repository.commits[repository.resolve(branch)]), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                summary = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise RefusedError(400, None, f"No such operation: {line['key']}")
        answer = {"success": True}
        if request.query_params.get("create_pr"):
            branch = f"refs/pr/{sum(name.startswith('refs/pr/') for name in repository.branches) + 1}"
            answer["pullRequestUrl"] = f"{self.url}/{self._id(request)}/discussions/{branch.rpartition('/')[2]}"
        name = repository.commit(branch, files, summary)
        return answer | {"commitOid": name, "commitUrl": f"{self.url}/{self._id(request)}/commit/{name}"}

    def branch(self, request: Request, body: bytes) -> Any:
        self._may_write(request)
        repository, branch = self._find(request), request.path_params["revision"]
        if branch in repository.branches:
            return JSONResponse({"error": "Reference already exists"}, status_code=409)
        repository.branches[branch] = repository.resolve("main")
        return {}

    def info(self, request: Request, body: bytes) -> Any:
        repository = self._find(request)
        name = repository.resolve(request.path_params.get("revision", "main"))
        siblings = [{"rfilename": path} for path in repository.commits[name]]
        common = {"id": self._id(request), "modelId": self._id(request), "private": repository.private, "tags": []}
        return common | {"sha": name, "siblings": siblings, "downloads": 0, "likes": 0, "lastModified": DATE}

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if path.endswith(".safetensors"):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return entry

    def tree(self, request: Request, body: bytes) -> Any:
        repository, folder = self._find(request), request.path_params.get("folder", "")
        files = repository.commits[repository.resolve(request.path_params["revision"])]
        entries = [self._entry(path, content) for path, content in files.items() if path.startswith(folder)]
        if folder and not entries:
            raise RefusedError(404, "EntryNotFound", f"{folder} does not exist")
        return entries

    def paths_info(self, request: Request, body: bytes) -> Any:
        repository = self._find(request)
        files = repository.commits[repository.resolve(request.path_params["revision"])]
        asked = json.loads(body)["paths"]
        return [self._entry(path, files[path]) for path in asked if path in files]

    def refs(self, request: Request, body: bytes) -> Any:
        branches = self._find(request).branches.items()
        named = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in branches]
        return {"branches": named, "tags": [], "converts": [], "pullRequests": []}

    def commits(self, request: Request, body: bytes) -> Any:
        repository = self._find(request)
        pairs = zip(repository.commits, repository.messages, strict=True)
        return [{"id": n, "title": m, "message": "", "date": DATE, "authors": []} for n, m in reversed(list(pairs))]

    def resolve(self, request: Request, body: bytes) -> Any:
        repository, path = self._find(request), request.path_params["path"]
        name = repository.resolve(request.path_params["revision"])
        content = repository.commits[name].get(path)
        if content is None:
            raise RefusedError(404, "EntryNotFound", f"{path} does not exist")
        etag = hashlib.sha256(content).hexdigest() if path.endswith(".safetensors") else git_hash(content)
        headers = {"X-Repo-Commit": name, "ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"'}
        headers["X-Linked-Size"] = str(len(content))
        return Response(content, media_type="application/octet-stream", headers=headers)


def git_hash(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
