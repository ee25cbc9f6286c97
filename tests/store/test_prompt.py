"""The interactive prompt: completion, history, Ctrl-C, on a terminal of its own."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from support.store_artifacts import LABELS, Planted

from deconstruct.store import open_store
from deconstruct.store.prompt import StoreCompleter, _completer, ask_on, history_file
from deconstruct.store.rewrite import FILE

TwoRuns = tuple[Path, Planted, Planted]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def typed(home: Path, keys: str, files: bool = True) -> str:
    """What the prompt prints for some keys."""
    console = Console(file=io.StringIO(), width=200)
    with open_store(home, files=files, verify=False) as store, create_pipe_input() as source:
        source.send_text(keys)
        ask_on(store, console, 100, False, source, DummyOutput())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def completer(two_runs: TwoRuns) -> StoreCompleter:
    with open_store(two_runs[0]) as store:
        return StoreCompleter(store)


@pytest.mark.parametrize(
    ("text", "offered", "withheld"),
    [
        ("FROM la", {"latents", "latents_by_token", "latents_for_label("}, {"latent", "label"}),
        ("select x from top_c", {"top_contexts("}, set()),
        ("SELECT feat", {"features", "feature_logits"}, set()),
        ("SELECT dens", {"density", "density_histogram"}, set()),
        ("SELECT features.top_", {"top_token", "top_token_share"}, {"top_label"}),
        ("SELECT f.dec FROM features AS f", {"decoder_norm"}, {"decoder"}),
        ("SELECT resol", {"resolve_run("}, set()),
        ("sel", {"SELECT"}, set()),
        ("FROM top_contexts('", {"demo", "other", "latest"}, {"features"}),
        ("FROM latents_for_label('demo', 'sp", {LABELS[1].replace("'", "''")}, {"demo"}),
        (".", {".tables", ".macros", ".help", ".quit"}, set()),
    ],
)
def test_completion(
    completer: StoreCompleter, text: str, offered: set[str], withheld: set[str]
) -> None:
    place = text.find(" FROM features AS f")
    document = Document(text, place if place > 0 and "f.dec" in text else len(text))
    found = {c.text for c in completer.get_completions(document, CompleteEvent())}
    assert offered <= found
    assert not withheld & found


def test_completion_of_everything_begins_with_what_was_typed(completer: StoreCompleter) -> None:
    for text in ("FROM run", "SELECT tok", "SELECT runs.n"):
        for completion in completer.get_completions(Document(text), CompleteEvent()):
            whole = text[: len(text) + completion.start_position] + completion.text
            assert whole.lower().startswith(text.lower())


def test_queries_over_several_lines_errors_and_commands(two_runs: TwoRuns) -> None:
    page = typed(
        two_runs[0],
        "SELECT name\rFROM runs\rORDER BY name;\r"
        "SELECT nonsense;\r"
        "DROP TABLE runs;\r"
        ".tables\r.columns runs\r.macros\r.help\r.nothing\r"
        "SELECT '.5' AS x;\r"
        ".quit\r",
    )
    assert re.search(r"name +\n *demo +\n *other", page)
    assert "nonsense" in page
    assert "written by runs alone" in page
    assert "Every firing of every latent" in page
    assert "Share of the held-out activations' variance" in page
    assert re.search(r"top_contexts +run, latent, n, width", page)
    assert "no command .nothing" in page
    assert "1 row" in page


def test_each_statement_is_answered_and_a_name_for_an_id_is_said(two_runs: TwoRuns) -> None:
    page = typed(
        two_runs[0],
        "SELECT 1254 AS a; SET VARIABLE x = 7; SELECT getvariable('x') AS b;\r"
        "SELECT count(*) AS n FROM latents WHERE run_id = 'latest';\r.quit\r",
    )
    assert re.search(r"^ *a\n1254\n1 row\n *b\n *7\n1 row\n", page, re.MULTILINE)
    assert "write resolve_run('latest') in the place of 'latest'" in page


def test_history_is_kept_for_the_next_time_and_private(two_runs: TwoRuns, state: Path) -> None:
    typed(two_runs[0], "SELECT 6 * 7 AS answer;\r.quit\r")
    again = typed(two_runs[0], "\x1b[A\x1b[A\r.quit\r")  # up, up: before .quit
    assert "answer" in again
    file = history_file()
    assert file.is_relative_to(state)
    assert "SELECT 6 * 7 AS answer;" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["folder", "pipe", "file above", "nowhere"])
def test_where_no_history_can_be_kept_there_is_a_prompt(
    what: str, two_runs: TwoRuns, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = state / "deconstruct" / "sql_history"
    if what == "file above":
        place.parent.write_text("")
    elif what == "nowhere":
        monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    else:
        place.parent.mkdir()
        place.mkdir() if what == "folder" else os.mkfifo(place)
    page = typed(two_runs[0], "SELECT 6 * 7 AS answer;\r.quit;\r")
    assert re.search(r"answer\n +42\n1 row\n$", page)


def test_a_history_that_others_could_read_is_closed_to_them(
    two_runs: TwoRuns, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = history_file()
    file.chmod(0o664)
    typed(two_runs[0], ".quit\r")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setenv("HOME", str(state / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "of-this-folder")  # such paths are to be ignored
    assert history_file().is_relative_to(state / "home")


HOSTILE_NAMES = (
    "SELECT error('none of your business') AS name, 1 AS last_execution, 'x' AS run_id",
    "SELECT 'demo\x1b]0;owned\x07' AS name, 1 AS last_execution, 'x' AS run_id",
    "SELECT 'demo\u202etxt' AS name, 1 AS last_execution, 'x' AS run_id",
)


@pytest.mark.parametrize("view", HOSTILE_NAMES)
def test_a_store_of_somebody_else_completes_nothing_that_is_obeyed(
    view: str, two_runs: TwoRuns, tmp_path: Path
) -> None:
    shutil.copy(two_runs[0] / FILE, tmp_path / FILE)
    with duckdb.connect(tmp_path / FILE) as store:
        store.execute("ALTER TABLE names RENAME TO other_names")
        store.execute(f"CREATE VIEW names AS {view}")
    with open_store(tmp_path, files=False, verify=False) as store:
        completer = _completer(store)
        document = Document("FROM top_contexts('demo")
        for completion in completer.get_completions(document, CompleteEvent()):
            assert completion.text.isprintable()
    assert "42" in typed(tmp_path, "SELECT 42 AS x;\r.quit\r", files=False)


def test_end_of_input_leaves(two_runs: TwoRuns) -> None:
    assert "Read-only" in typed(two_runs[0], "\x04")


def _control() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C in it is a signal, and hear it:
    what a shell starts in the background is deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.own, child = pty.openpty()
        code = "from deconstruct.cli import app; app()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "sql", *arguments, "--home", str(home)],
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            preexec_fn=_control,  # noqa: PLW1509
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(child)
        self.seen = ""

    def send(self, keys: str) -> None:
        os.write(self.own, keys.encode())

    def wait_for(self, text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} did not come; there is {self.seen!r}"
            if select.select([self.own], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.own, 65_536).decode(errors="replace")
                except OSError:  # the other end is closed
                    assert text in self.seen, self.seen
                if "\x1b[6n" in self.seen:  # it asks where the cursor is
                    self.seen = self.seen.replace("\x1b[6n", "")
                    self.send("\x1b[1;1R")
        self.seen = self.seen.split(text, 1)[1]


@pytest.fixture
def slow() -> str:
    return "SELECT count(*) FROM range(3000000000) a, range(1000) b WHERE a.range % 7 = b.range % 5"


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.own)


def test_ctrl_c_stops_the_query_and_not_the_prompt(
    two_runs: TwoRuns, terminals: list[Terminal], slow: str
) -> None:
    terminal = Terminal(two_runs[0])
    terminals.append(terminal)
    terminal.wait_for("sql>")
    terminal.send(slow + ";\r")
    terminal.wait_for("0% ▕")  # DuckDB shows how far it is
    terminal.send("\x03")
    terminal.wait_for("interrupted")
    terminal.wait_for("sql>")
    terminal.send("SELECT 41 + 1 AS still_there;\r")
    terminal.wait_for("         42")
    terminal.wait_for("sql>")
    time.sleep(0.5)  # a key that comes before it listens is lost
    terminal.send("\x04")
    assert terminal.process.wait(30) == 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_ctrl_c_ends_a_single_query(
    two_runs: TwoRuns, terminals: list[Terminal], slow: str
) -> None:
    terminal = Terminal(two_runs[0], slow)
    terminals.append(terminal)
    files = Path(f"/proc/{terminal.process.pid}/fd")
    while not any(os.path.realpath(file).endswith(FILE) for file in files.iterdir()):
        time.sleep(0.1)
    time.sleep(1.5)  # it has opened the store, and now it has begun
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.wait_for("interrupted")
    assert terminal.process.wait(30) == 130
