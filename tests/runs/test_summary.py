"""What a finished run or sweep prints, and what it tells to type next."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import duckdb
import pytest
from rich.console import Console
from support.store_artifacts import LABELS, SPORT_LATENT, plant
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.config import GatesConfig
from deconstruct.store import open_store, publish, render
from deconstruct.store.headlines import HEADLINES
from flows import summary
from flows.summary import findings, print_front, print_summary


def narrow(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """A terminal so wide."""
    for module in (summary, render):
        monkeypatch.setattr(module, "terminal", lambda: Console(width=width), raising=False)
    monkeypatch.setenv("COLUMNS", str(width))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a sweep, under names that a shell and SQL must quote."""
    folder = tmp_path_factory.mktemp("a home")
    for seed in (0, 1):
        run = plant(folder, "it's a sweep", seed=seed)
        publish(folder, run.record, run.artifacts)
    with duckdb.connect(folder / "deconstruct.duckdb") as store:
        store.execute("UPDATE runs SET d_sae = 131072, l0 = 1254.25, architecture = 'batchtopk'")
    return folder


def next_queries(page: str) -> list[list[str]]:
    """The commands that were told, as a shell splits them."""
    told = page.split("next\n")[1]
    return [shlex.split(line)[1:] for line in told.splitlines() if line.strip()]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_front_says_what_it_hides_and_cuts_no_number(
    home: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(monkeypatch, width)
    print_front(home, "it's a sweep")
    page = capsys.readouterr().out
    assert page.count("1254") == page.count("131072") == 2
    for heading in ("dead", "delta_loss", "95%", "seed", "fvu_typical"):
        assert heading in page
    ((command, query, *rest),) = next_queries(page)
    found = CliRunner().invoke(app, [command, query, *rest, "--format", "csv"])
    assert found.exit_code == 0, found.output
    assert found.stdout.count("\n") == 3


@pytest.mark.parametrize("width", [40, 80])
def test_the_query_of_a_summary_is_about_its_run_alone(
    home: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with duckdb.connect(home / "deconstruct.duckdb", read_only=True) as store:
        (run,) = store.execute("SELECT min(run_id) FROM runs").fetchone() or ()
    narrow(monkeypatch, width)
    print_summary(home, run)
    page = capsys.readouterr().out
    assert re.search(r"0\.96\d", page)
    for arguments in next_queries(page):
        found = CliRunner().invoke(app, arguments)
        assert found.exit_code == 0, found.output
    found = CliRunner().invoke(app, [*next_queries(page)[-1], "--format", "csv"])
    assert found.stdout.count("\n") == 1 + 3 * 3  # three of each label, of one run


def test_a_summary_has_clusters_a_latent_and_which_end_is_better_in_80_columns(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with duckdb.connect(home / "deconstruct.duckdb", read_only=True) as store:
        (run,) = store.execute("SELECT min(run_id) FROM runs").fetchone() or ()
    narrow(monkeypatch, 80)
    print_summary(home, run)
    page = capsys.readouterr().out.split("\nnext\n")[0]
    assert all(len(line) <= 80 for line in page.splitlines())
    for line in (
        r"variance unexplained, no outliers +0\.3\d+ +[\d.]+ \.\. [\d.]+ +lower is better",
        r"loss added to the model, in nats .+ lower is better",
        r"loss recovered, first tokens kept .+ higher is better",
        r"probe accuracy on latents .+ higher is better",
        r"probe accuracy on majority .+ a baseline",
        r"clusters agree with labels \(NMI\) .+ higher is better",
        r"13 documents +80% business +match, goal",
        r"Latent 7 speaks most for 'sp'ort; D.*' in the probe; it is strongest in:",
    ):
        assert re.search(line, page), line
    assert len(re.findall(r"^  .*«goal».*$", page, re.MULTILINE)) == 3
    assert "latents that fire on a token" in page  # of which neither fewer nor more is better


def test_each_headline_says_how_it_is_read() -> None:
    readings = {headline.name: headline.reading for headline in HEADLINES}
    assert [name for name, reading in readings.items() if not reading] == ["l0"]
    for name, reading in readings.items():
        gate = {"max": "lower is better", "min": "higher is better"}
        for side, better in gate.items():
            if f"{side}_{name}" in GatesConfig.model_fields:
                assert reading == better


def test_which_latent_is_shown_without_a_probe_and_without_clusters(tmp_path: Path) -> None:
    run = plant(tmp_path, "bare")
    run_id = publish(tmp_path, run.record, run.artifacts)
    with open_store(tmp_path) as store:
        told = findings(store, run_id).latent
    assert told is not None
    assert (told.number, told.label) == (SPORT_LATENT, LABELS[1])
    for table, number, why in (
        ("probe_weights", SPORT_LATENT, "sets the largest cluster apart"),
        ("cluster_summary", int((run.activations > 0).sum(0).argmax()), "fires most often"),
    ):
        with duckdb.connect(tmp_path / "deconstruct.duckdb") as store:
            store.execute(f"DELETE FROM {table}")
        with open_store(tmp_path) as store:
            told = findings(store, run_id).latent
        assert told is not None
        assert (told.number, told.label, told.why) == (number, None, why)
        assert told.contexts
