"""A schedule's first week, each night the command that the schedule runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.running import deconstruct, write_config
from support.texts import write_texts
from support.tiny_models import save_tiny

from deconstruct.store import open_store


class Week:
    """A home, a model and a source that change from night to night."""

    def __init__(self, folder: Path, server: str) -> None:
        self.home = folder / "home"
        self.model = save_tiny("llama", folder / "tiny-llama")
        self.source = write_texts(folder / "news.csv")
        self.config = write_config(folder / "nightly.toml", self.model, self.source)
        self.server = server

    def night(self, *changes: str, own_server: bool = False, growth: str = "encode") -> str:
        """Run as the schedule does; what the command said."""
        settings = [argument for change in changes for argument in ("--set", change)]
        env = {} if own_server else {"PREFECT_API_URL": self.server}
        done = deconstruct(self.home, "run", self.config, "--growth", growth, *settings, env=env)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def rows(self) -> list[list[str]]:
        return list(csv.reader(self.source.open()))

    def write(self, rows: list[list[str]]) -> None:
        with self.source.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with open_store(self.home) as store:
            return store.execute(query).fetchall()


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory, server: str) -> Week:
    """The whole of it; the tests look at what it left."""
    week = Week(tmp_path_factory.mktemp("week"), server)
    week.night()  # 1: trains the first SAE
    week.night()  # 2: no news
    week.night("name=trial", growth="anew")  # somebody tries the same settings under another name
    folder = week.source.parent
    new = list(csv.reader(write_texts(folder / "new.csv", 12, seed=9).open()))[1:]
    week.write([*week.rows(), *new])
    week.night(own_server=True)  # 3: new documents; the server is another one since
    header, *rows = week.rows()
    week.write([header, *([text, {"film": "cinema"}.get(label, label)] for text, label in rows)])
    week.night()  # 4: labels corrected
    weights = load_file(week.model / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 3
    save_file(weights, week.model / "model.safetensors", metadata={"format": "pt"})
    said = week.night()  # 5: the model was trained on
    assert "have changed since run" in said
    return week


def test_history_has_every_night(week: Week) -> None:
    found = week.ask(
        "SELECT name, growth, len(made) > 0, run_id FROM executions ORDER BY execution"
    )
    assert [row[:3] for row in found] == [
        ("small", "encode", True),
        ("small", "encode", False),
        ("trial", "anew", False),
        ("small", "encode", True),
        ("small", "encode", True),
        ("small", "encode", True),
    ]
    runs = [row[3] for row in found]
    assert runs[0] == runs[1] == runs[2]
    assert len(set(runs)) == 4
    assert week.ask("SELECT count(*) FROM metrics_over_time() WHERE name = 'small'") == [(5,)]


def test_names_mean_what_they_were_given_to(week: Week) -> None:
    runs = [run for (run,) in week.ask("SELECT run_id FROM executions ORDER BY execution")]
    assert week.ask("SELECT resolve_run('trial'), resolve_run('small'), resolve_run('latest')") == [
        (runs[0], runs[-1], runs[-1])
    ]


def test_drift_is_of_the_nights_that_kept_an_sae_on_new_documents(week: Week) -> None:
    runs = [run for (run,) in week.ask("SELECT run_id FROM executions ORDER BY execution")]
    assert {run for (run,) in week.ask("SELECT DISTINCT run_id FROM drift")} == {runs[3], runs[4]}
    keys = dict(week.ask("SELECT run_id, key FROM stages WHERE stage = 'sae'"))
    assert keys[runs[0]] == keys[runs[3]] == keys[runs[4]] != keys[runs[5]]


def test_labels_are_those_of_the_source_now(week: Week) -> None:
    runs = [run for (run,) in week.ask("SELECT run_id FROM executions ORDER BY execution")]
    labels = {
        run: {
            label
            for (label,) in week.ask(f"SELECT DISTINCT label FROM documents WHERE run_id = '{run}'")
        }
        for run in (runs[3], runs[4], runs[5])
    }
    assert labels[runs[3]] == {"business", "sport", "film"}
    assert labels[runs[4]] == labels[runs[5]] == {"business", "sport", "cinema"}
    assert week.ask(f"SELECT documents FROM runs WHERE run_id = '{runs[4]}'") == [(132,)]
