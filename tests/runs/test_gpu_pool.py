"""A worker of pool gpu, on the CPU: what it makes for runs and sweeps, one thing at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.running import COMMAND, artifacts, environment
from support.served import Served, children, serving

from deconstruct.artifacts import DataRoot
from deconstruct.config import ActivationsConfig, SaeConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae import stage as sae_stage
from tasks.order import NamedModel, Order

ORDERED = ["activations", "evaluation", "latents", "reference", "sae"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), "--gpu") as found:
        yield found


def made_on_pool(served: Served) -> list[dict[str, Any]]:
    """The runs of pool gpu, in the order in which they began."""
    deployment = served.deployment("make/gpu")["id"]
    found = served.runs(deployment_id={"any_": [deployment]})
    return sorted(found, key=lambda run: str(run["start_time"]))


def stage_of(run: dict[str, Any]) -> str:
    return str(run["name"]).split()[0]


def test_a_sweep_and_a_run_at_once_are_made_one_thing_at_a_time_to_the_same_bytes(
    served: Served, config: Path, finished: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(config.read_text() + "\n[sweep]\nk = [4, 8]\n")
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "sweep", str(file), "--set", "name=front"],
        env=environment(served.home),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as sweep:
        run = served.start("pipeline/on-demand", config=tomllib.loads(config.read_text()))
        said = sweep.communicate(timeout=600)[1]
    assert sweep.returncode == 0, said
    served.wait_for(run, "Completed")

    runs = made_on_pool(served)
    assert {one["state_name"] for one in runs} == {"Completed"}
    assert sorted({stage_of(one) for one in runs}) == ORDERED
    for before, after in pairwise(runs):
        assert before["end_time"] <= after["start_time"]
    (together,) = [one for one in runs if len(one["parameters"]["order"]["keys"]) == 2]
    assert stage_of(together) == "sae"

    made = {artifact.key: artifact for artifact in DataRoot(served.home).artifacts()}
    for own in artifacts(finished).values():
        assert made[own.key].digest() == own.digest()
    activations = artifacts(finished)["activations"]
    eight = SaeConfig(d_sae=64, k=8, tokens=20_000, batch_size=256)
    alone = sae_stage.train(DataRoot(tmp_path / "alone"), eight, activations=activations)
    assert made[alone.key].digest() == alone.digest()
    assert len([one for one in made.values() if one.stage in ("latents", "evaluation")]) == 4


def test_a_worker_that_is_killed_in_the_middle_is_followed_by_another(
    served: Served, config: Path, tmp_path: Path
) -> None:
    settings = tomllib.loads(config.read_text())
    settings["sae"] |= {"k": 6, "tokens": 600_000}
    run = served.start("pipeline/on-demand", config=settings)
    served.wait(lambda: list(served.home.glob("sae/.*.partial/.scratch")))
    (worker,) = [p for p, line in children(served.process.pid) if "--name local-gpu" in line]
    for pid in (worker, *(pid for pid, _ in children(worker))):
        os.kill(pid, signal.SIGKILL)
    served.wait_for(run, "Completed")
    trained = [one for one in made_on_pool(served) if stage_of(one) == "sae"]
    assert [one["state_name"] for one in trained[-2:]] == ["Crashed", "Completed"]
    assert trained[-1]["parameters"] == trained[-2]["parameters"]

    key = trained[-1]["parameters"]["order"]["keys"][0]
    root = DataRoot(served.home)
    made = root.open("sae", key)
    own = SaeConfig.model_validate(settings["sae"])
    activations = root.open("activations", made.manifest.inputs["activations"])
    alone = sae_stage.train(DataRoot(tmp_path / "alone"), own, activations=activations)
    assert (made.key, made.digest()) == (alone.key, alone.digest())


def test_an_order_for_a_model_that_the_worker_does_not_have_is_declined(
    served: Served, tmp_path: Path
) -> None:
    gone = ResolvedModel("./gone", tmp_path / "gone", "0" * 32, "", "float32", own=True)
    order = Order(
        stage="activations",
        version=1,
        keys=("0" * 32,),
        settings=(ActivationsConfig().model_dump(mode="json"),),
        inputs={"model": NamedModel.of(gone, "float32")},
    )
    run = served.start("make/gpu", home=str(served.home), order=order.model_dump(mode="json"))
    served.wait_for(run, "Declined")
    state = served.ask("GET", f"/flow_runs/{run}")["state"]
    assert state["type"] == "COMPLETED"
    assert f"{str(tmp_path / 'gone')!r}: there is no such folder" in state["message"]
