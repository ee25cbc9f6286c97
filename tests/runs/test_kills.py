"""A run killed at random moments, again and again: the same bytes, and nothing done twice.

Each kill draws a stage that is still to be done (or the start, or publishing), and then a moment
within it: so kills fall into every part of a run, however short it is. ``make kills`` kills 30
times; the ordinary tests 3 times.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from support.running import COMMAND, STAGES, artifacts, deconstruct, digests, environment

from deconstruct.store import collect, garbage

KILLS = int(os.environ.get("DECONSTRUCT_KILLS", "3"))
PARTS = ("start", *STAGES, "store")
PUBLISHING_SECONDS = 1.0
"""From the last stage to the end of the process: the store, and what is shown of the run."""


def published(home: Path) -> dict[str, datetime]:
    """Stage -> when it was made: another time if it is made again."""
    return {stage: artifact.manifest.finished for stage, artifact in artifacts(home).items()}


def lengths(whole: Path, seconds: float) -> dict[str, float]:
    """Part -> its share of the ``seconds`` that the undisturbed run in ``whole`` took."""
    found = {stage: artifact.manifest.seconds for stage, artifact in artifacts(whole).items()}
    found["store"] = PUBLISHING_SECONDS
    return {"start": max(seconds - sum(found.values()), 1.0)} | found


def sign(part: str, home: Path, keys: Mapping[str, str]) -> Path:
    """The file that a run opens as it comes to ``part``."""
    if part == "store":
        return home / ".deconstruct.duckdb.draft"
    return home / ".locks" / f"{part}-{keys[part]}"


def killed(home: Path, config: Path, env: dict[str, str], delay: float, sign: Path | None) -> bool:
    """Start a run and kill it ``delay`` after it gave a sign; False if it ended before."""
    started = time.time()
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", str(config)],
        env=environment(home, **env),
        cwd=home.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while sign and process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                if sign.stat().st_mtime > started:
                    break
            time.sleep(0.002)
        try:
            return process.wait(delay) != 0
        except subprocess.TimeoutExpired:
            process.kill()
            return True


def clean(home: Path) -> bool:
    """Whether ``gc`` leaves nothing temporary in a finished home, and all that was made."""
    collect(home, garbage(home, unused_hours=0))
    temporary = [*home.glob("*/.*"), *home.glob(".deconstruct.duckdb*"), *home.glob("*/*/.scratch")]
    left = [path.name for path in temporary if path.parent.name not in (".prefect", ".locks")]
    return left == []


def test_killed_at_random_moments_nothing_is_lost_and_nothing_is_done_twice(
    tmp_path: Path, config: Path, server: str, finished: Path
) -> None:
    env = {"PREFECT_API_URL": server}
    draw = random.Random(KILLS)
    started = time.monotonic()
    whole = deconstruct(tmp_path / "undisturbed", "run", config, env=env)
    took = lengths(tmp_path / "undisturbed", time.monotonic() - started)
    assert whole.returncode == 0, whole.stderr
    wanted = digests(finished)
    assert digests(tmp_path / "undisturbed") == wanted
    keys = {stage: key for stage, (key, _) in wanted.items()}

    home, moments, homes = tmp_path / "home-0", [], 1
    while len(moments) < KILLS:
        before = published(home) if home.exists() else {}
        part = draw.choice([part for part in PARTS if part not in before])
        delay = draw.uniform(0, took[part])
        if killed(home, config, env, delay, None if part == "start" else sign(part, home, keys)):
            moments.append((part, round(delay, 2), len(published(home))))
        assert before.items() <= published(home).items(), moments
        if (home / "deconstruct.duckdb").exists():  # done: the next kills meet a fresh one
            assert digests(home) == wanted, moments
            assert clean(home), moments
            home, homes = tmp_path / f"home-{homes}", homes + 1

    before = published(home) if home.exists() else {}
    last = deconstruct(home, "run", config, env=env)
    assert last.returncode == 0, last.stderr
    assert before.items() <= published(home).items(), moments
    assert digests(home) == wanted, moments
    collected = deconstruct(home, "gc", "--delete", "--unused-hours", "0")
    assert collected.returncode == 0, collected.stderr
    assert clean(home)
    assert digests(home) == wanted
    fell = Counter(part for part, *_ in moments)
    print(f"{len(moments)} kills in {homes} homes, in {dict(fell)}: (part, s, published) {moments}")
