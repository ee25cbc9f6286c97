"""Locks of runs: seen from their first moment, dead with their process, each for one to clear."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deconstruct.artifacts import DataRoot, Recipe, running

HELD = """
import sys, time
from pathlib import Path
from deconstruct.artifacts import running
lock = running.hold(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
input()
"""
CLEAR = """
import sys, time
from pathlib import Path
from deconstruct.artifacts import running
begin = float(sys.argv[2])
time.sleep(max(0, begin - time.time()))
for run in running.dead(Path(sys.argv[1])):
    print(run, flush=True)
    time.sleep(0.001)
"""


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_run_lives_until_its_process_is_killed(tmp_path: Path) -> None:
    run, before = str(uuid4()), time.time()
    with process(HELD, tmp_path, run) as held:
        assert held.stdout is not None
        held.stdout.readline()
        assert list(running.living(tmp_path)) == [run]
        assert before - 1 < running.living(tmp_path)[run] < time.time() + 1
        assert list(running.dead(tmp_path)) == []
        assert running.has_lock(tmp_path, run)
        os.kill(held.pid, signal.SIGKILL)
        held.wait()
    assert running.living(tmp_path) == {}
    assert list(running.dead(tmp_path)) == [run]
    assert not running.has_lock(tmp_path, run)


def test_a_run_that_is_taken_up_again_has_its_lock_although_it_had_died(tmp_path: Path) -> None:
    run = str(uuid4())
    running.hold(tmp_path, run).close()
    with running.hold(tmp_path, run):
        assert list(running.dead(tmp_path)) == []
        assert list(running.living(tmp_path)) == [run]


def test_commands_that_start_at_once_share_the_dead_runs_out(tmp_path: Path) -> None:
    """Each dead run goes to one of them, and none ends for what another has removed."""
    runs = sorted(str(uuid4()) for _ in range(300))
    for run in runs:
        running.hold(tmp_path, run).close()
    commands = [process(CLEAR, tmp_path, time.time() + 2) for _ in range(4)]
    found = []
    for command in commands:
        said, _ = command.communicate("")
        assert command.returncode == 0
        found.append(said.split())
    assert sorted(run for some in found for run in some) == runs
    assert sum(map(bool, found)) > 1


def test_a_run_whose_caller_fails_is_found_again(tmp_path: Path) -> None:
    run = str(uuid4())
    running.hold(tmp_path, run).close()
    dead: Any = running.dead(tmp_path)
    assert next(dead) == run
    with pytest.raises(ConnectionError):
        dead.throw(ConnectionError)
    assert list(running.dead(tmp_path)) == [run]


def test_what_is_no_lock_of_a_run_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    folder = tmp_path / running.FOLDER
    folder.mkdir()
    (folder / str(uuid4())).mkdir()
    (folder / str(uuid4())).symlink_to(precious)
    os.mkfifo(folder / str(uuid4()))
    (folder / "some-thing").write_text("")
    (folder / f".{uuid4()}.123").write_text("")
    before = sorted(folder.iterdir())
    assert list(running.dead(tmp_path)) == []
    assert running.living(tmp_path) == {}
    assert sorted(folder.iterdir()) == before
    assert precious.read_text() == "as it was"


def test_a_link_to_another_folder_is_not_followed(tmp_path: Path) -> None:
    """Files there may have names like those of runs."""
    (tmp_path / "home").mkdir()
    (tmp_path / "outside").mkdir()
    precious = tmp_path / "outside" / str(uuid4())
    precious.touch()
    (tmp_path / "home" / running.FOLDER).symlink_to(tmp_path / "outside")
    assert list(running.dead(tmp_path / "home")) == []
    run = str(uuid4())
    with running.hold(tmp_path / "home", run):
        assert list(running.living(tmp_path / "home")) == [run]
    assert list((tmp_path / "outside").iterdir()) == [precious]


def test_nor_is_one_in_the_place_of_the_locks_of_keys(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "home" / ".locks").symlink_to(tmp_path / "outside")
    DataRoot(tmp_path / "home").make(
        Recipe("corpus", 1, {}, {}), lambda draft: draft.write_json("a.json", 1)
    )
    assert not list((tmp_path / "outside").iterdir())
