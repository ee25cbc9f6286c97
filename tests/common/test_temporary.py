"""Temporary folders: gone with their process, or with the next one if it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OWN = """
import sys
from deconstruct.common.temporary import own_folder
assert own_folder() == own_folder()
(own_folder() / "spill").mkdir()
(own_folder() / "spill" / "rows").write_text("x")
print(own_folder(), flush=True)
input()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def started(place: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWN],
        env=os.environ | {"TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def old(folder: Path) -> None:
    os.utime(folder, (time.time() - 3600,) * 2)


def test_it_is_nobody_elses_and_goes_with_its_process(place: Path) -> None:
    process, folder = started(place)
    assert folder.parent == place
    assert folder.stat().st_mode & 0o777 == 0o700
    process.communicate("\n")
    assert list(place.iterdir()) == []


def test_that_of_a_killed_process_goes_with_the_next_and_no_other(place: Path) -> None:
    living, kept = started(place)
    killed, left = started(place)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    other = place / "deconstruct.txt"
    other.write_text("mine")
    (place / "deconstruct-file").write_text("mine")
    outside = place.parent / "outside"
    outside.mkdir()
    (place / "deconstruct-link").symlink_to(outside)
    for folder in (kept, left, outside):
        old(folder)
    third, own = started(place)
    assert not left.exists()
    assert (kept / "spill" / "rows").exists()
    third.communicate("\n")
    living.communicate("\n")
    assert outside.exists()
    assert not own.exists()
    assert sorted(path.name for path in place.iterdir()) == [
        "deconstruct-file", "deconstruct-link", "deconstruct.txt",
    ]  # fmt: skip
