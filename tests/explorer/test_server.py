"""``deconstruct explore`` as a user starts it: its address, its note, its end, its refusals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from explorer.conftest import Explored
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.explorer.server import NOTE, noted, running

COMMAND = "from deconstruct.cli import app; app()"
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_says_where_it_is_and_ends_quietly(
    explored: Explored, ending: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "explore", "demo", "--port", "0"],
        env={**os.environ, "DECONSTRUCT_HOME": str(explored.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            url = process.stdout.readline().split()[1]
            assert url.endswith(f"/run/{explored.ids[0]}")
            assert running(explored.home) == url.partition("/run")[0]
            assert "ready" in process.stdout.readline()
            deadline = time.monotonic() + 60
            while True:
                try:
                    with OPENER.open(url, timeout=30) as answer:
                        assert "demo" in answer.read().decode()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
        finally:
            process.send_signal(ending)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    assert running(explored.home) is None
    assert not (explored.home / NOTE).exists()


def test_it_loads_neither_torch_nor_prefect() -> None:
    code = (
        "import sys, deconstruct.explorer.server, deconstruct.looking; "
        "print(*({'torch', 'prefect'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_it_refuses_is_a_sentence(explored: Explored, tmp_path: Path) -> None:
    def told(*options: str) -> str:
        done = CliRunner().invoke(app, ["explore", *options])
        assert done.exit_code == 1
        return done.output

    assert "has no store yet" in told("--home", str(tmp_path))
    assert "no run is called" in told("nobody", "--home", str(explored.home))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} can't be had" in told("--home", str(explored.home), "--port", port)


def test_a_note_is_of_one_that_lives(tmp_path: Path) -> None:
    url = "http://127.0.0.1:4300"
    assert running(tmp_path) is None
    with noted(tmp_path, url):
        assert running(tmp_path) == url
        with noted(tmp_path, "http://127.0.0.1:4301"):  # a second one leaves it alone
            assert running(tmp_path) == url
        assert running(tmp_path) == url
    assert running(tmp_path) is None
    note = tmp_path / NOTE
    note.write_text('{"url": "http://127.0.0.1:4300"}')  # of one that was killed
    assert running(tmp_path) is None
    with noted(tmp_path, "http://evil.example"):
        assert running(tmp_path) is None
    os.mkfifo(note)  # nobody waits for who never writes, and nothing is written to it
    with noted(tmp_path, url):
        assert running(tmp_path) is None
    note.unlink()
    target = tmp_path / "precious"
    target.write_text("precious")
    note.symlink_to(target)
    with noted(tmp_path, url):
        pass
    assert target.read_text() == "precious"
