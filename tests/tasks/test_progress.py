"""Progress as Prefect is told of it."""

from __future__ import annotations

import httpx
import pytest

from tasks.progress import ProgressArtifacts


def test_a_server_that_is_gone_costs_nobody_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*arguments: object) -> None:
        raise httpx.ConnectError("nobody listens")

    monkeypatch.setattr("tasks.progress.create_progress_artifact", refusing)
    times = iter([0.0, 6.0, 12.0])
    telling = ProgressArtifacts(clock=lambda: next(times))
    for done in (1, 2, 3):
        telling("sae", done, 3)
