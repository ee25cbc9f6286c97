"""Stores of strange values, damaged, foreign or unlucky: no page and no report fails of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from explorer.conftest import Explored
from explorer.test_app import READ, RUN
from starlette.testclient import TestClient
from support.drawn import Drawn
from support.store_artifacts import plant
from support.strange import spoil

from deconstruct.explorer.app import Explorer
from deconstruct.report import page
from deconstruct.report.drawing import OTHERS, grouped
from deconstruct.report.reading.corpus import places
from deconstruct.store import open_store, publish, run_id_of
from deconstruct.store.rewrite import FILE

PATHS = (
    *(path for path in READ if "/static/" not in path and "/figure/" not in path),
    f"{RUN}/map", f"{RUN}/map?of=pooled&latent=9", f"{RUN}/map?of=latents",
    f"{RUN}/map?cluster=1", f"{RUN}/map/points", f"{RUN}/map/points?of=latents",
    f"{RUN}/clusters", f"{RUN}/labels", f"{RUN}/errors", f"{RUN}/drift", "/trend?name=demo",
    "/sql?query=FROM+features&run=demo",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(explored: Explored, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the planted store that may be spoiled; without what draws figures."""
    copied = tmp_path_factory.mktemp("strange") / "home"
    shutil.copytree(explored.home, copied)
    shutil.copy(copied / FILE, copied / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "drawn_all", lambda of: {})
        patch.setattr(page, "scripts", lambda: "")
        yield copied


def faults(home: Path) -> list[str]:
    """Pages that fail, and sections of figures that are none."""
    explorer = Explorer(home)
    explorer.scripts = lambda: ""
    found = []
    with TestClient(
        explorer.application(), "http://127.0.0.1:4300", raise_server_exceptions=False
    ) as client:
        for path in PATHS:
            answer = client.get(path)
            if answer.status_code >= 500:
                found.append(f"{path}: {re.findall('has a fault [(](.*?)[)]', answer.text)}")
    return found


@pytest.mark.parametrize("seed", range(8))
def test_no_page_and_no_report_fails(home: Path, explored: Explored, seed: int) -> None:
    shutil.copy(home / "whole", home / FILE)
    assert spoil(home / FILE, seed)
    assert faults(home) == []
    with open_store(home, files=False, verify=False) as store:
        assert "Provenance" in page.report(store, explored.ids[0])


NAMES = ("none", "others", "other labels")


def test_labels_that_are_called_as_groups_are_stay_labels(tmp_path: Path) -> None:
    def change(drawn: Drawn) -> None:
        drawn.labels[3] = None  # type: ignore[call-overload]

    run = plant(tmp_path, names=NAMES, change=change)
    publish(tmp_path, run.record, run.artifacts)
    with open_store(tmp_path, files=False) as store:
        found = places.documents(store, run_id_of(run.artifacts)).groups["label"]
    assert found.names == ["other labels", "“others”", "“none”", "none"]
    assert [int((found.of == at).sum()) for at in range(4)] == [10, 10, 9, 1]


def test_in_figures_no_label_has_a_name_of_ours() -> None:
    often = [OTHERS, "(no label)", "(empty)", "", None]
    given = [*often, *often, "a", "b", "c", "d", "e"]
    called = grouped(given, 8)
    assert called[OTHERS] == f"{OTHERS} (2)"
    assert called["e"] == OTHERS
    assert len({called[one] for one in often}) == 5
    assert (called[None], called[""]) == ("(no label)", "(empty)")
