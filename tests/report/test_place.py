"""Where a page is written: below the data root, whatever a store says its runs are called."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from support.store_artifacts import plant
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.store import publish, remove_runs
from deconstruct.store.query import report_file
from deconstruct.store.rewrite import FILE
from deconstruct.store.schema import RELATIONS


@pytest.mark.parametrize("run_id", ["../../x", "/etc/x", "..", "", "a/b", "a\0b", "a\nb"])
def test_a_run_id_that_is_no_name_of_a_file_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(StorageError, match="run_id"):
        report_file(tmp_path, run_id)


def test_a_store_of_others_names_no_file_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    planted = plant(home)
    publish(home, planted.record, planted.artifacts)
    with duckdb.connect(home / FILE) as store:
        for one in RELATIONS:
            if one.stored and one.name != "meta":
                store.execute(f"UPDATE \"{one.name}\" SET run_id = '../../precious'")
    precious = tmp_path / "precious.html"
    precious.write_text("precious")
    told = CliRunner().invoke(app, ["report", "latest", "--home", str(home)])
    assert told.exit_code == 1
    assert "run_id" in told.output
    remove_runs(home, ["latest"])
    assert precious.read_text() == "precious"
