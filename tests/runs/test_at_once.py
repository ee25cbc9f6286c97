"""Commands that start at the same moment on a data root where runs have died."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import uuid4

from support.running import COMMAND, cached_stages, digests, environment

from deconstruct.artifacts import running


def test_three_equal_runs_over_many_dead_ones(finished: Path, config: Path, tmp_path: Path) -> None:
    """Each looks for runs that died, and one takes what another has just seen."""
    home = tmp_path / "home"
    shutil.copytree(finished, home)
    for _ in range(30):
        (home / ".runs" / str(uuid4())).touch()
    before = digests(home)
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, "run", str(config)],
            env=environment(home),
            cwd=tempfile.gettempdir(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for command in commands:
        _, said = command.communicate(timeout=480)
        assert command.returncode == 0, said
        assert "Traceback" not in said
        assert all(cached_stages(said).values())
    assert digests(home) == before
    assert len(list(running.dead(home))) <= len(commands)
