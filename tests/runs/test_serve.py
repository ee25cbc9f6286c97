"""``deconstruct serve``: a real server with its deployments, a worker of each pool, schedules."""

from __future__ import annotations

import os
import re
import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.browser import PROGRAM, browser
from support.prefect_api import ask
from support.running import STAGES, deconstruct, digests, stalled
from support.served import Served, children, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), "--gpu") as found:
        yield found
    assert found.process.returncode == 0
    with pytest.raises(httpx.ConnectError):
        found.ask("GET", "/health")


@pytest.fixture(scope="module")
def parameters(config: Path) -> dict[str, Any]:
    return {"config": tomllib.loads(config.read_text())}


def worker_of(served: Served, name: str) -> int:
    """Process id of a worker."""
    (found,) = [pid for pid, line in children(served.process.pid) if f"--name {name}" in line]
    return found


def test_every_deployment_of_prefect_yaml_is_there_with_its_schedule(served: Served) -> None:
    nightly = served.deployment("pipeline/nightly")
    (schedule,) = nightly["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 3 * * *", True)
    assert nightly["work_pool_name"] == "cpu"
    assert served.deployment("train/gpu")["work_pool_name"] == "gpu"
    assert (
        "config"
        in served.deployment("pipeline/on-demand")["parameter_openapi_schema"]["properties"]
    )
    upcoming = served.wait(lambda: served.runs(deployment_id={"any_": [nightly["id"]]}))
    assert {run["state_type"] for run in upcoming} == {"SCHEDULED"}


