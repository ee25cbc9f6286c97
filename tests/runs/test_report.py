"""A run ends with a page about it; what keeps the page from being drawn is no fault of the run."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.running import deconstruct
from support.store_artifacts import plant

from deconstruct.artifacts import DataRoot
from deconstruct.explorer.server import NOTE, noted
from deconstruct.report import page
from deconstruct.store import open_store, publish, remove_runs, resolve_run
from deconstruct.store.query import report_file
from flows.steps import reporting
from flows.steps.publishing import SiteResult


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data root with a run."""
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    return tmp_path


@pytest.fixture
def result(home: Path) -> SiteResult:
    with open_store(home, files=False) as store:
        run_id = resolve_run(store, "latest")
    return SiteResult(site="9.resid_post", run_id=run_id, stages=[])


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the UI is told."""
    left: dict[str, Any] = {}
    monkeypatch.setenv(reporting.VARIABLE, "yes")
    monkeypatch.setattr(reporting, "check_cancelled", lambda: None)
    monkeypatch.setattr(reporting, "flow_run", SimpleNamespace(get_id=lambda: "one"))
    monkeypatch.setattr(
        reporting, "create_link_artifact", lambda link, **more: left.update(link=link, **more)
    )
    monkeypatch.setattr(
        reporting, "create_markdown_artifact", lambda text, **more: left.update(text=text, **more)
    )
    return left


def test_the_last_line_of_a_run_is_where_its_page_lies(tmp_path: Path, config: Path) -> None:
    home = tmp_path / "a home"
    done = deconstruct(home, "run", config, env={reporting.VARIABLE: "yes"})
    assert done.returncode == 0, done.stderr
    (file,) = (home / "reports").iterdir()
    assert done.stdout.rstrip().splitlines()[-1] == f"look  {file.as_uri()}"
    assert "What was found" in file.read_text("utf-8")
    assert "report" in done.stderr
    for command in ("verify", "gc"):
        assert deconstruct(home, command).returncode == 0
    assert file.exists()
    remove_runs(home, ["latest"])
    assert not file.exists()


def test_the_page_is_shown_by_its_path_and_by_a_link_while_an_explorer_answers(
    home: Path, result: SiteResult, shown: dict[str, Any], unused: int
) -> None:
    reporting.reported(DataRoot(home), [result], "a  Night!")
    file = report_file(home, result.run_id)
    assert file.exists()
    assert str(file) in shown["text"]
    assert shown["key"] == "report-a-night-9-resid-post-corpus"
    for told in ("http://evil.example:80", f"http://127.0.0.1:{unused}", "http://127.0.0.1:99999"):
        with noted(home, told):
            assert reporting.explorer(home) is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with noted(home, address):  # as the explorer itself does
            reporting.show(home, result, "night")
        (home / NOTE).write_text(f'{{"url": "{address}"}}')  # of one that has died, or of others
        assert reporting.explorer(home) is None
    assert shown["link"] == f"{address}/run/{result.run_id}"


@pytest.fixture
def unused() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_page_that_can_not_be_drawn_is_a_warning(
    home: Path,
    result: SiteResult,
    shown: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("no ink")

    monkeypatch.setattr(page, "report", broken)
    reporting.reported(DataRoot(home), [result], "night")
    assert not shown
    assert f"deconstruct report {result.run_id}" in caplog.text
    assert "no ink" in caplog.text
    assert not (home / "reports").exists()


def test_a_page_is_written_whatever_the_server_of_the_ui_says(
    home: Path,
    result: SiteResult,
    shown: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(reporting, "create_markdown_artifact", broken)
    reporting.reported(DataRoot(home), [result], "night")
    assert report_file(home, result.run_id).exists()
    assert "no report" not in caplog.text
    assert "no link" in caplog.text


def test_runs_write_none_where_they_are_told_so(
    home: Path, result: SiteResult, shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(reporting.VARIABLE, "no")
    reporting.reported(DataRoot(home), [result], "night")
    assert not shown
    assert not (home / "reports").exists()
