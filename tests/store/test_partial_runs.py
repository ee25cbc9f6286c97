"""Runs that lack what a stage left out: no drift, or files of a later release."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from support.store_artifacts import Planted, plant
from typer.testing import CliRunner

from deconstruct.artifacts.manifest import MANIFEST
from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.config import OPTIONAL_STAGES
from deconstruct.store import export_run, open_store, publish
from deconstruct.store.schema import RELATIONS


def without(planted: Planted, stages: tuple[str, ...]) -> Planted:
    left = {stage: made for stage, made in planted.artifacts.items() if stage not in stages}
    return replace(planted, artifacts=left)


def published(home: Path, planted: Planted) -> Path:
    publish(home, planted.record, planted.artifacts)
    return home


@pytest.mark.parametrize("stages", [OPTIONAL_STAGES, *((stage,) for stage in OPTIONAL_STAGES)])
def test_a_run_without_optional_stages_is_exported_whole(
    tmp_path: Path, stages: tuple[str, ...]
) -> None:
    home = published(tmp_path, without(plant(tmp_path), stages))
    run = export_run(home, "demo", tmp_path / "demo.duckdb")
    with (
        duckdb.connect(tmp_path / "demo.duckdb", read_only=True) as copy,
        open_store(home) as store,
    ):
        for relation in RELATIONS:
            count = f"SELECT count(*) FROM {relation.name}"
            assert copy.execute(count).fetchall() == store.execute(count).fetchall()
            if relation.stage in stages:
                assert copy.execute(count).fetchall() == [(0,)]
        assert copy.execute("SELECT run_id FROM runs").fetchall() == [(run,)]
        assert len(copy.execute("FROM top_contexts('demo', 7)").fetchall()) > 0


def test_a_file_that_an_older_release_did_not_write_is_an_empty_table(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    home = published(tmp_path, planted)
    folder = planted.artifacts["evaluation"].path
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]["feature_logits.parquet"], manifest["digest"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / "feature_logits.parquet").unlink()
    export_run(home, "demo", tmp_path / "demo.duckdb")
    with duckdb.connect(tmp_path / "demo.duckdb", read_only=True) as copy:
        assert copy.execute("SELECT count(*) FROM feature_logits").fetchall() == [(0,)]
    (planted.artifacts["latents"].path / "latents.parquet").unlink()  # this one is listed
    with pytest.raises(
        StorageError, match=r"latents\.parquet is missing, of run demo .*run --again"
    ):
        export_run(home, "demo", tmp_path / "again.duckdb")


def test_every_reading_command_takes_a_run_without_drift(tmp_path: Path) -> None:
    home = published(tmp_path, without(plant(tmp_path), OPTIONAL_STAGES))
    for command in (("runs",), ("show",), ("latent", "demo", "7"), ("sql", "FROM latent_drift")):
        result = CliRunner().invoke(app, [*command, "--home", str(home)])
        assert result.exit_code == 0, result.output
        assert "rift" not in result.stdout
    result = CliRunner().invoke(
        app, ["export", "demo", str(tmp_path / "x.duckdb"), "--home", str(home)]
    )
    assert result.exit_code == 0, result.output


def test_the_page_of_a_run_has_its_drift(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    home = published(tmp_path, planted)
    page = CliRunner().invoke(app, ["show", "--home", str(home)]).stdout
    drift = page.split("Drift of the documents since the SAE was trained")[1].splitlines()
    assert drift[2].split() == [
        "reconstruction",
        "fvu_train_mean",
        "0.2",
        "0.3",
        "0.1",
        "0.05",
        "0.15",
    ]
    assert drift[3].split()[-3:] == ["0.4", "0.1", "-0.3"]
    drifted = page.split("Latents whose firing drifted most")[1].splitlines()
    assert drifted[1].split() == ["latent", "reference", "current", "log2_ratio", "top_token"]
    assert len(drifted[2].split()) == 5
