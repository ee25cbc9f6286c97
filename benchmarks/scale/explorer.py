"""What the explorer's pages cost, on a store of any size.

    .venv/bin/python -m benchmarks.scale.explorer [--home FOLDER] [--tokens 10000000] [--times 20]

Starts ``deconstruct explore`` over FOLDER, in which a synthetic run of so many tokens is made
unless it is there (see ``benchmarks/store_synthetic.py``; a run of 10 million takes a quarter of an
hour), asks each page ``--times`` times, each time of another latent, document or selection, and
prints in milliseconds the first answer, the fastest, the median and the 95th percentile, and what
it computed for one, on average; how long it took to start, and the most memory it held. A selection
is also asked for before anything is ready for it. At the end a publish takes place; the pages go
on, and the next one must have the new run. Leaves ``benchmarks/results/explorer.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from benchmarks.scale.findings import LABELS
from benchmarks.store_synthetic import Size, make
from deconstruct.explorer.chosen import packed
from deconstruct.store import open_store, publish

RESULTS = Path(__file__).parent.parent / "results" / "explorer.json"
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RUN = "/run/synthetic"
Ask = Callable[[str], float]


Pages = dict[str, list[str]]


def pages(home: Path, times: int) -> Pages:
    """Name of a page -> addresses of it, of latents from dense to rare and of any document."""
    with open_store(home, verify=False) as store:
        latents = store.execute(
            "SELECT latent FROM features WHERE NOT dead AND run_id = resolve_run('synthetic') "
            "ORDER BY n_fires DESC, latent"
        ).fetchall()
        [(documents,)] = store.execute(
            "SELECT documents FROM runs WHERE run_id = resolve_run('synthetic')"
        ).fetchall()
    draw = np.random.default_rng(0)
    ours = [int(latents[place][0]) for place in draw.integers(0, len(latents), times)]
    texts = draw.integers(0, documents, times)
    one = [f"{RUN}/latent/{latent}" for latent in ours]
    parts = ("tokens", "bands", "labels", "partners", "counterparts")
    parts += ("figure/activations", "figure/latent_positions")
    return _selections(documents, ours, draw) | {
        "runs": ["/"] * times,
        "run": [RUN] * times,
        "latents": [f"{RUN}/latents?sort=max&first={100 * n}" for n in range(times)],
        "search": [f"{RUN}/search?q=word{n}" for n in range(times)],
        "latent": one,
        **{f"latent: {part}": [f"{page}/{part}" for page in one] for part in parts},
        "document": [
            f"{RUN}/doc/{d}?latent={x}" for d, x in zip(texts, ours, strict=True)
        ],
        "notes": ["/notes"] * times,
    } | _corpus(ours)  # fmt: skip


def _selections(documents: int, latents: list[int], draw: np.random.Generator) -> Pages:
    """The map, and what marks some documents: first of all while nothing is ready."""
    times = len(latents)
    drawn = [packed(np.flatnonzero(draw.random(documents) < 0.05)) for _ in range(times)]
    labels = [LABELS[n % len(LABELS)] for n in range(times)]
    return {
        "map of a cluster, not ready": [f"{RUN}/map?cluster=1"],
        "what marks it, not ready": [f"{RUN}/map/marks?cluster=1"],
        "map": [f"{RUN}/map"] * times,
        "map: points": [f"{RUN}/map/points"] * times,
        "map: pooled": [f"{RUN}/map?of=pooled"] * times,
        "map: pooled points": [f"{RUN}/map/points?of=pooled"] * times,
        "map: latents": [f"{RUN}/map?of=latents"] * times,
        "map: latents' points": [f"{RUN}/map/points?of=latents"] * times,
        "map: strengths": [f"{RUN}/map/strengths?latent={latent}" for latent in latents],
        "map: a cluster": [f"{RUN}/map?cluster={n % len(LABELS)}" for n in range(times)],
        "map: a label": [f"{RUN}/map?label={label}" for label in labels],
        "map: massive tokens": [f"{RUN}/map?of=pooled&massive=yes"] * times,
        "map: any documents": [f"{RUN}/map?selected={chosen}" for chosen in drawn],
        "marks: a label": [f"{RUN}/map/marks?label={label}" for label in labels],
        "marks: any documents": [f"{RUN}/map/marks?selected={chosen}" for chosen in drawn],
    }


def _corpus(latents: list[int]) -> Pages:
    """Clusters, labels, drift, other runs, SQL."""
    times = len(latents)
    labels = [LABELS[n % len(LABELS)] for n in range(times)]
    asked = "SELECT f.latent, f.top_token, f.density FROM features AS f "
    asked += "WHERE f.run_id = resolve_run('synthetic') ORDER BY f.n_fires DESC LIMIT 20 OFFSET "
    return {
        "clusters": [f"{RUN}/clusters"] * times,
        "labels": [f"{RUN}/labels?label={label}" for label in labels],
        "labels: contexts": [f"{RUN}/labels/contexts?latent={latent}" for latent in latents],
        "labels: probes": [f"{RUN}/labels/probes"] * times,
        "errors": [f"{RUN}/errors?first={20 * (n % 4)}" for n in range(times)],
        "drift": [f"{RUN}/drift"] * times,
        "drift: contexts": [f"{RUN}/drift/contexts?latent={latent}" for latent in latents],
        "trend": ["/trend?name=synthetic"] * times,
        "compare": ["/compare/synthetic/other", "/compare/other/synthetic"] * (times // 2),
        "compare: metrics": ["/compare/synthetic/other/metrics"] * times,
        "compare: every metric": ["/compare/synthetic/other/all"] * times,
        "sql": ["/sql"] * times,
        "sql: a question": [f"/sql?{urlencode({'query': f'{asked}{n}'})}" for n in range(times)],
    }


def spent_by(process: int) -> float:
    """Milliseconds that a process has computed, on all cores: what other work on the machine does
    not change."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1000


