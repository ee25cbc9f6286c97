"""The command that makes a run and its controls, with a real Prefect."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.running import deconstruct, environment

from deconstruct.artifacts import DataRoot
from flows.commands.controls import Row, sentence_of, table_of

BROKEN = """
from deconstruct.common.errors import ConfigError
from deconstruct.model import loading

def redraw(model, seed):
    raise ConfigError("the weights are out")

loading.redraw = redraw
from flows.cli import app
app()
"""
"""The command on a machine where no model can be drawn anew."""
KINDS = {
    "small/controls/seed-1": "seed",
    "small/controls/frozen-decoder": "frozen-decoder",
    "small/controls/random-sae": "random-sae",
    "small/controls/shuffled": "shuffled",
    "small/controls/random-model": "random-model",
}


def ask(home: Path, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        deconstruct(home, "sql", "--format", "json", query).stdout
    )
    return found


@pytest.fixture(scope="module")
def home(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One in which the run is there already, and none of its controls."""
    home = tmp_path_factory.mktemp("controls") / "home"
    shutil.copytree(finished, home)
    return home


def test_one_that_fails_loses_no_other_and_all_come_from_cache_then(
    home: Path, config: Path, server: str
) -> None:
    known = environment(home, PREFECT_API_URL=server)
    command = ["controls", str(config), "--seeds", "2"]
    [standing] = [row["run_id"] for row in ask(home, "FROM runs")]
    broken = subprocess.run(
        [sys.executable, "-c", BROKEN, *command],
        env=known, capture_output=True, text=True, timeout=480, check=False,
    )  # fmt: skip
    assert broken.returncode == 1, broken.stderr
    assert "random-model: the weights are out" in " ".join(broken.stderr.split())
    kinds = {row["name"]: row["control"] for row in ask(home, "FROM runs")}
    assert kinds == {"small": None} | {n: k for n, k in KINDS.items() if k != "random-model"}
    before = {artifact.key: artifact.manifest for artifact in DataRoot(home).artifacts()}

    done = deconstruct(home, *command, env={"PREFECT_API_URL": server, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    kinds = {row["name"]: row["control"] for row in ask(home, "FROM runs")}
    assert kinds == {"small": None} | KINDS
    after = {artifact.key: artifact.manifest for artifact in DataRoot(home).artifacts()}
    assert {key: after[key] for key in before} == before
    made = {manifest.stage for key, manifest in after.items() if key not in before}
    assert not {"corpus"} & made  # the tokenizer is the same
    assert {"activations", "sae", "latents", "evaluation", "probe"} <= made

    again = deconstruct(home, *command, env={"PREFECT_API_URL": server, "COLUMNS": "80"})
    assert {artifact.key for artifact in DataRoot(home).artifacts()} == set(after)
    assert again.stdout == done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    for shown in ("the run", "seed 1", "frozen-decoder", "random-sae", "random-model", "shuffled"):
        assert f"\n{shown} " in done.stdout

    with_controls = ask(home, "FROM control_runs('latest')")  # the run, whatever came after it
    assert [row["control"] for row in with_controls] == [
        "seed", "frozen-decoder", "random-sae", "random-model", "shuffled"
    ]  # fmt: skip
    assert ask(home, "SELECT resolve_run('latest') AS run")[0]["run"] == standing
    figures = ask(home, "FROM controls('small')")
    assert {row["control"] for row in figures} == set(KINDS.values())
    assert {"delta_loss", "kl", "accuracy of latents"} <= {row["metric"] for row in figures}


def row(control: str, metric: str, value: float, other: float, p: float | None) -> Row:
    return Row(control, 0, metric, value, other, p)


def test_the_table_marks_what_is_apart_and_the_sentence_says_what_is_not() -> None:
    found = [
        row("random-sae", "kl", 0.1, 0.5, 0.001),
        row("random-model", "kl", 0.1, 0.09, 0.001),
        row("shuffled", "kl", 0.1, 0.1, None),
        row("random-sae", "accuracy of latents", 0.9, 0.88, 0.2),
        row("random-model", "accuracy of latents", 0.9, 0.4, 0.001),
        row("shuffled", "accuracy of latents", 0.9, 0.3, 0.001),
    ]
    assert table_of(found) == (
        ["", "kl", "probe"],
        [
            ["the run", "0.100", "0.900"],
            ["random-sae", "0.500*", "0.880 "],
            ["random-model", "0.090*", "0.400*"],
            ["shuffled", "", "0.300*"],
        ],
    )
    told = sentence_of(found)
    assert told.endswith("are: kl (random-model); probe (random-sae).")
    assert sentence_of(found[:1]).endswith(
        "better than every control on every figure that is paired."
    )
    assert sentence_of([]) == "There are no controls of it in the store yet."
    assert "not known" in sentence_of([row("random-sae", "kl", 0.1, 0.5, None)])
