"""The whole configurations that README shows, run on small inputs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.paths import ROOT
from support.running import COMMAND, artifacts, environment
from support.texts import write_texts

from deconstruct.store import open_store

SMALL = {
    "sae.d_sae": 64, "sae.k": 4, "sae.batch_size": 256, "sae.tokens": 20_000,
    "activations.sites": "1.resid_post", "activations.shard_tokens": 512,
    "corpus.max_tokens": 24, "evaluation.max_documents": 8, "evaluation.bootstrap": 50,
    "probe.ks": "1,4", "probe.bootstrap": 50, "model.dtype": "float32",
}  # fmt: skip
UNTRAINED = {name: value for name, value in SMALL.items() if not name.startswith("sae.")}
WINDOW = {"activations.window_shards": 2, "activations.window_moment_tokens": 600}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the configurations name, in a folder to run them in."""
    web = tmp_path / "web"
    web.mkdir()
    for number in range(2):
        rows = list(csv.reader(write_texts(tmp_path / "all.csv", 90, number, 120).open()))[1:]
        lines = "".join(json.dumps({"text": text}) + "\n" for text, _ in rows)
        packed = pa.compress(lines.encode(), "zstd", asbytes=True)
        (web / f"{number}.jsonl.zst").write_bytes(packed)
    write_texts(tmp_path / "news.csv", 60, seed=8)
    write_texts(tmp_path / "texts.csv", 60, seed=9)
    rows = list(csv.reader((tmp_path / "news.csv").open()))[1:]
    columns = {
        "text": [text for text, _ in rows],
        "topic": [label for _, label in rows],
        "stars": [1 + number % 4 for number in range(len(rows))],
    }
    pq.write_table(pa.table(columns), tmp_path / "reviews.parquet")
    return tmp_path


def run(
    folder: Path, name: str, server: str, **changed: object
) -> subprocess.CompletedProcess[str]:
    """A configuration of README, as a user has it in a folder beside the texts."""
    shutil.copy(ROOT / "configs" / f"{name}.toml", folder / "own.toml")
    overrides = [part for key, value in changed.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "run", "own.toml", *overrides],
        env=environment(folder / "home", PREFECT_API_URL=server, PYTHONPATH=str(ROOT)),
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_two_roles_of_a_corpus(folder: Path, tiny_model: Path, server: str) -> None:
    run(folder, "analyses", server, **SMALL, **{"model.name": tiny_model})
    with open_store(folder / "home") as store:
        rows = store.execute(
            "SELECT DISTINCT r.analysis, p.task FROM probes AS p JOIN runs AS r USING (run_id) "
            "ORDER BY ALL"
        ).fetchall()
        saes = store.execute(
            "SELECT count(DISTINCT key) FROM stages WHERE stage = 'sae'"
        ).fetchall()
    assert rows == [("news", "label"), ("reviews", "stars"), ("reviews", "topic")]
    assert saes == [(1,)]


def test_a_dictionary_that_others_trained(
    folder: Path, tiny_model: Path, server: str, finished: Path
) -> None:
    shutil.copytree(artifacts(finished)["sae"].path, folder / "released")
    (folder / "released" / "manifest.json").unlink()
    taken = {"model.name": tiny_model, "sae.pretrained": "released"}
    run(folder, "pretrained", server, **UNTRAINED, **taken)
    with open_store(folder / "home") as store:
        rows = store.execute("SELECT trained_on, training_tokens, d_sae FROM runs").fetchall()
    assert rows == [("released", None, 64)]


def test_a_window(folder: Path, tiny_model: Path, server: str) -> None:
    run(folder, "window", server, **SMALL, **WINDOW, **{"model.name": tiny_model})
    assert len(os.listdir(folder / "home" / "activations")) == 1  # of the analysis alone
