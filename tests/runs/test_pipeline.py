"""The whole flow through the command: cached, killed and started again, damaged, shared."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
from support.prefect_api import ask
from support.running import (
    STAGES,
    artifacts,
    cached_stages,
    deconstruct,
    digests,
    patience,
    stalled,
)


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    """A copy of a home in which a run has finished."""
    shutil.copytree(finished, tmp_path / "home")
    return tmp_path / "home"


def written(home: Path) -> dict[str, int]:
    """When each stage's folder was written."""
    return {stage: artifact.path.stat().st_mtime_ns for stage, artifact in artifacts(home).items()}


def test_a_run_leaves_all_its_artifacts_and_answers_sql(finished: Path) -> None:
    assert set(artifacts(finished)) == set(STAGES)
    assert not list(finished.glob("*/.*.partial"))
    asked = deconstruct(
        finished, "sql", "--format", "json", "SELECT run_id, fvu_typical, nmi FROM runs"
    )
    (run,) = json.loads(asked.stdout)
    assert 0 < run["fvu_typical"] < 1
    shown = deconstruct(finished, "show", run["run_id"])
    for said in ("loss_recovered", "latents", "tfidf", "majority"):
        assert said in shown.stdout


def test_its_summary_stands_beside_baselines_and_says_what_to_type_next(first_run: str) -> None:
    for said in ("variance unexplained, no outliers", "probe accuracy on latents", "on majority"):
        assert said in first_run
    commands = re.findall(r"^  deconstruct (\w+)", first_run, re.MULTILINE)
    assert commands == ["show", "latent", "sql"]


def test_the_second_run_is_answered_from_cache_stage_by_stage(finished: Path, config: Path) -> None:
    """With the server that the command starts itself, which is gone when it ends."""
    before = (
        digests(finished),
        {s: a.path.stat().st_mtime_ns for s, a in artifacts(finished).items()},
    )
    started = time.monotonic()
    again = deconstruct(finished, "run", config)
    assert again.returncode == 0, again.stderr
    assert cached_stages(again.stderr) == dict.fromkeys(STAGES, True)
    assert before == (digests(finished), written(finished))
    assert time.monotonic() - started < patience(60)  # 7 s alone


@pytest.mark.parametrize(
    ("where", "done"),
    [
        ("deconstruct.activations.shards:write:3", ["corpus"]),
        ("deconstruct.sae.training.checkpoint:save:30", ["corpus", "activations", "reference"]),
        ("deconstruct.store.rewrite:_replace:1", list(STAGES)),
    ],
    ids=["extraction", "training", "publishing"],
)
def test_killed_and_started_again_it_ends_with_the_same_bytes(
    where: str, done: list[str], finished: Path, config: Path, server: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    env = {"PREFECT_API_URL": server}
    with stalled(where, home, "run", config, env=env):
        assert sorted(artifacts(home)) == sorted(done)
        assert not (home / "deconstruct.duckdb").exists()
    again = deconstruct(home, "run", config, env=env)
    assert again.returncode == 0, again.stderr
    assert cached_stages(again.stderr) == {stage: stage in done for stage in STAGES}
    if "training" in where:
        assert "goes on from step 29" in again.stderr
    assert digests(home) == digests(finished)
    assert not list(home.glob("*/.*.partial"))
    assert not list(home.glob(".deconstruct.duckdb*"))


def test_the_server_of_a_killed_run_goes_with_it(config: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with stalled("deconstruct.activations.shards:write:1", home, "run", config) as process:
        listing = ["ps", "-ww", "--ppid", str(process.pid), "-o", "pid=,args="]
        children = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
        (own,) = [line for line in children.splitlines() if "flows.server.embedded" in line]
        server = int(own.split(maxsplit=1)[0])
    deadline = time.monotonic() + 120
    while Path(f"/proc/{server}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("damage", ["deleted", "corrupted"])
def test_a_damaged_shard_makes_its_stage_alone_run_again(
    damage: str, home: Path, finished: Path, config: Path, server: str
) -> None:
    shard = artifacts(home)["activations"].file("train-00002.parquet")
    if damage == "deleted":
        shard.unlink()
    else:
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    again = deconstruct(home, "run", config, env={"PREFECT_API_URL": server})
    assert again.returncode == 0, again.stderr
    what = "missing" if damage == "deleted" else "damaged"
    assert f"train-00002.parquet is {what}; stage activations runs again" in again.stderr
    assert cached_stages(again.stderr) == {stage: stage != "activations" for stage in STAGES}
    assert digests(home) == digests(finished)


READER = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1], read_only=True)
print(connection.execute("SELECT count(*) FROM runs").fetchone()[0], flush=True)
sys.stdin.readline()
print(connection.execute("SELECT count(*) FROM latents").fetchone()[0] > 0, flush=True)
"""


def test_an_open_reader_stops_no_run_and_a_run_no_reader(
    home: Path, config: Path, server: str
) -> None:
    file = home / "deconstruct.duckdb"
    with subprocess.Popen(
        [sys.executable, "-c", READER, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "1\n"
        run = deconstruct(
            home, "run", config, "--set", "cluster.k=4", env={"PREFECT_API_URL": server}
        )
        assert run.returncode == 0, run.stderr
        assert reader.communicate("\n")[0] == "True\n"
    with duckdb.connect(str(file), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)


def parts_computed(server: str) -> int:
    """How many tasks have computed a part of an extraction, as the server knows."""
    done = {"name": {"like_": "shards"}, "state": {"name": {"any_": ["Completed"]}}}
    return int(ask(server, "POST", "/task_runs/count", {"task_runs": done}))


@pytest.mark.parametrize("engine", ["threads", "dask", "ray"])
def test_extraction_spread_over_an_engine_gives_the_same_bytes(
    engine: str, tmp_path: Path, config: Path, server: str, finished: Path
) -> None:
    """Two parts side by side; with Dask and Ray, in two processes of a cluster made for the run."""
    if engine == "ray":
        pytest.importorskip("prefect_ray", reason="prefect-ray is not installed: engine not tested")
    more = ("--engine", engine, "--workers", "2")
    before = parts_computed(server)
    run = deconstruct(tmp_path / "home", "run", config, *more, env={"PREFECT_API_URL": server})
    assert run.returncode == 0, run.stderr
    assert parts_computed(server) == before + 2
    assert digests(tmp_path / "home") == digests(finished)
