"""A worker of pool gpu, on the CPU: what it makes for sweeps and runs, one thing at a time."""

from __future__ import annotations

import os
import shutil
import signal
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.running import artifacts, deconstruct
from support.served import Served, children, serving

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import ActivationsConfig, SaeConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae import stage as sae_stage
from tasks.order import NamedModel, Order
from tasks.stage import Ref

SAE = SaeConfig(d_sae=64, k=4, tokens=20_000, batch_size=256)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Iterator[Served]:
    """Over a home that has the artifacts of a run."""
    folder = tmp_path_factory.mktemp("served")
    for artifact in DataRoot(finished).artifacts():
        shutil.copytree(artifact.path, folder / "home" / artifact.stage / artifact.key)
    with serving(folder, "--gpu") as found:
        yield found


def made_on_pool(served: Served) -> list[dict[str, Any]]:
    """The runs of pool gpu, in the order in which they began."""
    deployment = served.deployment("make/gpu")["id"]
    found = served.runs(deployment_id={"any_": [deployment]})
    return sorted(found, key=lambda run: str(run["start_time"]))


def stage_of(run: dict[str, Any]) -> str:
    return str(run["name"]).split()[0]


def alone(folder: Path, config: SaeConfig, finished: Path) -> Artifact:
    """The SAE that is trained without any of this."""
    activations = artifacts(finished)["activations"]
    return sae_stage.train(DataRoot(folder), config, activations=activations)


def test_saes_of_a_sweep_are_trained_and_judged_there(
    served: Served, config: Path, finished: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(config.read_text() + "\n[sweep]\nk = [4, 7, 8]\n")
    done = deconstruct(served.home, "sweep", file, "--set", "name=front")
    assert done.returncode == 0, done.stderr
    runs = made_on_pool(served)
    assert {one["state_name"] for one in runs} == {"Completed"}
    made = [stage_of(one) for one in runs]
    assert made == ["sae", *["latents", "evaluation"] * 2]  # what is there is not asked for
    assert len(runs[0]["parameters"]["order"]["keys"]) == 3
    for k in (7, 8):
        own = alone(tmp_path / str(k), SAE.model_copy(update={"k": k}), finished)
        assert DataRoot(served.home).open("sae", own.key).digest() == own.digest()


def test_one_device_makes_one_thing_at_a_time(served: Served, finished: Path) -> None:
    activations = artifacts(finished)["activations"]
    started = []
    for seed in (1, 2, 3):
        own = SAE.model_copy(update={"seed": seed})
        recipes = [sae_stage.recipe(own, activations=activations)]
        inputs = {"activations": Ref.of(activations), "device": "auto"}
        order = Order.of(recipes, own, inputs)
        assert order is not None
        asked = {"home": str(served.home), "order": order.model_dump(mode="json")}
        started.append(served.start("make/gpu", **asked))
    for run in started:
        served.wait_for(run, "Completed")
    for before, after in pairwise(made_on_pool(served)):
        assert before["end_time"] <= after["start_time"]


def test_a_worker_that_is_killed_in_the_middle_is_followed_by_another(
    served: Served, config: Path, finished: Path, tmp_path: Path
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

    own = alone(tmp_path, SaeConfig.model_validate(settings["sae"]), finished)
    assert trained[-1]["parameters"]["order"]["keys"] == [own.key]
    assert DataRoot(served.home).open("sae", own.key).digest() == own.digest()


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
