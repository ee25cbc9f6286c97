"""Sweeps: members trained in processes, and the command, which leaves runs and a Pareto front."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.prefect_api import ask
from support.running import artifacts, deconstruct, environment

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import SaeConfig
from deconstruct.sae import stage as sae

SPREAD = """
import json, sys
from prefect import flow
from deconstruct.artifacts import DataRoot
from deconstruct.config import SaeConfig
from deconstruct.sae import stage
from tasks.spread import Spread
from tasks.stage import Ref
from tasks.training import sae_members

kind, home, key, settings = sys.argv[1:]
members = [SaeConfig.model_validate(own) for own in json.loads(settings)]

@flow
def spread():
    activity = DataRoot(home).open("activations", key)
    recipes = [stage.recipe(member, activations=activity) for member in members]
    inputs = {"activations": Ref.of(activity), "output": None, "device": "cpu"}
    inputs["engine"] = Spread(kind=kind, workers=2)
    work = sae_members.task.with_options(refresh_cache=True)  # other homes have had these keys
    return work(recipes, home, members, inputs)

print(json.dumps([[ref.key, ref.made] for ref in spread()]))
"""


def groups_trained(server: str) -> int:
    """How many tasks have trained a group of members, as the server knows."""
    done = {"name": {"like_": "members"}, "state": {"name": {"any_": ["Completed"]}}}
    return int(ask(server, "POST", "/task_runs/count", {"task_runs": done}))


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_members_trained_in_processes_are_the_same(
    engine: str,
    root: DataRoot,
    activations_artifact: Artifact,
    tmp_path: Path,
    server: str,
) -> None:
    """In two groups, by two processes of a cluster, and in one pass in this process."""
    pytest.importorskip(
        f"prefect_{engine}", reason=f"prefect-{engine} is not installed: engine not tested"
    )
    changes = ({}, {"k": 8}, {"architecture": "batchtopk"}, {"architecture": "relu"}, {"seed": 1})
    base = SaeConfig(d_sae=64, k=4, tokens=4096, batch_size=256)
    members = [base.model_copy(update=own) for own in changes]
    alone = sae.train_all(DataRoot(tmp_path / "alone"), members, activations=activations_artifact)
    home = tmp_path / "spread"
    (home / "activations").mkdir(parents=True)
    key = activations_artifact.key
    (home / "activations" / key).symlink_to(activations_artifact.path)
    settings = json.dumps([member.model_dump() for member in members])
    before = groups_trained(server)
    done = subprocess.run(
        [sys.executable, "-c", SPREAD, engine, str(home), key, settings],
        env=environment(home, PREFECT_API_URL=server),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == [[artifact.key, True] for artifact in alone]
    assert groups_trained(server) == before + 2
    spread = DataRoot(home)
    assert [spread.open("sae", a.key).digest() for a in alone] == [a.digest() for a in alone]


def test_the_command_leaves_a_run_a_member_and_a_front(
    finished: Path, config: Path, server: str, tmp_path: Path
) -> None:
    """Over a home in which a single run has finished, whose SAE is one of the members."""
    home = tmp_path / "home"
    shutil.copytree(finished, home)
    single = artifacts(home)["sae"]
    file = tmp_path / "sweep.toml"
    file.write_text(config.read_text() + "\n[sweep]\narchitecture = ['topk', 'relu']\nk = [4, 8]\n")
    spread = ("--engine", "dask", "--workers", "2")
    known = {"PREFECT_API_URL": server}
    done = deconstruct(home, "sweep", file, "--set", "name=front", *spread, env=known)
    assert done.returncode == 0, done.stderr
    saes = {a.key: a for a in DataRoot(home).artifacts() if a.stage == "sae"}
    assert len(saes) == 3
    assert saes[single.key].manifest == single.manifest  # found, not made again
    asked = deconstruct(home, "sql", "--format", "json", "FROM pareto('front')")
    rows = json.loads(asked.stdout)
    assert {(row["architecture"], row["k"]) for row in rows} == {
        ("topk", 4), ("topk", 8), ("relu", None),
    }  # fmt: skip
    for row in rows:
        beaten = [
            o for o in rows
            if o["l0"] <= row["l0"] and o["fvu_typical"] <= row["fvu_typical"]
            and o["run_id"] != row["run_id"]
        ]  # fmt: skip
        assert row["on_front"] == (not beaten)
        assert row["fvu_typical_low"] <= row["fvu_typical"] <= row["fvu_typical_high"]
        assert row["run_id"] in done.stdout
    assert any(row["on_front"] for row in rows)
    assert any(row["on_loss_front"] for row in rows)
    assert len(json.loads(deconstruct(home, "sql", "--format", "json", "FROM runs").stdout)) >= 3
