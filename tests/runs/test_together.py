"""Two runs at once on the same home: one key is computed once, different keys side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.running import COMMAND, STAGES, cached_stages, deconstruct, environment

from deconstruct.artifacts import Artifact, DataRoot


def start(home: Path, config: Path, server: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", str(config), *more],
        env=environment(home, PREFECT_API_URL=server),
        cwd=home.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_schedules_share_one_home(
    tmp_path: Path, config: Path, server: str, finished: Path
) -> None:
    home = tmp_path / "home"
    runs = [start(home, config, server), start(home, config, server, "--set", "cluster.k=4")]
    said = [run.communicate(timeout=480)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    shared = [stage for stage in STAGES if stage != "cluster"]
    for stage in shared:  # a bar is drawn by the one that computes
        assert len(list((home / stage).iterdir())) == 1
        drawn = [f"\n{stage:<12}: " in f"\n{text}".replace("\r", "\n") for text in said]
        assert sum(drawn) == 1, (stage, said)
        # One says that it made the stage, the other that it came from cache: it waited for it.
        told = [cached_stages(text)[stage] for text in said]
        assert told == [not computed for computed in drawn], said
    assert len(list((home / "cluster").iterdir())) == 2
    query = (
        "SELECT stage, count(*) AS runs, count(*) FILTER (cached) AS cached FROM stages "
        "WHERE stage <> 'cluster' GROUP BY ALL ORDER BY min(ordinal)"
    )
    listing = json.loads(deconstruct(home, "sql", "--format", "json", query).stdout)
    assert listing == [{"stage": s, "runs": 2, "cached": 1} for s in shared]
    made, alone = by_key(home), by_key(finished)
    assert len(made) == len(STAGES) + 1
    assert {key: made[key].digest() for key in alone} == {k: a.digest() for k, a in alone.items()}


def by_key(home: Path) -> dict[str, Artifact]:
    return {artifact.key: artifact for artifact in DataRoot(home).artifacts()}
