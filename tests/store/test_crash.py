"""Publishing while others read, and publishing that is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.paths import TESTS
from support.store_processes import KILLED_AFTER, KILLED_BEFORE, contents, planted

from deconstruct.store import publish
from deconstruct.store.rewrite import FILE

READERS, PUBLISHES, KILLS = 4, 20, 30


@contextmanager
def process(role: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "support.store_processes", role, str(home)],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def test_four_readers_during_twenty_publishes_see_no_error_and_nothing_torn(
    tmp_path: Path,
) -> None:
    runs = [planted(tmp_path, seed) for seed in range(PUBLISHES + 1)]
    publish(tmp_path, runs[0].record, runs[0].artifacts)
    with (
        process("read", tmp_path) as a,
        process("read", tmp_path) as b,
        process("read", tmp_path) as c,
        process("read", tmp_path) as d,
    ):
        for run in runs[1:]:
            publish(tmp_path, run.record, run.artifacts)
        for reader in (a, b, c, d):
            out, err = reader.communicate("stop\n", timeout=120)
            assert reader.returncode == 0, err
            found = json.loads(out)
            assert found["reads"] >= 3
            assert found["states"] >= 2  # it did see the store change
            assert found["runs"] == PUBLISHES + 1


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A data root with one run, and the bytes of its store."""
    home = tmp_path_factory.mktemp("killed")
    run = planted(home, 0)
    publish(home, run.record, run.artifacts)
    return home, (home / FILE).read_bytes()


def test_a_publish_that_is_killed_leaves_the_old_store_or_the_new_one(
    before: tuple[Path, bytes],
) -> None:
    home, old_file = before
    old = contents(home)
    new = old | {"run 1": [*contents(home)["run 0"]]}
    draw = random.Random(0)
    phases = [*KILLED_BEFORE, *KILLED_AFTER] * 2
    phases += [f"after {draw.uniform(0, 0.4):.3f}" for _ in range(KILLS - len(phases))]
    assert len(phases) == KILLS
    outcomes = []
    with process("die", home) as publisher:
        assert publisher.stdin is not None
        assert publisher.stdout is not None
        for phase in phases:
            publisher.stdin.write(f"{phase} 1\n")
            publisher.stdin.flush()
            ended_by = json.loads(publisher.stdout.readline())
            found = contents(home)
            assert set(found) in (set(old), set(new)), phase
            assert found["run 0"] == old["run 0"], phase
            assert [counts[1:] for counts in found.values()] == [old["run 0"][1:]] * len(found)
            if not phase.startswith("after"):
                assert ended_by == signal.SIGKILL, phase
                assert set(found) == (set(new) if phase in KILLED_AFTER else set(old)), phase
            outcomes.append(set(found) == set(new))
            if outcomes[-1]:  # back to the state before, beside what the dead one left
                (home / FILE).write_bytes(old_file)
    assert {True, False} <= set(outcomes)
    run = planted(home, 2)
    publish(home, run.record, run.artifacts)
    assert set(contents(home)) == {"run 0", "run 2"}
    assert [p.name for p in home.iterdir() if "duckdb" in p.name] == [FILE]


def test_a_publish_whose_disk_is_full_changes_nothing(
    before: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, old_file = before
    (home / FILE).write_bytes(old_file)

    def full(source: str, target: str) -> None:
        Path(target).write_bytes(b"some of it")
        raise OSError(28, "No space left on device")

    run = planted(home, 3)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(Exception, match="No space left on device; what was published before"):
        publish(home, run.record, run.artifacts)
    assert (home / FILE).read_bytes() == old_file
    assert [p.name for p in home.iterdir() if "duckdb" in p.name] == [FILE]
