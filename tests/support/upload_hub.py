"""A hub on this machine that takes uploads: just the answers that `push` asks for.

Run as a program with a data root and a folder for the hub's cache, it pushes the run ``demo`` as a
user would, in ways that should work and in ways that should not, and prints what came of each and
what the hub has then, as JSON. A process of its own, since the hub's address and the token are read
from the environment once, at import.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN, READ_ONLY = "hf_mine", "hf_reads"
REPOS: dict[str, dict[str, Any]] = {
    "me/open": {"private": False, "files": {"thesis.txt": b"years"}, "commits": 0}
}
"""Repositories by name; one is there already, for all to see."""
ASKED: list[str] = []
STORED: dict[str, bytes] = {}


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, value: Any, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_HEAD(self) -> None:
        self.answer(200, {})

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        ASKED.append(f"GET {path}")
        if self.token not in (TOKEN, READ_ONLY):
            self.answer(401, {"error": "Invalid user token"})
        elif path == "/api/whoami-v2":
            self.answer(200, {"name": "me", "type": "user"})
        elif path.removeprefix("/api/models/").removesuffix("/revision/main") in REPOS:
            name = path.removeprefix("/api/models/").removesuffix("/revision/main")
            told = {"id": name, "sha": "0" * 40, "private": REPOS[name]["private"], "siblings": []}
            self.answer(200, told)
        else:
            self.answer(404, {}, X_Error_Code="RepoNotFound")

    def do_PUT(self) -> None:  # what large files go to, by the address that the batch gave
        STORED[self.path.removeprefix("/store/")] = self.body()
        self.answer(200, {})

    def do_POST(self) -> None:
        path, raw = self.path.split("?")[0], self.body()
        ASKED.append(f"POST {path}")
        if path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.token != TOKEN:
            self.answer(403, {"error": "You don't have the rights"}, X_Error_Message="No rights")
        elif path == "/api/repos/create":
            asked = json.loads(raw)
            name = f"{asked['organization']}/{asked['name']}"
            url = f"http://{self.headers['Host']}/{name}"
            if name in REPOS:
                self.answer(409, {"error": "You already created this model repo", "url": url})
                return
            private = asked.get("visibility") == "private"
            REPOS[name] = {"private": private, "files": {}, "commits": 0}
            self.answer(200, {"url": url, "name": name})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": one["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular"}
                for one in json.loads(raw)["files"]
            ]  # fmt: skip
            self.answer(200, {"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {
                    "href": f"http://{self.headers['Host']}/store/{one['oid']}"
                }}}
                for one in json.loads(raw)["objects"]
            ]  # fmt: skip
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            self.commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), raw)
        else:
            self.answer(404, {})

    def commit(self, name: str, raw: bytes) -> None:
        for line in map(json.loads, raw.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                REPOS[name]["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                REPOS[name]["files"][value["path"]] = STORED[value["oid"]]
        REPOS[name]["commits"] += 1
        oid = hashlib.sha1(raw).hexdigest()
        url = f"http://{self.headers['Host']}/{name}/commit/{oid}"
        self.answer(200, {"success": True, "commitUrl": url, "commitOid": oid})


def main(home: str, cache: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(
        HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=cache, HF_HUB_DISABLE_XET="1"
    )
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        os.environ.pop(name, None)

    from typer.testing import CliRunner

    from deconstruct.cli import app

    report: dict[str, Any] = {}

    def push(case: str, token: str | None, *arguments: str) -> None:
        os.environ.pop("HF_TOKEN", None)
        if token:
            os.environ["HF_TOKEN"] = token
        ASKED.clear()
        done = CliRunner().invoke(app, ["push", "demo", *arguments, "--home", home])
        report[case] = {
            "code": done.exit_code,
            "said": done.output,
            "asked": [line for line in ASKED if not line.startswith("GET /api/models")],
        }

    push("nobody", None, "hub:me/new")
    push("malformed", TOKEN, "me/new")
    push("stranger", "hf_wrong", "hub:me/new")
    push("reader", READ_ONLY, "hub:me/new")
    push("seen", TOKEN, "hub:me/open", "--private")
    push("refused", TOKEN, "hub:me/new", "--format", "sparsify")
    report["before"] = {name: sorted(repo["files"]) for name, repo in REPOS.items()}
    push("good", TOKEN, "hub:me/new", "--private")
    push("beside", TOKEN, "hub:me/open", "--format", "dictionary-learning")
    report["repos"] = {
        name: {"private": repo["private"], "commits": repo["commits"],
               "files": {n: hashlib.sha256(b).hexdigest() for n, b in repo["files"].items()}}
        for name, repo in REPOS.items()
    }  # fmt: skip
    report["card"] = REPOS["me/new"]["files"]["README.md"].decode()
    server.shutdown()
    server.server_close()
    push("offline", TOKEN, "hub:me/new")
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
