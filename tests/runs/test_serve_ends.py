"""However ``deconstruct serve`` ends, nothing that it has started stays."""

from __future__ import annotations

import os
import shutil
import signal
import time
import tomllib
from pathlib import Path

import pytest
from support.served import children, serving


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_its_workers_and_their_runs_end_with_it(
    how: signal.Signals, tmp_path: Path, config: Path, finished: Path
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
        deadline = time.monotonic() + 60
        while left := [one for one in below if Path(f"/proc/{one[0]}").exists()]:
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
