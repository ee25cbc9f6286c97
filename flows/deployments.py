"""The deployments of ``prefect.yaml`` on a server: brought there, and left as people change them.

`prefect deploy` would put every schedule back as the file has it: one that was paused in the UI
runs again, one that was added there is gone; and one that was taken out of the file stays. So what
was brought is noted, and only what the file says otherwise than last time is changed on the server.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import prefect
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from deconstruct.common.errors import ConfigError

Definition = dict[str, Any]
"""A deployment or a schedule, as ``prefect.yaml`` has it."""

WHEN = ("cron", "day_or", "interval", "anchor_date", "rrule", "timezone")
"""What of a schedule says when it runs."""
SCHEDULES = ("schedules", "schedule")
PAGE = 200
CHOOSES_CODE = ("command", "env", "working_dir")
"""Job variables of Prefect's process pools that decide what code a run is: a command as such, a
variable such as ``PYTHONPATH`` or ``LD_PRELOAD``, a folder to import from."""
GONE = ("flows/training.py:train gpu",)
"""Deployments of earlier releases, whose flows are no more: now it is `flows.making`."""
SCHEMA_OF = ("flows", "tasks", "deconstruct/config")
"""Folders whose code says what parameters a deployment has."""


def bring(
    file: Path, note: Path, code: Path, deploy: Callable[[Sequence[Definition]], None]
) -> list[str]:
    """Have the server know the deployments of ``file``; returns what was done, a line each.

    note: remembers what was brought last time. code: the folder that the flows are in; where it
    has changed, all are brought anew. deploy: brings deployments, which have no schedules here, to
    the server. What was brought of `GONE` is deleted, unless people have put it on a schedule.
    Raises ``ConfigError`` if ``file`` does not read.
    """
    deployments, rest = _read(file)
    wanted = {_name(one): one for one in deployments}
    known = _noted(note)
    source = _digest(code, rest)
    done, due = [], []
    kept: dict[str, Definition] = {}
    with get_client(sync_client=True) as client:
        there = _there(client)
        for name, one in wanted.items():
            definition = {key: value for key, value in one.items() if key not in SCHEDULES}
            kept[name] = {"source": source, "definition": definition, "schedules": _schedules(one)}
            before = known.get(name, {})
            if name not in there:
                due.append(definition)
                done.append(f"{one['name']} is new")
            elif (before.get("source"), before.get("definition")) != (source, definition):
                due.append({"paused": there[name].paused, **definition})
                done.append(f"{one['name']} is brought up to date")
        if due:
            deploy(due)
        for name in GONE:
            if name in known and name in there and not there[name].schedules:
                client.delete_deployment(there[name].id)
                done.append(f"{there[name].name} of {name.split()[0]} is gone, as its flow is")
        for name, deployment in _there(client).items():
            if name not in {**known, **kept}:
                continue
            schedules = kept.get(name, {}).get("schedules", {})
            before = known.get(name, {}).get("schedules") if name in there else {}
            arranged = _arrange(client, deployment, schedules, before)
            done += [f"{deployment.name}: schedule {what}" for what in arranged]
    draft = note.with_suffix(".draft")
    draft.write_text(json.dumps(kept, indent=1) + "\n")
    draft.replace(note)
    return done


def make_pool(name: str) -> None:
    """Make a work pool whose workers start processes, in which a run can't name a command.

    One that is there with Prefect's own template gets ours; one that people changed stays.
    """
    template = job_template()
    with get_client(sync_client=True) as client:
        try:
            there = client.read_work_pool(name)
        except ObjectNotFound:
            made = WorkPoolCreate(name=name, type="process", base_job_template=template)
            client.create_work_pool(made)
            return
        theirs = ProcessWorker.get_default_base_job_template()["job_configuration"]
        if there.base_job_template.get("job_configuration") == theirs:
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def job_template() -> Definition:
    """Of our pools: Prefect's, without the variables that choose code, and with no others let in.

    The server refuses what the schema has not; what comes past that goes nowhere in the job.
    """
    template = ProcessWorker.get_default_base_job_template()
    for name in CHOOSES_CODE:
        del template["job_configuration"][name], template["variables"]["properties"][name]
    template["variables"]["additionalProperties"] = False
    return template


def _arrange(
    client: SyncPrefectClient,
    deployment: DeploymentResponse,
    wanted: Mapping[str, Definition],
    before: Mapping[str, Definition] | None,
) -> list[str]:
    """Bring what differs between ``before`` and ``wanted`` to a deployment's schedules.

    before: by their slugs, as ``wanted``; None: nobody knows, so those there are left alone.
    """
    there = {schedule.slug: schedule for schedule in deployment.schedules}
    done = []
    for slug, one in wanted.items():
        if slug not in there and (before is None or before.get(slug) != one):
            body = [_body(one) | {"slug": slug, "active": one.get("active", True)}]
            where = {"id": deployment.id}
            client.request("POST", "/deployments/{id}/schedules", path_params=where, json=body)
            done.append(f"{slug!r} is new")
        elif slug in there and before is not None and before.get(slug) != one:
            client.request(
                "PATCH",
                "/deployments/{id}/schedules/{schedule_id}",
                path_params={"id": deployment.id, "schedule_id": there[slug].id},
                json=_news(one, before.get(slug, {})),
            )
            done.append(f"{slug!r} has changed")
    for slug in before or {}:
        if slug not in wanted and slug in there:
            client.delete_deployment_schedule(deployment.id, there[slug].id)
            done.append(f"{slug!r} is gone")
    return done


def _news(one: Definition, before: Definition) -> Definition:
    """What of a schedule is to be changed: whether it is paused only if the file says so anew."""
    was, now = _body(before), _body(one)
    news = {key: value for key, value in now.items() if was.get(key) != value}
    if one.get("active") is not None and one.get("active") != before.get("active"):
        news["active"] = one["active"]
    return news


def _body(one: Definition) -> Definition:
    """A schedule as the server takes it, without its name and whether it is paused."""
    when = {key: one[key] for key in WHEN if one.get(key) is not None}
    return {"schedule": when, "parameters": one.get("parameters") or {}}


def _read(file: Path) -> tuple[list[Definition], Definition]:
    """The deployments, and all else that the file says."""
    try:
        # Dates as text, as they go to the server.
        content = json.loads(json.dumps(yaml.safe_load(file.read_text()), default=str))
        found: list[Definition] = content.pop("deployments") or []
        for one in found:
            _name(one), _schedules(one)
    except OSError as error:
        raise ConfigError(f"{str(file)!r} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(file)!r} is no YAML: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{str(file)!r} must have a list 'deployments', each with a name, an entrypoint and, "
            f"if any, a list of schedules; {error} is missing or of another kind"
        ) from error
    return found, content


def _name(one: Definition) -> str:
    return f"{one['entrypoint']} {one['name']}"


def _schedules(one: Definition) -> dict[str, Definition]:
    """A deployment's schedules by their slugs; one without gets a slug of what it says."""
    listed = [*(one.get("schedules") or []), *([one["schedule"]] if one.get("schedule") else [])]
    return {schedule.get("slug") or _slug(schedule): schedule for schedule in listed}


def _slug(schedule: Definition) -> str:
    said = json.dumps(_body(schedule), sort_keys=True)
    return f"schedule-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _there(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """The server's deployments by entrypoint and name."""
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(limit=PAGE, offset=len(found)):
        found += page
    return {f"{one.entrypoint} {one.name}": one for one in found}


def _noted(note: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _digest(code: Path, rest: Definition) -> str:
    """Of the code that says what parameters there are, of its place, of Prefect, and of what the
    file says of all deployments."""
    said = json.dumps(rest, sort_keys=True)
    whole = hashlib.sha256(f"{code} {prefect.__version__} {said}".encode())
    for folder in SCHEMA_OF:
        for path in sorted((code / folder).rglob("*.py")):
            whole.update(path.read_bytes())
    return whole.hexdigest()
