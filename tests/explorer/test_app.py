"""Who is answered, and what is answered to what is not there."""

from __future__ import annotations

from starlette.testclient import TestClient


def test_runs_are_listed(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert {"demo", "other"} <= set(answer.text.replace("<", ">").split(">"))
