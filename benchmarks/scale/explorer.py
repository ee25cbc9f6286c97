"""What the explorer's pages cost, on a store of any size.

    .venv/bin/python -m benchmarks.scale.explorer [--home FOLDER] [--tokens 10000000] [--times 20]

Starts ``deconstruct explore`` over FOLDER, or over a synthetic run of so many tokens (see
``benchmarks/store_synthetic.py``), asks each page ``--times`` times, each time of another latent or
document, and prints the median and the 95th percentile in milliseconds, how long it took to start,
and the most memory it held. In the middle a publish takes place; the pages go on, and the next one
must have the new run. Leaves ``benchmarks/results/explorer.json``.
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

import numpy as np

from benchmarks.store_synthetic import Size, make
from deconstruct.store import open_store, publish

RESULTS = Path(__file__).parent.parent / "results" / "explorer.json"
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RUN = "/run/synthetic"
Ask = Callable[[str], float]


def pages(home: Path, times: int) -> dict[str, list[str]]:
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
    parts = ("tokens", "bands", "labels", "partners", "counterparts", "figure/activations")
    return {
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
    }  # fmt: skip


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
        run = make(home, Size(arguments.tokens))
        publish(home, run.record, run.artifacts)
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
            asked = time.perf_counter()
            with OPENER.open(url + path, timeout=120) as answer:
                answer.read()
            return (time.perf_counter() - asked) * 1000

        while True:
            try:
                ask("/")
                break
            except OSError:
                time.sleep(0.05)
        found: dict[str, Any] = {"start_s": round(time.perf_counter() - begun, 2), "pages": {}}
        for name, paths in pages(home, times).items():
            spent = [ask(path) for path in paths]
            middle, high = np.percentile(spent, [50, 95])
            found["pages"][name] = {"p50_ms": round(middle), "p95_ms": round(high)}
            print(name, found["pages"][name], file=sys.stderr, flush=True)
        found["publish"] = while_publishing(home, url, ask)
        found["memory_mb"] = round(memory(process.pid))
        process.send_signal(signal.SIGINT)
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
