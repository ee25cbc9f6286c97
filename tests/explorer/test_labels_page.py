"""Labels and errors of the probe, as they were planted; drift and trend."""

from __future__ import annotations

import re
from collections.abc import Iterator

import duckdb
import numpy as np
import pytest
from explorer.conftest import Explored
from starlette.testclient import TestClient
from support.drawn import SPORT_LATENT

from deconstruct.report.reading.corpus import drift, labels
from deconstruct.store import QueryError, open_store


@pytest.fixture(scope="module")
def store(explored: Explored) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store(explored.home, files=False) as connection:
        yield connection


def test_a_label_is_told_by_the_latents_that_stand_ready(
    client: TestClient, explored: Explored, store: duckdb.DuckDBPyConnection
) -> None:
    label = explored.demo.names[1]
    text = client.get(f"/run/{explored.ids[0]}/labels", params={"label": label}).text
    assert f"/latent/{SPORT_LATENT}" in text
    assert "measured on held-out ones" in text
    [one] = labels.telling(store, explored.ids[0], label)
    assert (one.latent, one.auroc) == (SPORT_LATENT, 1.0)
    assert client.get(f"/run/{explored.ids[0]}/labels?label=none").status_code == 404


def test_runs_without_a_map_have_their_latents_computed(
    store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    label = explored.demo.names[1]
    given = {"run": explored.ids[0], "label": label, "against": None, "most": 3}
    slow = store.execute(labels._SLOW, given)
    assert labels.Telling(*slow.fetchall()[0]).latent == SPORT_LATENT


def test_a_label_is_told_from_one_other(
    client: TestClient, store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    run, (label, against, *_) = explored.ids[0], explored.demo.names
    base = f"/run/{run}/labels"
    asked = {"label": label, "against": against}
    page = client.get(base, params=asked).text
    assert "labels/latents?label=" in page
    assert "against=" in page
    assert client.get(base, params=asked | {"against": "none"}).status_code == 404
    assert f"/latent/{SPORT_LATENT}" in client.get(f"{base}/latents", params=asked).text
    rows = store.execute(
        "SELECT latent, cohen_d FROM latents_for_label(?, ?, against := ?) LIMIT 20",
        [run, label, against],
    ).fetchall()
    found = labels.telling(store, run, label, slowly=True, against=against)
    assert [(one.latent, one.cohen_d) for one in found] == rows


def test_parts_of_labels_come_by_themselves(client: TestClient, explored: Explored) -> None:
    base = f"/run/{explored.ids[0]}/labels"
    contexts = client.get(f"{base}/contexts?latent={SPORT_LATENT}").text
    assert " goal" in contexts
    assert "fires" in contexts
    assert client.get(f"{base}/probes").status_code == 200
    latents = client.get(f"{base}/latents", params={"label": explored.demo.names[1]}).text
    assert f"/latent/{SPORT_LATENT}" in latents


def test_confusion_counts_predictions(store: duckdb.DuckDBPyConnection, explored: Explored) -> None:
    found = labels.confusion(store, explored.ids[0])
    assert found is not None
    place = {name: at for at, name in enumerate(found.labels)}
    counts = np.zeros((len(place), len(place)), int)
    for _, true, said in explored.demo.predictions:
        counts[place[true], place[said]] += 1
    assert found.counts == counts.tolist()
    assert found.total == len(explored.demo.predictions)


def test_errors_are_pushed_as_the_macro_says(
    store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    found, n = labels.errors(store, explored.ids[0], most=100)
    rows = store.execute("FROM probe_errors(?)", [explored.ids[0]]).fetchall()
    assert n == len(rows) > 0
    assert [(e.document.doc_id, e.label, e.predicted) for e in found] == [r[:3] for r in rows]
    for one, row in zip(found, rows, strict=True):
        assert [p.push for p in one.pushed_by] == pytest.approx(
            [p["push"] for p in row[4]], rel=1e-6
        )
    one = found[0]
    cell, _ = labels.errors(store, explored.ids[0], one.label, one.predicted)
    assert {(e.label, e.predicted) for e in cell} == {(one.label, one.predicted)}
    with pytest.raises(QueryError, match="such documents"):
        labels.errors(store, explored.ids[0], first=500)


def test_a_cell_leads_to_its_documents(client: TestClient, explored: Explored) -> None:
    text = client.get(f"/run/{explored.ids[0]}/errors").text
    wrong = [d for d, true, said in explored.demo.predictions if true != said]
    for doc in wrong[:20]:
        assert f"/run/{explored.ids[0]}/doc/{doc}" in text
    cells = re.findall(r'href="(/run/\w+/errors\?[^"]+)"', text)
    assert cells
    answer = client.get(cells[0].replace("&amp;", "&"))
    assert answer.status_code == 200
    assert "show all" in answer.text


def test_drift_shows_what_is_apart(
    client: TestClient, explored: Explored, store: duckdb.DuckDBPyConnection
) -> None:
    text = client.get(f"/run/{explored.ids[0]}/drift").text
    assert "fvu_train_mean" in text
    assert "<strong>apart</strong>" in text
    assert "no interval" in text
    assert "Latents that fire less often since" in text
    part = client.get(f"/run/{explored.ids[0]}/drift/contexts?latent={SPORT_LATENT}")
    assert part.status_code == 200
    before, since = drift.before_and_since(store, explored.ids[0], SPORT_LATENT, 30)
    assert before is not None
    assert since is not None
    assert before.doc_id < 30 <= since.doc_id


def test_a_trend_is_of_a_name_and_a_site(client: TestClient, explored: Explored) -> None:
    text = client.get("/trend?name=demo").text
    assert explored.ids[0] in text
    assert explored.ids[1] not in text
    assert client.get("/trend").status_code == 200
    assert client.get("/trend?name=none").status_code == 404
    assert client.get("/trend?name=demo&site=1.none").status_code == 404
