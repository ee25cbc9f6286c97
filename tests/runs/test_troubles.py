"""Troubles with servers, databases, proxies and rights: one sentence each, or none at all."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.prefect_api import SECRET, ask
from support.running import COMMAND, artifacts, deconstruct, environment

from deconstruct.common.errors import ConfigError, DeconstructError
from flows.server.embedded import EmbeddedServer, healthy
from flows.server.secret import ASKED

AS_ORDINARY_USER = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"]
"""Before a command: rights of files hold for root too."""


@pytest.fixture(scope="module")
def database(finished: Path) -> Path:
    """A database of Prefect's, as a command left it."""
    return finished / ".prefect" / "prefect.db"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    """Starts servers over ``<tmp_path>/prefect``; they end with the test."""
    state = tmp_path / "prefect"
    state.mkdir()
    started: list[EmbeddedServer] = []

    def begin(**more: str) -> EmbeddedServer:
        env = environment(tmp_path, PREFECT_HOME=str(state)) | {ASKED: SECRET} | more
        started.append(EmbeddedServer.start(tmp_path / "server.log", env))
        return started[-1]

    yield begin
    for server in started:
        server.process.kill()
        server.process.wait()


def version(database: Path, to: str | None) -> None:
    """Make a database say that it is of another version, or of none."""
    connection = sqlite3.connect(database)
    connection.execute("DELETE FROM alembic_version")
    if to:
        connection.execute("INSERT INTO alembic_version VALUES (?)", [to])
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"no database" * 999), "is damaged, or was never finished"),
        (lambda path: os.truncate(path, 500_000), "is damaged, or was never finished"),
        (lambda path: version(path, None), "is damaged, or was never finished"),
        (lambda path: version(path, "f" * 12), "was made by a newer Prefect"),
    ],
    ids=["other", "cut", "half made", "newer"],
)
def test_a_database_that_is_no_use_is_one_sentence(
    damage: Callable[[Path], None],
    said: str,
    start: Callable[..., EmbeddedServer],
    tmp_path: Path,
    database: Path,
) -> None:
    own = tmp_path / "prefect" / "prefect.db"
    shutil.copy(database, own)
    damage(own)
    with pytest.raises(DeconstructError, match=rf"prefect\.db' {said} \(.+move it away"):
        start().wait()


def test_servers_killed_or_together_in_a_new_home_leave_one_sound_database(
    start: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    killed = start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "prefect" / ".prefect.db.draft").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.process.kill()
    killed.process.wait()
    assert not (tmp_path / "prefect" / "prefect.db").exists()
    together = [start(), start()]
    for server in together:
        server.wait()
    assert all(ask(server.url, "POST", "/flow_runs/count", {}) == 0 for server in together)


def test_a_port_that_is_taken_is_one_sentence(
    start: Callable[..., EmbeddedServer], tmp_path: Path, server: str
) -> None:
    port = int(server.split(":")[2].split("/", maxsplit=1)[0])
    with pytest.raises(ConfigError, match=f"port {port} can't be listened on .*choose another"):
        EmbeddedServer.start(tmp_path / "log", dict(os.environ), port)


def test_a_proxy_is_not_asked_for_this_machine(
    server: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by us nor by Prefect's client."""
    nowhere = "http://127.0.0.1:9"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, nowhere)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.org")
    assert healthy(server)
    done = deconstruct(finished, "retry", "no-such-run", env={"PREFECT_API_URL": server})
    assert "failed" in done.stderr
    assert "can't be reached" not in done.stderr


def test_a_server_that_is_down_or_refuses_is_one_sentence_in_seconds(
    start: Callable[..., EmbeddedServer], tmp_path: Path, database: Path, config: Path
) -> None:
    def said(**env: str) -> str:
        done = deconstruct(tmp_path / "home", "run", config, env=env)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        return line

    down = said(PREFECT_API_URL="http://127.0.0.1:9/api")
    assert down.startswith("error: the Prefect server at 'http://127.0.0.1:9/api' can't be reached")
    shutil.copy(database, tmp_path / "prefect" / "prefect.db")
    locked = start(PREFECT_SERVER_API_AUTH_STRING="user:secret")
    locked.wait()
    assert "refuses this command (401); set PREFECT_API_AUTH_STRING" in said(
        PREFECT_API_URL=locked.url, PREFECT_API_AUTH_STRING="user:other"
    )


CANCELLED = """
import sys, time
from deconstruct.sae.training import checkpoint
checkpoint.EVERY_SECONDS = 0.0
real, count = checkpoint.save, []

def slow(*arguments, **named):
    count.append(None)
    if len(count) == 3:
        print("here", flush=True)
        time.sleep(60)
    return real(*arguments, **named)

checkpoint.save = slow
from flows.cli import app
app()
"""
"""The command, but its training dawdles at the third checkpoint, where it can be interrupted."""


