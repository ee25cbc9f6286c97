"""The image file and the job templates of ``deploy/``, through the code that will read them."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from setuptools import find_packages
from support.running import ROOT

DEPLOY = ROOT / "deploy"
NAMES = ("docker", "docker-gpu", "kubernetes", "kubernetes-gpu")


def template(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / f"{name}.json").read_text())
    return found


def worker_module(name: str) -> Any:
    kind = name.partition("-")[0]
    return pytest.importorskip(
        f"prefect_{kind}.worker", reason=f"prefect-{kind} is not installed: template not checked"
    )


def prepared(name: str, **values: Any) -> Any:
    """The job's configuration as the pool's worker makes it for a run."""
    module = worker_module(name)
    kind = name.partition("-")[0].capitalize()
    configuration = getattr(module, f"{kind}WorkerJobConfiguration")

    async def make() -> Any:
        return await configuration.from_template_and_values(
            template(name), values, client=get_client()
        )

    # No request is made: the templates refer to no block of a server.
    with temporary_settings({PREFECT_API_URL: "http://prefect.example:4200/api"}):
        made = asyncio.run(make())
        made.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="nightly"))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_one_that_prefect_takes(name: str) -> None:
    """By the server's own check, and variable by variable as Prefect's template has them."""
    own = template(name)
    kind = name.partition("-")[0]
    WorkPoolCreate(name="cpu", type=kind, base_job_template=own)
    schema = own["variables"]
    defaults = {n: v["default"] for n, v in schema["properties"].items() if "default" in v}
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(defaults)

    worker = getattr(worker_module(name), f"{kind.capitalize()}Worker")
    theirs = worker.get_default_base_job_template()
    assert set(own["job_configuration"]) <= set(theirs["job_configuration"])
    for variable, wanted in schema["properties"].items():
        if variable in ("data_claim", "gpus"):  # ours
            continue
        found = theirs["variables"]["properties"][variable]
        for part in ("type", "anyOf", "enum", "items", "additionalProperties", "minimum"):
            if variable == "image" and part in ("type", "anyOf"):
                continue  # theirs may be none: Prefect's image
            assert wanted.get(part) == found.get(part), (variable, part)


@pytest.mark.parametrize("name", ["docker", "docker-gpu"])
def test_a_run_in_a_container(name: str) -> None:
    """Down to the request that docker-py makes of it."""
    job = prepared(name, image="registry.example/deconstruct:7", mem_limit="16g")
    assert shlex.split(job.command) == ["prefect", "flow-run", "execute"]
    assert job.env["DECONSTRUCT_HOME"] == "/data"
    assert job.env["PREFECT_API_URL"] == "http://prefect.example:4200/api"
    from docker.models.containers import _create_container_args

    asked = {
        "version": "1.44", "image": job.image, "command": job.command, "environment": job.env,
        "volumes": job.volumes, "mem_limit": job.mem_limit, **(job.container_create_kwargs or {}),
    }  # fmt: skip
    request = _create_container_args(asked)
    host = request["host_config"]
    assert request["image"] == "registry.example/deconstruct:7"
    assert host["Binds"] == ["/srv/deconstruct:/data"]
    assert host["Memory"] == 16 * 2**30
    assert host["Init"] is True
    devices = host.get("DeviceRequests", [])
    assert [d["Capabilities"] for d in devices] == ([[["gpu"]]] if "gpu" in name else [])


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes-gpu"])
def test_a_run_as_a_kubernetes_job(name: str) -> None:
    """Down to the manifest, which the client of Kubernetes reads field by field."""
    more = {"gpus": 2} if "gpu" in name else {}
    job = prepared(name, data_claim="shared", memory_limit="32Gi", **more)
    client = pytest.importorskip("kubernetes_asyncio.client")

    async def read() -> Any:
        async with client.ApiClient() as api:
            answer = SimpleNamespace(data=json.dumps(job.job_manifest))
            return api.deserialize(answer, "V1Job")

    made = asyncio.run(read())
    pod = made.spec.template.spec
    (container,) = pod.containers
    assert container.image == "deconstruct:latest"
    assert container.args == ["prefect", "flow-run", "execute"]
    assert {e.name: e.value for e in container.env}["DECONSTRUCT_HOME"] == "/data"
    limits = {"memory": "32Gi"} | ({"nvidia.com/gpu": "2"} if "gpu" in name else {})
    assert {n: v for n, v in container.resources.limits.items() if v is not None} == limits
    assert container.resources.requests == {"cpu": "2", "memory": "8Gi"}
    mounted = {mount.mount_path: mount.name for mount in container.volume_mounts}
    claims = {v.name: v.persistent_volume_claim for v in pod.volumes}
    assert claims[mounted["/data"]].claim_name == "shared"
    assert pod.restart_policy == "Never"
    assert made.spec.backoff_limit == 0

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {k for own in value.values() for k in keys(own)}
        return {k for own in value for k in keys(own)} if isinstance(value, list) else set()

    async def write() -> Any:
        async with client.ApiClient() as api:
            return api.sanitize_for_serialization(made)

    # Nothing was left aside as a field that Kubernetes does not have.
    lost = keys(_without_none(job.job_manifest)) - keys(asyncio.run(write()))
    assert lost == set()


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


def test_pools_with_a_gpu_differ_in_nothing_else() -> None:
    cpu, gpu = template("docker"), template("docker-gpu")
    for own in (cpu, gpu):
        del own["variables"]["description"]
        own["variables"]["properties"]["container_create_kwargs"].pop("default")
    assert cpu == gpu
    cpu, gpu = template("kubernetes"), template("kubernetes-gpu")
    for own in (cpu, gpu):
        del own["variables"]["description"]
    del gpu["variables"]["properties"]["gpus"]
    pod = gpu["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    del pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert cpu == gpu


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the image file."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")
    ]


def test_what_the_image_copies_is_all_that_a_run_needs(tmp_path: Path) -> None:
    """Its COPY lines into a folder, and the flows and the command from there."""
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in kept if line.startswith("!")}
    for word, rest in instructions():
        if word != "COPY":
            continue
        *sources, target = rest.split()
        for source in sources:
            assert source in allowed, f"{source} is left out by Dockerfile.dockerignore"
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target)
            else:
                shutil.copyfile(ROOT / source, tmp_path / target / source)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = find_packages(str(ROOT), **project["tool"]["setuptools"]["packages"]["find"])
    assert len(packages) > 20
    assert all((tmp_path / package.replace(".", "/")).is_dir() for package in packages)
    code = (
        "import flows.pipeline, flows.sweep, flows.making, flows.cli, tasks.spread, deconstruct; "
        "print(flows.pipeline.__file__, deconstruct.__file__)"
    )
    own = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "DECONSTRUCT_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**own, "PYTHONPATH": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split())


def test_the_image_runs_as_a_user_with_the_data_root_as_its_volume() -> None:
    lines = instructions()
    assert [rest for word, rest in lines if word == "USER"] == ["deconstruct"]
    assert ("VOLUME", "/data") in lines
    (environment,) = [rest for word, rest in lines if word == "ENV"]
    named = dict(pair.split("=", 1) for pair in shlex.split(environment))
    assert (named["DECONSTRUCT_HOME"], named["DO_NOT_TRACK"]) == ("/data", "1")
    (base,) = [rest for word, rest in lines if word == "FROM"]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    from packaging.specifiers import SpecifierSet

    assert base.removeprefix("python:").split("-")[0] in SpecifierSet(wanted)