@pytest.mark.skipif(PROGRAM is None, reason="no chromium to load the UI with")
def test_the_ui_asks_once_for_the_secret_and_nobody_but_its_own_server(
    served: Served, tmp_path: Path
) -> None:
    origin = served.url.removesuffix("/api").replace("127.0.0.1", "localhost")
    with browser(tmp_path, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost") as page:
        page.tell("Network.enable")
        page.go(f"{origin}/")
        page.type("input[type=password]", served.secret)
        page.click("button[type=submit]", "Login")
        page.shows("Logout")
        page.go(f"{origin}/v2/deployments")
        page.shows("At 03:00 AM")
        page.go(f"{origin}/deployments")  # the UI before, which is there too
        page.shows("At 03:00 AM every day")

        def events_shown() -> bool:  # the page asks once, for what is older than this minute
            page.go(f"{origin}/v2/events")
            page.wait(
                "['No events found', 'Created'].some(s => document.body.innerText.includes(s))"
            )
            return "Work Pool Created" in page.text()

        served.wait(events_shown)
        own = (f"{origin}/", "data:", f"blob:{origin}/")
        assert len(page.requests) > 30
        assert [url for url in page.requests.values() if not url.startswith(own)] == []


def test_a_run_on_the_workers_trains_on_pool_gpu_and_gives_the_same_bytes(
    served: Served, parameters: dict[str, Any], finished: Path
) -> None:
    run = served.start("pipeline/on-demand", **parameters)
    served.wait_for(run, "Completed")
    assert digests(served.home) == digests(finished)
    (training,) = served.runs(deployment_id={"any_": [served.deployment("train/gpu")["id"]]})
    assert (training["state_name"], training["work_pool_name"]) == ("Completed", "gpu")
    said = served.ask("GET", f"/flow_runs/{run}")
    assert said["name"] == "small: tiny-llama 1.resid_post topk-4"
    assert {"tiny-llama", "layer-1", "topk"} <= set(said["tags"])

    def in_the_ui() -> bool:  # as on a terminal; the last lines arrive after the state does
        lines = served.ask("POST", "/logs/filter", logs={"flow_run_id": {"any_": [run]}})
        own = (line["message"] for line in lines if line["name"] == "deconstruct.stages")
        return set(STAGES) <= {message.split(maxsplit=1)[0] for message in own}

    served.wait(in_the_ui)
    left = served.ask("POST", "/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
    kinds = {artifact["type"]: artifact for artifact in left}
    table, text = kinds["table"], kinds["markdown"]
    assert (table["type"], table["key"]) == ("table", "results-small-1-resid-post")
    assert "variance unexplained, no outliers" in table["data"]
    assert (text["type"], text["key"]) == ("markdown", "run-small-1-resid-post")
    assert "deconstruct show" in text["data"]


def test_a_schedule_runs_on_the_workers(served: Served, parameters: dict[str, Any]) -> None:
    """Every 5 seconds, until two of its runs have ended well; they are answered from cache."""
    deployment = served.deployment("pipeline/on-demand")["id"]
    every = {
        "schedule": {"interval": 5, "anchor_date": "2026-01-01T00:00:00Z"},
        "active": True,
        "parameters": parameters,
    }
    schedules = f"/deployments/{deployment}/schedules"
    made = served.ask("POST", schedules, [every])

    def completed() -> list[dict[str, Any]]:
        return served.runs(
            deployment_id={"any_": [deployment]}, state={"name": {"any_": ["Completed"]}}
        )

    try:
        ended = served.wait(
            lambda: len(of := [run for run in completed() if run["auto_scheduled"]]) > 1 and of
        )
    finally:
        served.ask("DELETE", f"{schedules}/{made[0]['id']}")
    assert {run["parameters"]["config"]["name"] for run in ended} == {"small"}
    unfinished = {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}
    served.wait(lambda: not served.runs(deployment_id={"any_": [deployment]}, state=unfinished))


def test_a_run_that_died_with_its_worker_is_found_and_can_be_retried(
    served: Served, parameters: dict[str, Any]
) -> None:
    """Prefect alone would leave it Running for ever, and refuse to retry it."""
    sae = {"d_sae": 64, "k": 4, "tokens": 10**9, "batch_size": 256}
    parameters = {"config": parameters["config"] | {"sae": sae}}
    run = served.start("pipeline/on-demand", **parameters, device="cpu")
    checkpoint = served.wait(lambda: list(served.home.glob("sae/.*.partial/.scratch")))[0]
    worker = worker_of(served, "local-cpu")
    below = [pid for pid, _ in children(worker)]
    for pid in (worker, *below):
        os.kill(pid, signal.SIGKILL)
    served.wait_for(run, "Crashed")
    assert "found by its lock" in served.ask("GET", f"/flow_runs/{run}")["state"]["message"]
    served.wait(lambda: "local-cpu had ended; started again" in served.log.read_text())
    assert checkpoint.exists()

    retried = deconstruct(served.home, "retry", run[-12:])
    assert retried.returncode == 0, retried.stderr
    assert "a worker of its deployment takes it" in retried.stderr
    served.wait_for(run, "Running")
    for pid, _ in children(worker_of(served, "local-cpu")):
        os.kill(pid, signal.SIGKILL)
    served.wait_for(run, "Crashed")
    unknown = deconstruct(served.home, "retry", "no-such-run")
    assert unknown.returncode == 1
    assert f"no failed run is called 'no-such-run'; name one by its id. There are: {run[-12:]}" in (
        unknown.stderr
    )


def test_a_run_that_is_cancelled_in_the_ui_ends_and_its_training_with_it(
    served: Served, parameters: dict[str, Any]
) -> None:
    sae = {"d_sae": 64, "k": 5, "tokens": 10**9, "batch_size": 256}
    run = served.start("pipeline/on-demand", config=parameters["config"] | {"sae": sae})
    training = {"any_": [served.deployment("train/gpu")["id"]]}
    running = {"name": {"any_": ["Running"]}}
    (trained,) = served.wait(lambda: served.runs(deployment_id=training, state=running))
    served.wait(lambda: list(served.home.glob("sae/.*.partial/.scratch")))
    served.ask("POST", f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"})
    served.wait_for(run, "Cancelled")
    served.wait_for(trained["id"], "Cancelled")
    assert "k=5" not in deconstruct(served.home, "runs").stdout


def test_without_any_failed_run_retry_says_so(finished: Path, server: str) -> None:
    nothing = deconstruct(finished, "retry", env={"PREFECT_API_URL": server})
    assert nothing.returncode == 1
    assert "no run has failed; there is nothing to retry" in nothing.stderr


def test_a_failed_run_without_a_worker_is_retried_in_place(
    tmp_path: Path, config: Path, server: str, finished: Path
) -> None:
    home = tmp_path / "home"
    env = {"PREFECT_API_URL": server}
    with stalled("deconstruct.sae.files:load:1", home, "run", config, env=env):
        pass
    unknown = deconstruct(home, "retry", "no-such-run", env=env)
    (run,) = re.findall(
        r"There are: (\w+) small: tiny-llama 1.resid_post topk-4 \(Crashed, 20", unknown.stderr
    )
    runs = {"flow_runs": {"name": {"any_": ["small: tiny-llama 1.resid_post topk-4"]}}}
    listed = ask(server, "POST", "/flow_runs/filter", runs)
    (whole,) = [found["id"] for found in listed if found["id"].endswith(run)]
    retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    ask(server, "POST", f"/flow_runs/{whole}/set_state", retry)
    retried = deconstruct(home, "retry", env=env)
    assert retried.returncode == 0, retried.stderr
    assert "retry        small: tiny-llama 1.resid_post topk-4" in retried.stderr
    assert "variance unexplained, no outliers" in retried.stdout
    assert digests(home) == digests(finished)
    assert [s for s in STAGES if f"{s:<12} from cache" in retried.stderr] == list(STAGES[:4])


def test_the_explorer_runs_beside_it_and_is_started_again(served: Served) -> None:
    port = int(served.url.removesuffix("/api").rpartition(":")[2]) + 1
    assert f"explorer    starts at http://127.0.0.1:{port}" in served.log.read_text()
    address = f"http://127.0.0.1:{port}/"

    def answers() -> bool:
        try:
            return httpx.get(address, trust_env=False).status_code in (
                200,
                400,
            )  # 400: no store yet
        except httpx.HTTPError:
            return False

    served.wait(answers)
    (explorer,) = [pid for pid, line in children(served.process.pid) if ".explorer " in line]
    os.kill(explorer, signal.SIGKILL)
    served.wait(lambda: "explorer    had ended; started again" in served.log.read_text())
    served.wait(answers)