def memory(process: int) -> float:
    """The most megabytes that a process has held."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--times", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = arguments.home or Path(scratch) / "home"
        size = Size(arguments.tokens)
        other, run = make(home, size, name="other", judged=1), make(home, size)
        for one in (other, run, run):  # executed twice: a trend
            publish(home, one.record, one.artifacts)
        found = measured(home, arguments.times)
    found |= {"firings": run.rows, "load": os.getloadavg()[0], "cores": os.cpu_count()}
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def measured(home: Path, times: int) -> dict[str, Any]:
    """Start, pages, publish, memory."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", "from deconstruct.cli import app; app()"]
    with subprocess.Popen(
        [*command, "explore", "--home", str(home), "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1].rstrip("/")

        def ask(path: str) -> float:
            then = time.perf_counter()
            with OPENER.open(url + path, timeout=120) as answer:
                answer.read()
            return (time.perf_counter() - then) * 1000

        try:
            found = asked(home, times, process.pid, url, ask, begun)
            found["memory_mb"] = round(memory(process.pid))
        finally:
            process.send_signal(signal.SIGINT)
    return found


def asked(home: Path, times: int, process: int, url: str, ask: Ask, begun: float) -> dict[str, Any]:
    """All pages, once the first one has come."""
    while True:
        try:
            ask("/")
            break
        except OSError:
            time.sleep(0.05)
    found: dict[str, Any] = {"start_s": round(time.perf_counter() - begun, 2), "pages": {}}
    for name, paths in pages(home, times).items():
        before = spent_by(process)
        spent = [ask(path) for path in paths]
        computed = (spent_by(process) - before) / len(paths)
        low, middle, high = np.percentile(spent, [0, 50, 95])
        found["pages"][name] = {
            "first_ms": round(spent[0]), "min_ms": round(low), "p50_ms": round(middle),
            "p95_ms": round(high), "computed_ms": round(computed),
        }  # fmt: skip
        print(name, found["pages"][name], file=sys.stderr, flush=True)
    found["publish"] = while_publishing(home, url, ask)
    return found


def while_publishing(home: Path, url: str, ask: Ask) -> dict[str, Any]:
    """The slowest page meanwhile, and whether the next one had the new run."""
    small = make(home, Size(tokens=20_000, d_sae=8192), seed=int(time.time()), name="small")
    spent: list[float] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            spent.append(ask(f"{RUN}/latents"))

    reader = threading.Thread(target=read)
    reader.start()
    run_id = publish(home, small.record, small.artifacts)
    with OPENER.open(f"{url}/", timeout=120) as answer:
        shown = run_id in answer.read().decode()
    ended.set()
    reader.join()
    return {"pages": len(spent), "slowest_ms": round(max(spent)), "next_page_has_it": shown}


if __name__ == "__main__":
    main()