def test_a_run_that_is_cancelled_ends_and_publishes_nothing(
    tmp_path: Path, config: Path, server: str
) -> None:
    home = tmp_path / "home"
    with subprocess.Popen(
        [sys.executable, "-c", CANCELLED, "run", str(config), "--set", "name=doomed"],
        env=environment(home, PREFECT_API_URL=server),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        where = {"flow_runs": {"name": {"like_": "doomed:"}}}
        (run,) = ask(server, "POST", "/flow_runs/filter", where)
        state = {"state": {"type": "CANCELLING"}}
        ask(server, "POST", f"/flow_runs/{run['id']}/set_state", state)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert errors.splitlines()[-1].startswith("error: the run was cancelled; nothing of it is")
    assert ask(server, "GET", f"/flow_runs/{run['id']}")["state_name"] == "Cancelled"
    assert not (home / "deconstruct.duckdb").exists()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv: root may write anywhere")
def test_what_this_user_may_not_write_is_one_sentence_and_is_not_tried_twice(
    tmp_path: Path, config: Path, server: str, finished: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished, home)
    stage = artifacts(home)["evaluation"].path.parent
    shutil.rmtree(stage)
    stage.mkdir()
    stage.chmod(0o555)
    done = subprocess.run(
        [*AS_ORDINARY_USER, sys.executable, "-c", COMMAND, "run", str(config)],
        env=environment(home, PREFECT_API_URL=server),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"error: '{stage}/")
    assert said.endswith("(Permission denied); give this user the right to, or name another place")
    assert "Traceback" not in done.stderr
    failed = {"task_runs": {"state": {"type": {"any_": ["FAILED"]}}, "name": {"like_": "eval"}}}
    runs = ask(server, "POST", "/task_runs/filter", failed)
    assert [run["run_count"] for run in runs if str(stage) in run["state"]["message"]] == [1]


def test_caches_find_a_place_where_there_is_no_home_to_write_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import environment as own

    caches = ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "TRITON_HOME")
    for name in (*caches, "HF_HUB_CACHE", "USER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    own.give_caches_a_place(tmp_path / "data")
    assert "XDG_CACHE_HOME" not in os.environ
    (tmp_path / "no folder").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "no folder"))
    monkeypatch.setattr(own.os, "getuid", lambda: 54321)
    monkeypatch.setattr(own.tempfile, "gettempdir", lambda: str(tmp_path))
    own.give_caches_a_place(tmp_path / "data")
    private = tmp_path / ".deconstruct-caches-54321"  # caches hold code: not in the data root
    assert {os.environ[name] for name in caches} == {str(private)}
    assert private.stat().st_mode & 0o777 == 0o700
    assert os.environ["HF_HUB_CACHE"] == str(tmp_path / "data" / ".cache" / "huggingface" / "hub")
    private.chmod(0o777)  # somebody else may have filled it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    own.give_caches_a_place(tmp_path / "data")
    assert os.environ["XDG_CACHE_HOME"] != str(private)
    assert os.environ["USER"] == "user-54321"  # torch asks for one


def test_a_data_root_names_no_server_of_another_machine(tmp_path: Path) -> None:
    from flows import environment as own
    from flows.server import secret

    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("0.0.0.0", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own.server_note(tmp_path).parent.mkdir()
        secret.keep(own.secret_file(tmp_path), None)
        for host, taken in {"127.0.0.1": True, "127.0.0.2": False, "0.0.0.0": False}.items():
            url = f"http://{host}:{server.server_port}/api"
            with own.note_server(tmp_path, url):
                assert own.served_url(tmp_path) == (url if taken else None)
            assert len(asked) == 1
        server.shutdown()


def test_a_run_is_chosen_by_its_configurations_name_or_all_of_it_are_named() -> None:
    from flows.retry import choose

    def run(number: int, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            id=f"00000000-0000-0000-0000-{number:012}",
            name=f"{name}: gpt2 5.resid_post topk-32",
            parameters={"config": {"name": name}},
            state_name="Failed",
            expected_start_time=None,
        )

    runs = [run(1, "nightly"), run(2, "weekly"), run(3, "nightly")]
    assert choose(runs, "weekly") is runs[1]  # type: ignore[arg-type,comparison-overlap]
    assert choose(runs, "000000000003") is runs[2]  # type: ignore[arg-type,comparison-overlap]
    with pytest.raises(DeconstructError, match="2 failed runs are called 'nightly'") as caught:
        choose(runs, "nightly")  # type: ignore[arg-type]
    assert "000000000001" in str(caught.value)
    assert "000000000002" not in str(caught.value)
