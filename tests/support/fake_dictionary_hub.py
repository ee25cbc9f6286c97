"""A hub on this machine with one dictionary, just the answers that `huggingface_hub` asks for.

Run as a program, it finds the dictionary through `deconstruct.sae.pretrained` as a run would, then
closes the hub and finds it again; it prints what it found, and which files were asked for, as JSON.
A process of its own, since the hub's address and its cache are read from the environment once.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/dictionaries"
FILES: dict[str, bytes] = {}
ASKED: list[str] = []


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        api, files = f"/api/models/{NAME}", f"/{NAME}/resolve/{COMMIT}/"
        if path in ("/", api, *(f"{api}/revision/{name}" for name in (COMMIT, "v1", "main"))):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(200, {"id": NAME, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(files) and path.removeprefix(files) in FILES:
            if self.command == "GET":
                ASKED.append(path.removeprefix(files))
            self.answer(200, FILES[path.removeprefix(files)])
        else:
            missing = "EntryNotFound" if path.startswith(files) else "RepoNotFound"
            self.answer(404, {}, missing)

    def answer(self, code: int, value: Any, error: str | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main(cache: str, model: str, dictionary: str, transcoder: str, listing: str) -> None:
    """listing: a folder whose config.yaml names the file ``transcoder`` by a URI of this hub."""
    FILES["layers/1.safetensors"] = Path(transcoder).read_bytes()
    for path in Path(dictionary).rglob("*"):
        if path.is_file():
            FILES[f"sets/one/{path.relative_to(dictionary).as_posix()}"] = path.read_bytes()
    FILES["sets/two/big.bin"] = b"not asked for"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=cache)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        os.environ.pop(name, None)

    from deconstruct.common.errors import DeconstructError
    from deconstruct.config import RunConfig
    from deconstruct.model.resolve import ResolvedModel
    from deconstruct.sae import pretrained

    found = ResolvedModel(model, Path(model), "m", "t", "float32", own=True)

    def read(place: str, sites: tuple[str, ...] = ("1.resid_post",), **sae: str) -> Any:
        values = {"activations": {"sites": sites}, "sae": {"pretrained": place, **sae}}
        try:
            dictionary = pretrained.find(RunConfig.model_validate(values), found)
            assert dictionary is not None
            return [dictionary.digest, dictionary.format, dictionary.d_sae]
        except DeconstructError as error:
            return f"{type(error).__name__}: {error}"

    report: dict[str, Any] = {"local": read(dictionary)}
    report["online"] = read(f"hub:{NAME}/sets/one")
    report["asked"] = list(ASKED)
    report["tag"] = read(f"hub:{NAME}/sets/one@v1")
    report["file"] = read(f"hub:{NAME}/sets/one/ae.pt@{COMMIT}")
    report["uri"] = read(listing, ("1.mlp_in", "1.mlp_out"), output_site="1.mlp_out")
    report["no folder"] = read(f"hub:{NAME}/sets/three")
    report["no format"] = read(f"hub:{NAME}/sets/two")
    report["unknown"] = read("hub:someone/else")
    server.shutdown()
    server.server_close()
    report["offline"] = read(f"hub:{NAME}/sets/one@{COMMIT}")
    report["offline, another"] = read("hub:someone/else")
    cached = next(Path(cache).rglob("snapshots/*/sets/one/ae.pt"))
    aside = Path(cache) / "elsewhere.pt"
    aside.write_bytes(cached.read_bytes())
    cached.unlink()
    cached.symlink_to(aside)
    report["link"] = read(f"hub:{NAME}/sets/one@{COMMIT}")
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
