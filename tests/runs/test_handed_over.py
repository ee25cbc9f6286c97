"""A data root of somebody else: none of its files decides what code runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import (
    COMMAND,
    STAGES,
    cached_stages,
    deconstruct,
    digests,
    environment,
)
from support.traps import pickled, record

LOGGING = """
version: 1
handlers:
  theirs:
    (): pathlib.Path
    class: {touch}
formatters:
  theirs:
    (): subprocess.getoutput
    cmd: "touch {touch}"
"""


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    """A copy of a home in which a run has finished, as a colleague hands it over."""
    shutil.copytree(finished, tmp_path / "home")
    return tmp_path / "home"


def test_records_logging_settings_and_profiles_run_nothing(
    home: Path, config: Path, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    before, storage = digests(home), home / ".prefect" / "storage"
    stages = [path for path in storage.iterdir() if "-" in path.name]
    assert len(stages) == len(STAGES)
    for path in storage.iterdir():
        path.write_text(record(pickled(touched), {"type": "pickle"}))
    (home / ".prefect" / "logging.yml").write_text(LOGGING.format(touch=touched))
    (home / ".prefect" / "profiles.toml").write_text(
        'active = "theirs"\n[profiles.theirs]\nPREFECT_LOGGING_CONFIG_PATH = "'
        f'{home}/.prefect/logging.yml"\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    )
    done = deconstruct(home, "run", config)
    assert done.returncode == 0, done.stderr
    assert not touched.exists()
    assert all(cached_stages(done.stderr).values())
    assert len(cached_stages(done.stderr)) == len(STAGES)
    assert digests(home) == before
    assert not any("pickle" in path.read_text() for path in stages)


@pytest.mark.parametrize("name", [".env", "prefect.toml", "pyproject.toml"])
def test_settings_in_the_data_root_are_refused(name: str, home: Path, config: Path) -> None:
    (home / name).write_text("")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "run", str(config), "--home", "."],
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert f"'{name}' in the data root" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name", ["", ".prefect.db.lock", "server.log", "server.json", "prefect.db", "storage"]
)
def test_nothing_is_written_where_a_link_in_prefects_folder_leads(
    name: str, tmp_path: Path
) -> None:
    """`retry` opens its server's lock and log before it knows that there is nothing to do."""
    outside, state = tmp_path / "outside", tmp_path / "home" / ".prefect"
    outside.mkdir()
    (outside / "precious").write_text("as it was")
    if name:
        state.mkdir(parents=True)
        (state / "prefect.db").touch()
        (state / name).unlink(missing_ok=True)
        (state / name).symlink_to(outside / "precious" if name != "storage" else outside)
    else:
        state.parent.mkdir()
        state.symlink_to(outside)
    done = deconstruct(tmp_path / "home", "retry")
    assert done.returncode == 1
    assert "is a link or no file" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "as it was"
