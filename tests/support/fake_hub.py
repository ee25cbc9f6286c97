"""A hub on this machine: one data set, just the answers that `datasets` asks for.

Run as a program, it reads the data set through `deconstruct.sources` as a user would, then closes
the hub and reads it again; it prints what it found as JSON. A process of its own, since the hub's
address and its cache are read from the environment once, at import.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["World", "Sports"], "_type": "ClassLabel"},
}


def parquet(texts: list[str], labels: list[int]) -> bytes:
    table = pa.table({"text": texts, "label": pa.array(labels, pa.int64())})
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


FILES = {
    "data/train-00000-of-00001.parquet": parquet(["a", "b"], [1, 0]),
    "data/test-00000-of-00001.parquet": parquet(["c"], [1]),
}
TREE: list[dict[str, Any]] = [
    {"type": "directory", "oid": "1" * 40, "size": 0, "path": "data"},
    *(
        {"type": "file", "oid": hashlib.sha1(b).hexdigest(), "size": len(b), "path": path}
        for path, b in FILES.items()
    ),
]


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, [entry for entry in TREE if entry["path"] in body["paths"]])

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        api, files = "/api/datasets/someone/news", f"/datasets/someone/news/resolve/{COMMIT}/"
        if path in ("/", api, f"{api}/revision/{COMMIT}", f"{api}/revision/v1"):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(200, {"id": "someone/news", "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            folder = path.split(COMMIT)[-1].strip("/")
            self.answer(200, [entry for entry in TREE if entry["path"].startswith(folder)])
        elif path.startswith(files) and path.removeprefix(files) in FILES:
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


def main(cache: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=cache)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        os.environ.pop(name, None)

    from deconstruct.common.errors import DeconstructError
    from deconstruct.config import CorpusConfig
    from deconstruct.corpus import sources

    def read(name: str, **fields: Any) -> Any:
        config = CorpusConfig.model_validate({"source": name, **fields})
        try:
            found = sources.resolve(config)
            rows = sources.read(found, config)[1]
            return [found.digest, *((row.text, row.label) for row in rows)]
        except DeconstructError as error:
            return f"{type(error).__name__}: {error}"

    report = {
        "online": read("hub:someone/news", splits=["test", "train"]),
        "tag": read("hub:someone/news", revision="v1", limit=1),
        "unknown": read("hub:someone/else"),
        "malformed": read("hub:a/b/c"),
    }
    server.shutdown()
    server.server_close()
    report["offline"] = read("hub:someone/news", splits=["test", "train"])
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
