"""However ``deconstruct serve`` ends, nothing that it has started stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from support.paths import ROOT
from support.served import children, serving

STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(0, flush=True); "
run = [sys.executable, "-c", deaf + "signal.pause()"]
with subprocess.Popen(run, start_new_session=True, stdout=subprocess.PIPE) as process:
    process.stdout.readline()
    print(process.pid, flush=True)
"""
"""A worker that waits for a run in a session of its own; neither hears of an end."""

PARENT = """
import os, subprocess, sys
child = [sys.executable, "-m", "flows.server.child", str(os.getpid()), "stubborn"]
with subprocess.Popen(child) as process:
    print(process.pid, flush=True)
"""


def gone(processes: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := [one for one in processes if Path(f"/proc/{one}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_what_does_not_hear_of_its_end_is_ended(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        own = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(Path(f"/proc/{one}").exists() for one in own)
        parent.kill()
        gone(own, 30)


@pytest.mark.parametrize(
    ("how", "seconds"), [(signal.SIGKILL, 30), (signal.SIGINT, 15)], ids=["SIGKILL", "Ctrl-C"]
)
def test_its_workers_and_their_runs_end_with_it(
    how: signal.Signals, seconds: float, tmp_path: Path, config: Path, finished: Path
) -> None:
    """Prefect's workers wait for their runs, and those for a server that is gone."""
    shutil.copytree(finished, tmp_path / "home")
    settings = tomllib.loads(config.read_text())
    settings["sae"] |= {"tokens": 10**9}
    with serving(tmp_path, "--no-gpu") as served:
        served.start("pipeline/on-demand", config=settings)
        served.wait(lambda: list(served.home.glob("sae/.*.partial/.scratch")))
        below = children(served.process.pid)
        lines = " ".join(line for _, line in below)
        assert all(name in lines for name in ("local-cpu", "prefect.engine", "embedded"))
        os.kill(served.process.pid, how)
        served.process.wait(60)
        gone([one for one, _ in below], seconds)
