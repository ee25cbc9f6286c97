"""Recurring runs over a growing corpus, through the command: kept, compared, gated, retrained."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.running import STAGES, cached_stages, deconstruct
from support.texts import write_texts

from deconstruct.artifacts import DataRoot
from deconstruct.store import open_store


@pytest.fixture(scope="module")
def home(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one run; the tests of this file go on from one another."""
    folder = tmp_path_factory.mktemp("growing")
    shutil.copytree(finished, folder / "home")
    return folder / "home"


@pytest.fixture(scope="module")
def grown(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts and a tenth more."""
    folder = tmp_path_factory.mktemp("grown")
    path = folder / "more.csv"
    rows = list(csv.reader(texts.open()))
    new = list(csv.reader(write_texts(folder / "new.csv", 12, seed=9).open()))[1:]
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([rows[0], *new, *rows[1:]])
    return path


def ask(home: Path, query: str) -> list[dict[str, Any]]:
    with open_store(home) as store:
        found = store.execute(query)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def test_a_gate_stops_what_is_not_good_enough_before_it_is_published(
    home: Path, config: Path, grown: Path, server: str
) -> None:
    env = {"PREFECT_API_URL": server}
    new = ("--growth", "encode", "--set", f"corpus.source={grown}")
    failed = deconstruct(home, "run", config, *new, "--set", "gates.max_fvu_ratio=0.01", env=env)
    assert failed.returncode == 1
    assert "error: gates.max_fvu_ratio = 0.01, but fvu_ratio is" in failed.stderr
    assert "the run is not published, and the standing one stays" in failed.stderr
    assert len(ask(home, "SELECT run_id FROM runs")) == 1

    run = deconstruct(home, "run", config, *new, "--set", "gates.max_fvu_ratio=100", env=env)
    assert run.returncode == 0, run.stderr
    assert cached_stages(run.stderr) == {stage: True for stage in STAGES if stage != "sae"}
    (first, second) = ask(home, "SELECT run_id, documents FROM runs ORDER BY published")
    assert f"sae          of run {first['run_id']}" in run.stderr
    assert (first["documents"], second["documents"]) == (120, 132)
    keys = ask(home, "SELECT DISTINCT key FROM stages WHERE stage = 'sae'")
    assert len(keys) == 1


def test_drift_is_reported_against_what_the_sae_was_trained_on(home: Path) -> None:
    rows = ask(home, "FROM drift ORDER BY subject, metric")
    found = {(row["subject"], row["metric"]): row for row in rows}
    fvu = found["reconstruction", "fvu_train_mean"]
    assert 0 < fvu["reference"] < 1 < 100 * fvu["current"]
    assert fvu["ci_low"] <= fvu["difference"] <= fvu["ci_high"]
    shares = [row["current"] for (subject, _), row in found.items() if subject == "label share"]
    assert sum(shares) == pytest.approx(1)
    assert found["label share", "sport"]["n_current"] == 12
    assert 0 < found["distance", "latents"]["current"] < 1
    assert found["distance", "labels"]["current"] == pytest.approx(0, abs=1e-9)
    densities = ask(
        home,
        "SELECT count(*) AS n, sum(reference_density) AS before, sum(current_density) AS since "
        "FROM latent_drift",
    )
    assert densities[0]["n"] == 64
    assert densities[0]["before"] == pytest.approx(4, abs=0.01)  # k: the sum of densities is l0
    assert densities[0]["since"] == pytest.approx(4, abs=0.01)


def test_warm_retraining_starts_from_the_standing_sae_and_keeps_one_that_has_seen_all(
    home: Path, config: Path, grown: Path, server: str
) -> None:
    new = ("--growth", "retrain-warm", "--set", f"corpus.source={grown}")
    asked = "SELECT key FROM stages JOIN runs USING (run_id) WHERE stage = 'sae' ORDER BY published"
    standing = ask(home, asked)[-1]["key"]
    run = deconstruct(home, "run", config, *new, env={"PREFECT_API_URL": server})
    assert run.returncode == 0, run.stderr
    cached = cached_stages(run.stderr)
    assert (cached["corpus"], cached["activations"], cached["sae"]) == (True, True, False)
    (key,) = {row["key"] for row in ask(home, asked)} - {standing}
    warm = DataRoot(home).open("sae", key)
    assert warm.manifest.inputs["start"] == standing
    assert warm.facts["tokens"] == 5120  # a quarter of 20,000, in whole steps

    before = ask(home, "SELECT run_id FROM runs")
    again = deconstruct(home, "run", config, *new, env={"PREFECT_API_URL": server})
    assert again.returncode == 0, again.stderr
    assert f"({key[:12]})" in next(x for x in again.stderr.splitlines() if x.startswith("sae  "))
    assert ask(home, "SELECT run_id FROM runs") == before


def test_retraining_takes_all_documents_and_computes_no_activations_again(
    home: Path, config: Path, grown: Path, server: str
) -> None:
    new = ("--growth", "retrain", "--set", f"corpus.source={grown}")
    run = deconstruct(home, "run", config, *new, env={"PREFECT_API_URL": server})
    assert run.returncode == 0, run.stderr
    cached = cached_stages(run.stderr)
    assert (cached["corpus"], cached["activations"], cached["sae"]) == (True, True, False)
    assert "drift" not in run.stderr


def test_drift_of_a_transcoder_is_about_what_it_writes(
    home: Path, config: Path, grown: Path, server: str
) -> None:
    coded = (
        "--set", "name=coded", "--set", "sae.output_site=2.mlp_out",
        "--set", "activations.sites=['1.resid_post', '2.mlp_out']",
    )  # fmt: skip
    env = {"PREFECT_API_URL": server}
    first = deconstruct(home, "run", config, *coded, env=env)
    assert first.returncode == 0, first.stderr
    more = ("--growth", "encode", "--set", f"corpus.source={grown}")
    second = deconstruct(home, "run", config, *coded, *more, env=env)
    assert second.returncode == 0, second.stderr
    query = (
        "SELECT reference, (SELECT value FROM sae_metrics WHERE metric = 'fvu' "
        "AND text = 'own' AND run_id = "
        "(SELECT run_id FROM runs WHERE name = 'coded' ORDER BY published LIMIT 1)) AS judged "
        "FROM drift JOIN runs USING (run_id) "
        "WHERE runs.name = 'coded' AND metric = 'fvu_train_mean'"
    )
    (row,) = ask(home, query)
    # The held-out tokens of the first evaluation, about the train mean in place of their own
    assert row["reference"] == pytest.approx(row["judged"], rel=0.05)


def test_what_can_not_grow_is_said(home: Path, config: Path, server: str) -> None:
    """The limit is part of the settings: a run with another one has no standing run yet."""
    first = deconstruct(
        home, "run", config, "--growth", "encode", "--set", "sae.seed=5", "--set",
        "corpus.source=/nowhere.csv", env={"PREFECT_API_URL": server},
    )  # fmt: skip
    assert first.returncode == 1
    assert "there is no '/nowhere.csv'" in first.stderr
