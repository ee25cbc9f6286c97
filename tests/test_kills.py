"""A run killed at random moments, again and again: the same bytes, and nothing done twice.

``make kills`` kills 30 times; the ordinary tests 3 times.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from running import COMMAND, artifacts, deconstruct, digests, environment

KILLS = int(os.environ.get("DECONSTRUCT_KILLS", "3"))


def published(home: Path) -> dict[str, datetime]:
    """Stage -> when it was made: another time if it is made again."""
    return {stage: artifact.manifest.finished for stage, artifact in artifacts(home).items()}


def killed(home: Path, config: Path, env: dict[str, str], seconds: float) -> bool:
    """Start a run and kill it after ``seconds``; False if it had ended by itself."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", str(config)],
        env=environment(home, **env),
        cwd=home.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            return process.wait(seconds) != 0
        except subprocess.TimeoutExpired:
            process.kill()
            return True


def test_killed_at_random_moments_nothing_is_lost_and_nothing_is_done_twice(
    tmp_path: Path, config: Path, server: str, finished: Path
) -> None:
    env = {"PREFECT_API_URL": server}
    draw = random.Random(KILLS)
    started = time.monotonic()
    whole = deconstruct(tmp_path / "undisturbed", "run", config, env=env)
    seconds = time.monotonic() - started
    assert whole.returncode == 0, whole.stderr

    kills, home, moments = 0, tmp_path / "home-0", []
    while kills < KILLS:
        before = published(home) if home.exists() else {}
        moment = draw.uniform(0.2, 1.0) * seconds
        if killed(home, config, env, moment):
            kills += 1
            moments.append((round(moment, 2), len(published(home))))
        assert before.items() <= published(home).items(), moments
        if (home / "deconstruct.duckdb").exists():  # done: the next kills meet a fresh one
            assert digests(home) == digests(finished), moments
            home = tmp_path / f"home-{kills}"

    before = published(home) if home.exists() else {}
    last = deconstruct(home, "run", config, env=env)
    assert last.returncode == 0, last.stderr
    assert before.items() <= published(home).items(), moments
    assert digests(home) == digests(finished), moments
    collected = deconstruct(home, "gc", "--delete", "--unused-hours", "0")
    assert collected.returncode == 0, collected.stderr
    assert not [path for path in home.glob("*/.*") if path.suffix in (".partial", ".removed")]
    assert digests(home) == digests(finished)
    print(f"{kills} kills at (seconds, stages published): {moments}")
