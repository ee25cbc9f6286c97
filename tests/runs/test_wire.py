"""Nothing calls out: every connection of a run and its server, by Python and by the kernel."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import COMMAND, ROOT, environment

HOOK = """
import os, sys

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        said = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        said = (arguments[0],)
    else:
        return
    host = said[0] if isinstance(said, tuple) else "unix"
    host = host.decode() if isinstance(host, bytes) else host
    line = f"{os.getpid()} {event} {host}\\n".encode()
    os.write(log, line)

log = os.open(os.environ["WIRE_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sys.addaudithook(hook)
"""
"""Imported by every Python process as ``sitecustomize``: it notes whom the process speaks to."""

OFFLINE = ("HF_HUB_OFFLINE", "DO_NOT_TRACK", "TOKENIZERS_PARALLELISM")
"""Set for all other tests; a user has them not."""


def home_only(host: str) -> bool:
    if host in ("None", "unix", "localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def watched(folder: Path, command: list[str], *arguments: str) -> tuple[set[str], set[str], str]:
    """Run Python under watch: processes that spoke, hosts they spoke to, and standard error."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    log = folder / "wire.log"
    env = environment(folder / "home", PYTHONPATH=f"{folder / 'hook'}:{ROOT}", WIRE_LOG=str(log))
    done = subprocess.run(
        [*command, sys.executable, *arguments],
        env={name: value for name, value in env.items() if name not in OFFLINE},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    lines = [line.split(" ") for line in log.read_text().splitlines()]
    return {pid for pid, *_ in lines}, {host for *_, host in lines}, done.stderr


@pytest.mark.parametrize(
    ("call", "host"),
    [
        ("socket.getaddrinfo('deconstruct.invalid', 443)", "deconstruct.invalid"),
        ("socket.create_connection(('192.0.2.1', 443), timeout=0.01)", "192.0.2.1"),
    ],
)
def test_the_watch_sees_a_call_out(call: str, host: str, tmp_path: Path) -> None:
    _, hosts, _ = watched(tmp_path, [], "-c", f"import socket; {call}")
    assert [spoken for spoken in hosts if not home_only(spoken)] == [host]


def test_a_run_and_its_server_speak_to_this_machine_alone(tmp_path: Path, config: Path) -> None:
    trace = tmp_path / "trace"
    strace = shutil.which("strace")
    command = (
        [strace, "-f", "--seccomp-bpf", "-e", "trace=connect", "-o", str(trace)] if strace else []
    )
    pids, hosts, said = watched(tmp_path, command, "-c", COMMAND, "run", str(config))
    assert (tmp_path / "home" / "deconstruct.duckdb").exists(), said
    assert pids, "the run must have spoken to its server"
    assert [host for host in hosts if not home_only(host)] == []
    if strace:  # what libraries in C and Rust do, too
        kernel = re.findall(
            r'htons\((\d+)\).*?(?:inet_addr\("|inet_pton\(AF_INET6, ")([^"]+)"', trace.read_text()
        )
        assert kernel
        assert [found for found in kernel if not home_only(found[1]) or found[0] == "53"] == []
