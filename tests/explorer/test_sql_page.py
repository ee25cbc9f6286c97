"""The SQL page: what it answers, what it refuses, and the questions that it brings."""

from __future__ import annotations

import csv
import io
import json
import re
import tracemalloc
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from explorer.conftest import Explored
from starlette.testclient import TestClient
from support.paths import ROOT

from deconstruct.explorer.pages import sql
from deconstruct.explorer.questions import PAGE, asked_of, questions
from deconstruct.store.render import cell


def test_an_answer_is_a_table_with_links(client: TestClient, explored: Explored) -> None:
    query = "SELECT latent, top_token, density FROM features WHERE run_id = resolve_run('demo')"
    text = client.get("/sql", params={"query": query, "run": "demo"}).text
    assert f"/run/{explored.ids[0]}/latent/7" in text
    assert "Rows 1 to 24" in text
    assert " goal" in text


def test_huge_answers_come_a_page_at_a_time(client: TestClient) -> None:
    query = "SELECT range AS number FROM range(1_000_000_000)"
    first = client.get("/sql", params={"query": query}).text
    assert "Rows 1 to 100, more follow" in first
    third = client.get("/sql", params={"query": query, "page": 3}).text
    cells = [int(cell) for cell in re.findall(r'<td class="num">(\d+)</td>', third)]
    assert cells == list(range(200, 300))
    [link] = set(re.findall(r'rel="next"[^>]*href="([^"]+)"', third))
    assert "page=4" in link
    assert "Rows 301 to 400" in client.get(link.replace("&amp;", "&")).text
    end = client.get("/sql", params={"query": "FROM range(5)", "page": 2}).text
    assert "No rows on this page" in end


@pytest.mark.parametrize(
    "query",
    [
        "CREATE TABLE mine AS SELECT 1",
        "INSERT INTO meta VALUES ('a', 'b')",
        "UPDATE meta SET value = 'x'",
        "DELETE FROM runs",
        "DROP TABLE runs",
        "COPY runs TO '{out}/x.csv'",
        "COPY (SELECT 1) TO '{home}/deconstruct.duckdb'",
        "ATTACH '{out}/x.duckdb' AS x",
        "SELECT * FROM read_text('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM read_csv('/etc/passwd')",
        "FROM glob('/etc/*')",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "EXPORT DATABASE '{out}/all'",
        "SELECT getenv('HOME')",
        "selec 1",
        ";",
        "SELECT 1; COPY runs TO '{out}/x.csv'",
    ],
)
def test_what_is_no_question_is_refused_in_a_sentence(
    client: TestClient, explored: Explored, tmp_path: Path, query: str
) -> None:
    asked = query.format(out=tmp_path, home=explored.home)
    before = (explored.home / "deconstruct.duckdb").read_bytes()
    for address in ("/sql", "/sql/file"):
        answer = client.get(address, params={"query": asked})
        assert answer.status_code in (400, 404)
        assert "No answer" in answer.text or "Not here" in answer.text
        assert "Traceback" not in answer.text
        assert "root:" not in answer.text
        assert "--files" not in answer.text
    assert list(tmp_path.iterdir()) == []
    assert (explored.home / "deconstruct.duckdb").read_bytes() == before


def test_what_one_asks_touches_nobody_else(client: TestClient) -> None:
    assert (
        "42"
        in client.get(
            "/sql", params={"query": "SET VARIABLE mine = 42; SELECT getvariable('mine') AS mine"}
        ).text
    )
    text = client.get("/sql", params={"query": "SELECT getvariable('mine') AS mine"}).text
    assert "null" in text
    client.get("/sql", params={"query": "DETACH deconstruct; SELECT 1"})
    assert client.get("/sql", params={"query": "FROM runs"}).status_code == 200


def test_answers_are_files(client: TestClient, tmp_path: Path) -> None:
    query = "SELECT '=1+1' AS text, [1, 2] AS list, 7 AS number FROM range(250)"
    answer = client.get("/sql/file", params={"query": query, "format": "csv"})
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["text", "list", "number"]
    assert len(rows) == 251
    assert rows[1] == ["'=1+1", "[1, 2]", "7"]
    answer = client.get("/sql/file", params={"query": query, "format": "parquet"})
    file = tmp_path / "answer.parquet"
    file.write_bytes(answer.content)
    assert pq.read_table(file).num_rows == 250
    assert client.get("/sql/file", params={"query": query, "format": "xls"}).status_code == 404


def test_hostile_answers_stay_text(client: TestClient) -> None:
    text = client.get(
        "/sql", params={"query": "SELECT '<script>alert(1)</script>' AS \"<b>\", chr(27) AS esc"}
    ).text
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    assert "<b>" not in text
    assert "\x1b" not in text


def test_a_name_in_the_place_of_an_id_is_noted(client: TestClient) -> None:
    text = client.get("/sql", params={"query": "FROM runs WHERE run_id = 'demo'"}).text
    assert "write resolve_run(" in text


def test_the_questions_are_those_of_the_page() -> None:
    assert PAGE.resolve() == ROOT / "docs" / "sql.md"
    found = questions()
    page = (ROOT / "docs" / "sql.md").read_text()
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    assert len(found) == page.count("\n### ")
    assert all(f"### {one.number}. {one.title}\n" in page for one in found)
    assert len({one.part for one in found}) > 5


def test_every_question_is_put_to_the_run_that_is_chosen(
    client: TestClient, explored: Explored
) -> None:
    text = client.get("/sql?run=demo").text
    asked = re.findall(r'<option value="((?!")[^"]+)">\d+ ', text)
    assert len(asked) == len(questions())
    assert not [one for one in asked if "layer-9&#39;" in one or "getvariable" in one]
    refused = []
    for number, query in enumerate(asked, start=1):
        plain = query.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">")
        plain = plain.replace("&#34;", '"').replace("&amp;", "&")
        answer = client.get("/sql", params={"query": plain, "run": "demo"})
        if answer.status_code != 200:
            refused.append((number, re.findall(r"No answer</p><p>([^<]+)", answer.text)))
    assert refused == []


def test_names_in_questions_are_quoted() -> None:
    query = "FROM latents_for_label('layer-9', 'tech') WHERE latent = getvariable('tech')"
    names = {"layer-9": "a1", "tech": "it's"}
    assert asked_of(query, names, {"tech": 7}) == (
        "FROM latents_for_label('a1', 'it''s') WHERE latent = 7"
    )
    duckdb.connect().extract_statements(asked_of(query, names, {}))


def test_the_editor_knows_what_the_store_has(client: TestClient) -> None:
    text = client.get("/sql").text
    known = json.loads(re.findall(r'id="known">(.*?)</script>', text, re.DOTALL)[0])
    assert "density" in known["relations"]["features"]
    assert "top_contexts(" in known["tables"]
    assert {"demo", "latest"} <= set(known["values"])


def test_of_long_cells_no_more_is_held_than_is_shown(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest: list[int] = []

    def looked_at(value: object) -> str:
        longest.append(len(str(value)))
        return cell(value)

    monkeypatch.setattr(sql, "cell", looked_at)
    tracemalloc.start()
    try:
        answer = client.get(
            "/sql", params={"query": "SELECT repeat('x', 10_000_000) FROM range(9)"}
        )
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "Rows 1 to 9" in answer.text
    assert max(longest) <= sql.WIDEST + 1
    assert most < 50_000_000
