"""A data set of several shards on a hub of our own, of which the beginning is read.

Run as a program, as `support.fake_hub`, whose answers it has: it prints what was read, and which
files the hub was asked for, as JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support import fake_hub

CARD = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: odd
    path: odd/*
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': World
          '1': Sports
---
"""


def bare(texts: list[str]) -> bytes:
    """Parquet without names of classes: the card has them."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "label": [1] * len(texts)}), buffer)
    return buffer.getvalue()


FILES = {
    "README.md": CARD,
    "data/train-00000-of-00003.parquet": fake_hub.parquet(["a", "b", "c"], [1, 0, 1]),
    "data/train-00001-of-00003.parquet": fake_hub.parquet(["d", "e"], [0, 0]),
    "data/train-00002-of-00003.parquet": fake_hub.parquet(["f"], [1]),
    "odd/0.parquet": bare(["x", "y"]),
}
FAILING: set[str] = set()
ASKED: list[str] = []


class Hub(fake_hub.Hub):
    def do_GET(self) -> None:  # noqa: N802 - the name that the server calls
        path = self.path.split("?")[0]
        name = path.rpartition(f"/resolve/{fake_hub.COMMIT}/")[2] if "/resolve/" in path else ""
        if name in FAILING:
            self.answer(404, {}, "EntryNotFound")
            return
        if name in FILES and name != "README.md" and self.command == "GET":
            ASKED.append(name)
        super().do_GET()


def main(cache: str) -> None:
    fake_hub.FILES = FILES
    fake_hub.TREE = [
        *({"type": "directory", "oid": "1" * 40, "size": 0, "path": p} for p in ("data", "odd")),
        *(
            {"type": "file", "oid": hashlib.sha1(b).hexdigest(), "size": len(b), "path": path}
            for path, b in FILES.items()
        ),
    ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=cache)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        os.environ.pop(name, None)

    from deconstruct.common.errors import DeconstructError
    from deconstruct.config import CorpusConfig
    from deconstruct.corpus import sources

    def read(limit: int | None, **fields: Any) -> dict[str, Any]:
        settings = {"source": "hub:someone/news", "limit": limit, "limit_from": "beginning"}
        config = CorpusConfig.model_validate(settings | fields)
        ASKED.clear()
        try:
            found: Any = list(sources.read(sources.resolve(config), config)[1])
        except DeconstructError as error:
            found = f"{type(error).__name__}: {error}"
        return {"rows": found, "asked": sorted(set(ASKED))}

    FAILING.add("data/train-00001-of-00003.parquet")
    report = {"two": read(2), "broken": read(5)}
    FAILING.clear()
    report |= {
        "five": read(5),
        "again": read(5),
        "all": read(99),
        "splits": read(7, splits=["odd", "train"]),
        "no split": read(2, splits=["valid"]),
        "whole": read(None, limit_from="whole"),
    }
    server.shutdown()
    server.server_close()
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
