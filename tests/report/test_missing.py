"""A run that has not all that a report shows has a report of what it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from support.browser import PROGRAM, browser
from support.store_artifacts import plant

from deconstruct.report import page
from deconstruct.report.reading.massive import Massive
from deconstruct.report.reading.verdict import Gate
from deconstruct.report.sections import overview
from deconstruct.store import open_store, publish, resolve_run
from deconstruct.store.rewrite import FILE
from deconstruct.store.schema import RELATIONS

KEPT = ("runs", "names", "executions", "meta")
SMALL = [one.name for one in RELATIONS if one.stored and one.name not in KEPT and not one.paired]
ALONE = (
    "stages", "documents", "features", "sae_metrics", "probes", "probe_weights", "cluster_summary",
    "clusters", "cluster_metrics", "drift",
)  # fmt: skip
"""Those whose absence sections meet in several ways."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    return tmp_path


def empty(home: Path, *relations: str) -> None:
    """Take the rows of some relations out of a store."""
    with duckdb.connect(home / FILE) as store:
        for relation in relations:
            store.execute(f'DELETE FROM "{relation}"')


def written(home: Path) -> Path:
    with open_store(home, files=False, verify=False) as store:
        return page.write(store, resolve_run(store, "latest"), home / "page.html")


@pytest.fixture(scope="module")
def quick() -> Iterator[pytest.MonkeyPatch]:
    """Pages without figures and without what makes them live."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "drawn_all", lambda of: {})
        patch.setattr(page, "scripts", lambda: "")
        yield patch


@pytest.mark.usefixtures("quick")
def test_each_thing_may_be_missing(home: Path) -> None:
    whole = (home / FILE).read_bytes()
    for relation in set(ALONE) & set(SMALL):
        empty(home, relation)
        text = written(home).read_text("utf-8")
        for heading in ("Verdict", "Clusters", "Labels", "Dictionary", "Provenance"):
            assert f">{heading}</h2>" in text, relation
        (home / FILE).write_bytes(whole)


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_all_of_it_may_be_missing(home: Path) -> None:
    empty(home, *SMALL)
    file = written(home)
    with browser(home / "profile") as tab:
        tab.listen()
        tab.go(file.as_uri())
        assert tab.faults == []
        text = tab.text()
    assert "Nothing was measured" in text
    assert "no clusters" in text
    assert "no headline figures" in text
    assert "no labels" in text


def test_what_was_not_measured_is_not_called_good() -> None:
    def light(*found: Any) -> overview.Light:
        look: Any = SimpleNamespace(massive=Massive(*found, [], []))
        return overview._tokens(look)

    assert light(None, None, False, [])[:3:2] == ("quiet", "not measured")
    assert light(None, None, True, [])[:3:2] == ("good", "not seen")
    heavy = light(None, None, True, [{"token": "a", "variance_share": 0.5}])
    assert heavy[:3:2] == ("bad", "present")
    assert "0 %" not in heavy.detail


def test_gates_that_nothing_is_known_of_are_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    look: Any = SimpleNamespace(store=None, run=None)
    monkeypatch.setattr(overview, "gates", lambda *_: [Gate("max_fvu", 0.1, None)])
    assert overview._gates(look)[:3] == ("quiet", "Gates", "not judged")
