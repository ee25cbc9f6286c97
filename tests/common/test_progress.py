"""What is told of long work while it goes on."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import termios
from threading import Thread

import pytest
from support.paths import ROOT

from deconstruct.common.progress import Bar, listening, track


def test_progress_ends_at_100_where_work_stops_early_and_not_where_it_fails() -> None:
    told: list[tuple[str, int, int]] = []

    def listen(description: str, done: int, total: int) -> None:
        told.append((description, done, total))

    with listening(listen), track("sae", 10) as advance:
        advance(4)
    assert told[-1] == ("sae", 10, 10)
    told.clear()

    def break_off() -> None:
        with listening(listen), track("sae", 10) as advance:
            advance(4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        break_off()
    assert ("sae", 10, 10) not in told


@pytest.mark.parametrize("width", [10, 20, 30, 40, 60, 80, 100, 200])
def test_a_narrow_bar_cuts_no_number(width: int) -> None:
    bar = Bar(
        total=1_000_000, desc=f"{'sae':<12}", unit=" tokens", unit_scale=True, ncols=width,
        file=io.StringIO(),
    )  # fmt: skip
    bar.set_postfix({"fvu": "0.04034", "l0": "1254.00", "dead_share": "0.1696"}, refresh=False)
    bar.start_t -= 30
    bar.update(123_456)
    drawn = str(bar)
    assert len(drawn) <= width
    assert "12%" in drawn
    told = {"123k/1.00M", "fvu=0.04034", "l0=1254.00", "dead_share=0.1696"}
    parts = {part for part in re.split(r"[\s,\]|]+", drawn) if re.search(r"[/=]\w*\d", part)}
    assert parts <= told
    assert ("1254.00" in drawn) == (width >= 100)


@pytest.mark.parametrize("what", ['track("sae", 100, "tokens")', 'waiting("starting")'])
def test_a_terminal_sees_life_while_nothing_is_told(what: str) -> None:
    """Work that is silent for three seconds has a clock that goes on."""
    code = f"import time\nfrom deconstruct.common.progress import *\nwith {what}: time.sleep(3.5)\n"
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 80))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=its_end,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
    ):
        os.close(its_end)
        drawn = b""
        with contextlib.suppress(OSError):  # its other end is closed
            while more := os.read(terminal, 4096):
                drawn += more
        os.close(terminal)
    assert len(set(re.findall(rb"\d\d:\d\d", drawn))) >= 3, drawn


@pytest.mark.timeout(60)
def test_bars_side_by_side_go_on_when_nobody_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = []

    def work() -> None:
        with track("sae", 100) as advance:
            for _ in range(100):
                advance(1)
        done.append(True)

    with os.fdopen(writer, "w", buffering=1) as unread:
        monkeypatch.setattr(sys, "stderr", unread)
        threads = [Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        monkeypatch.undo()
        with contextlib.suppress(BrokenPipeError):
            unread.close()
    assert done == [True, True]
