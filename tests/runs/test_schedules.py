"""What serving again does to deployments: ``prefect.yaml``'s news come, the UI's changes stay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import prefect.settings
import pytest
import yaml
from prefect.workers.process import ProcessWorker
from support.prefect_api import SECRET, ask
from support.running import ROOT

from deconstruct.common.errors import ConfigError
from flows import deployments
from flows.deployments import bring, make_pool
from flows.serve import deploy

POOL = "schedules"


def deployment(name: str, *schedules: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "entrypoint": "flows/making.py:make",
        "work_pool": {"name": POOL},
        "schedules": list(schedules),
        **more,
    }


EARLY = {"cron": "0 3 * * *", "timezone": "UTC", "slug": "early"}
LATE = {"cron": "0 22 * * *", "timezone": "UTC", "slug": "late"}
NO_SLUG = {"interval": 3600}
FIRST = {
    "name": "deconstruct",
    "pull": [],
    "deployments": [
        deployment("paused", EARLY),
        deployment("edited", EARLY),
        deployment("emptied", EARLY, LATE),
        deployment("moved", EARLY, LATE, description="before"),
        deployment("dropped", NO_SLUG),
    ],
}


class Kept:
    """A server's deployments, seen and changed as the UI does."""

    def __init__(self, url: str) -> None:
        self.url = url

    def path(self, name: str) -> str:
        found = ask(self.url, "GET", f"/deployments/name/make/{name}")
        return f"/deployments/{found['id']}/schedules"

    def schedules(self, name: str) -> dict[str | None, tuple[Any, bool]]:
        """Slug -> when, whether it is active."""
        return {
            one["slug"]: (
                one["schedule"].get("cron", one["schedule"].get("interval")),
                one["active"],
            )
            for one in ask(self.url, "GET", self.path(name))
        }

    def change(self, name: str, slug: str, **changes: Any) -> None:
        (one,) = [s for s in ask(self.url, "GET", self.path(name)) if s["slug"] == slug]
        ask(self.url, "PATCH", f"{self.path(name)}/{one['id']}", changes)

    def add(self, name: str, cron: str) -> None:
        ask(self.url, "POST", self.path(name), [{"schedule": {"cron": cron}, "active": True}])


@pytest.fixture
def kept(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setenv("PREFECT_API_URL", server)  # of the commands that are started
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", SECRET)
    own = {
        prefect.settings.PREFECT_API_URL: server,
        prefect.settings.PREFECT_API_AUTH_STRING: SECRET,
    }
    with prefect.settings.temporary_settings(own):
        make_pool(POOL)
        yield Kept(server)


def test_what_the_ui_changed_stays_and_what_the_file_changed_comes(
    kept: Kept, tmp_path: Path
) -> None:
    file, note, brought = tmp_path / "prefect.yaml", tmp_path / "deployed.json", []

    def served(content: Mapping[str, Any]) -> list[str]:
        def counted(due: Sequence[Mapping[str, Any]]) -> None:
            brought.extend(one["name"] for one in due)
            deploy(file, due)

        file.write_text(yaml.safe_dump(content))
        return bring(file, note, ROOT, counted)

    served(FIRST)
    assert kept.schedules("moved") == {
        "early": ("0 3 * * *", True),
        "late": ("0 22 * * *", True),
    }
    kept.change("paused", "early", active=False)
    kept.add("paused", "0 12 * * *")
    kept.change("edited", "early", schedule={"cron": "0 5 * * *"})
    kept.change("moved", "early", active=False)
    kept.add("emptied", "0 13 * * *")
    brought.clear()

    assert served(FIRST) == []
    assert brought == []
    assert kept.schedules("paused") == {"early": ("0 3 * * *", False), None: ("0 12 * * *", True)}
    assert kept.schedules("edited") == {"early": ("0 5 * * *", True)}

    second = deepcopy(FIRST)
    by_name = {one["name"]: one for one in second["deployments"]}
    by_name["emptied"]["schedules"] = []
    by_name["moved"] |= {"description": "after", "schedules": [{**EARLY, "cron": "0 4 * * *"}]}
    second["deployments"].remove(by_name["dropped"])
    said = served(second)
    assert brought == ["moved"]
    assert "moved: schedule 'early' has changed" in said
    assert kept.schedules("emptied") == {None: ("0 13 * * *", True)}
    assert kept.schedules("moved") == {"early": ("0 4 * * *", False)}
    assert kept.schedules("dropped") == {}
    assert kept.schedules("paused") == {"early": ("0 3 * * *", False), None: ("0 12 * * *", True)}
    moved = ask(kept.url, "GET", "/deployments/name/make/moved")
    assert (moved["description"], moved["work_pool_name"]) == ("after", POOL)


def test_a_deployment_of_an_earlier_release_goes_unless_it_is_on_a_schedule(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, note = tmp_path / "prefect.yaml", tmp_path / "deployed.json"
    names = ("earlier", "kept", "of-others")
    former = {"name": "deconstruct", "pull": [], "deployments": [deployment(n) for n in names]}
    file.write_text(yaml.safe_dump(former))
    bring(file, note, ROOT, partial(deploy, file))
    kept.add("kept", "0 12 * * *")
    known = json.loads(note.read_text())
    del known["flows/making.py:make of-others"]
    note.write_text(json.dumps(known))
    monkeypatch.setattr(deployments, "GONE", tuple(f"flows/making.py:make {n}" for n in names))
    file.write_text(yaml.safe_dump({**former, "deployments": []}))
    assert bring(file, note, ROOT, partial(deploy, file)) == [
        "earlier of flows/making.py:make is gone, as its flow is"
    ]
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        kept.schedules("earlier")
    assert kept.schedules("kept") == {None: ("0 12 * * *", True)}
    assert kept.schedules("of-others") == {}
    assert bring(file, note, ROOT, partial(deploy, file)) == []


def test_a_work_pool_that_is_there_stays_as_it_is(kept: Kept) -> None:
    ask(kept.url, "PATCH", f"/work_pools/{POOL}", {"is_paused": True, "concurrency_limit": 3})
    make_pool(POOL)
    pool = ask(kept.url, "GET", f"/work_pools/{POOL}")
    assert (pool["is_paused"], pool["concurrency_limit"]) == (True, 3)


def test_a_work_pool_of_before_lets_no_run_name_a_command_any_more(kept: Kept) -> None:
    def template(pool: Any = None) -> Any:
        if pool is not None:
            ask(kept.url, "PATCH", f"/work_pools/{POOL}", {"base_job_template": pool})
        make_pool(POOL)
        return ask(kept.url, "GET", f"/work_pools/{POOL}")["base_job_template"]

    ours = template(ProcessWorker.get_default_base_job_template())
    assert set(ours["variables"]["properties"]) == {"name", "labels", "stream_output"}
    assert set(ours["job_configuration"]) == {"name", "labels", "stream_output"}
    theirs = deepcopy(ours)
    theirs["job_configuration"]["env"] = {"HF_TOKEN": "of the team"}
    assert template(theirs) == theirs
    assert template(ours) == ours


@pytest.mark.parametrize(
    ("content", "said"),
    [("deployments: [", "is no YAML"), ("deployments: [{name: a}]", "entrypoint"), ("[]", "list")],
)
def test_a_file_that_does_not_read_is_one_sentence(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        bring(file, tmp_path / "note", ROOT, partial(deploy, file))
