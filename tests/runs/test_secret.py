"""The secret of a data root's server: kept for its user alone, told to that server alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deconstruct.common.errors import DeconstructError
from flows import environment
from flows.server import secret


def test_it_stays_unless_others_can_read_it_or_another_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / secret.FILE
    first = secret.keep(path, None)
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret.keep(path, None) == first == secret.read(path)
    path.chmod(0o644)
    second = secret.keep(path, None)
    assert second != first
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")  # of a full disk
    assert secret.read(path) is None
    assert len(secret.keep(path, None)) > 40
    assert secret.keep(path, "me:chosen") == "me:chosen" == secret.read(path)
    assert os.listdir(tmp_path) == [secret.FILE]


def test_a_note_of_a_server_that_has_died_is_not_believed(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever listens on its port since then would be told the secret."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")  # as they were, after the test
        monkeypatch.delenv(name)
    for name in (*environment.DEFAULTS, "DECONSTRUCT_HOME", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    (tmp_path / ".prefect").mkdir()
    kept = secret.keep(environment.secret_file(tmp_path), None)
    note = environment.note_server(tmp_path, server)
    assert environment.served_url(tmp_path) == server
    with pytest.raises(DeconstructError, match="is served already"):
        environment.note_server(tmp_path, server)
    environment.apply(tmp_path)
    assert os.environ["PREFECT_API_AUTH_STRING"] == kept
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "of:theirs")
    environment.apply(tmp_path)  # a server of the user's own keeps what they say
    assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == "of:theirs"
    note.close()
    assert environment.server_note(tmp_path).exists()
    assert environment.served_url(tmp_path) is None
