"""What a real run leaves for the Prefect UI: names, tags, progress, results, where they lie."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.prefect_api import ask
from support.running import STAGES, artifacts, environment
from typer.testing import CliRunner

from flows.cli import app

WITHOUT_PATIENCE = """
from flows import cli
started = cli.started

def started_and_impatient(*arguments):
    root = started(*arguments)
    from tasks import progress
    progress.EVERY_SECONDS = 0.0
    return root

cli.started = started_and_impatient
cli.app()
"""
"""The command, telling of progress at once; Prefect is imported when its settings are there."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, config: Path, server: str) -> dict[str, Any]:
    """A flow run as the server knows it, and its artifacts by key; progress told at once."""
    home = tmp_path_factory.mktemp("seen") / "it's home"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PATIENCE, "run", str(config)],
        env=environment(home, PREFECT_API_URL=server),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    asked = {"sort": "START_TIME_DESC", "flows": {"name": {"any_": ["pipeline"]}}}
    runs = ask(server, "POST", "/flow_runs/filter", asked)
    (own,) = [r for r in runs if r["parameters"]["home"] == str(home)]
    where = {"artifacts": {"flow_run_id": {"any_": [own["id"]]}}}
    left = ask(server, "POST", "/artifacts/filter", where)
    return {"home": home, "run": own, "artifacts": {made["key"]: made for made in left}}


def test_its_name_and_tags_tell_model_layer_and_k(run: dict[str, Any]) -> None:
    assert run["run"]["name"] == "small: tiny-llama 1.resid_post topk-4"
    assert set(run["run"]["tags"]) == {"tiny-llama", "layer-1", "topk", "topk-4"}


def test_its_log_says_how_each_stage_went(run: dict[str, Any], server: str) -> None:
    where = {"logs": {"flow_run_id": {"any_": [run["run"]["id"]]}}}
    lines = ask(server, "POST", "/logs/filter", where)
    said = [line["message"].split()[:2] for line in lines if line["name"] == "deconstruct.stages"]
    done = [stage for stage, how in said if how == "done"]
    assert done[:5] == list(STAGES[:5])
    assert sorted(done[5:]) == sorted(STAGES[5:])  # side by side


def test_its_graph_shows_what_was_made_from_what(run: dict[str, Any], server: str) -> None:
    graph = ask(server, "GET", f"/flow_runs/{run['run']['id']}/graph-v2")
    nodes = {node["id"]: node for _, node in graph["nodes"]}
    name = {key: node["label"].rsplit("-", 1)[0] for key, node in nodes.items()}
    made_from = {
        name[key]: {name[parent["id"]] for parent in node["parents"]} for key, node in nodes.items()
    }
    assert made_from == {
        "corpus": set(),
        "activations": {"corpus"},
        "reference": {"corpus", "activations"},
        "sae": {"activations"},
        "latents": {"corpus", "activations", "sae"},
        "evaluation": {"reference", "sae", "latents"},
        "probe": {"corpus", "activations", "latents"},
        "cluster": {"corpus", "activations", "latents"},
        "interpretation": {"corpus", "latents"},
        "map": {"corpus", "activations", "reference", "latents"},
        "store": set(STAGES),
    }


def test_every_long_stage_leaves_its_progress_which_ends_at_100(run: dict[str, Any]) -> None:
    progress = {k: a for k, a in run["artifacts"].items() if a["type"] == "progress"}
    long = ("activations", "reference", "sae", "latents", "evaluation")
    assert {f"{stage}-progress" for stage in long} <= set(progress)
    assert {key: made["data"] for key, made in progress.items()} == dict.fromkeys(progress, 100)
    assert all(made["task_run_id"] for made in progress.values())
    assert progress["sae-progress"]["description"].startswith("sae: 19,")


def test_the_table_has_figures_with_intervals(run: dict[str, Any]) -> None:
    table = run["artifacts"]["results-small-1-resid-post"]
    assert table["type"] == "table"
    rows = {row["metric"]: row for row in json.loads(table["data"])}
    fvu = rows["variance unexplained, no outliers"]
    assert fvu["from"] < fvu["value"] < fvu["to"]
    assert fvu["reading"] == "lower is better"
    assert rows["probe accuracy on latents"]["reading"] == "higher is better"
    assert rows["probe accuracy on majority"]["reading"] == "a baseline"


def test_the_markdown_links_and_names_what_can_be_opened(run: dict[str, Any]) -> None:
    text = run["artifacts"]["run-small-1-resid-post"]["data"]
    (link,) = re.findall(r"\]\(/artifacts/artifact/([^)]+)\)", text)
    assert link == run["artifacts"]["results-small-1-resid-post"]["id"]
    made_from = text.split("## Made from")[1]
    folders = dict(re.findall(r"^\| (\w+) \| [^|]+ \| `([^`]+)` \|$", made_from, re.MULTILINE))
    assert folders == {s: str(artifacts(run["home"])[s].path) for s in STAGES}
    assert f"`{run['home'] / 'deconstruct.duckdb'}`" in text
    commands = re.findall(r"^    deconstruct (.+)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, result.output


def test_the_form_says_what_each_parameter_is(finished: Path) -> None:
    """Prefect takes the descriptions from the flow's docstring."""
    asked = (
        "import json; from prefect.utilities.callables import parameter_schema as schema; "
        "from flows.pipeline import pipeline; "
        "print(json.dumps(schema(pipeline.fn).model_dump_for_openapi()['properties']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked],
        env=environment(finished),
        capture_output=True,
        text=True,
        check=True,
    )
    fields = json.loads(done.stdout)
    assert set(fields) == {"config", "home", "device", "growth", "engine", "sae_of"}
    assert all(field["description"] for field in fields.values())
