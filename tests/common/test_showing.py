"""What is printed goes through `showing`, which obeys none of it."""

from __future__ import annotations

import csv
import io
import json
import logging
import shlex
import subprocess
import sys

import duckdb
import pytest
from rich.table import Table
from rich.text import Text
from support.hostile import HOSTILE, obeyed

from deconstruct.common.showing import (
    Plain,
    code,
    harmless,
    json_text,
    plain_record,
    printable,
    quoted,
    say,
)
from deconstruct.store.render import write_csv

each = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())


@each
def test_a_line_stays_one_line_and_plain_texts_stay_as_they_are(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say(text)
    say(text, error=True)
    printed, told = capsys.readouterr()
    assert printed == told == f"{printable(text)}\n"
    assert printed.count("\n") == 1
    assert not obeyed(printed)
    assert not text.isprintable() or printed == f"{text}\n"


@each
def test_a_console_shows_it_as_string_as_text_and_in_a_table(text: str) -> None:
    page = io.StringIO()
    console = Plain(file=page, width=1000)
    table = Table(text)
    table.add_row(text)
    for thing in (text, Text(text), table, Text.assemble((text, "bold"))):
        console.print(thing)
    assert not obeyed(page.getvalue())
    if text.isprintable():
        assert page.getvalue().count(text) >= 5


@each
def test_a_log_line_shows_it(text: str) -> None:
    page = io.StringIO()
    handler = logging.StreamHandler(page)
    handler.addFilter(plain_record)
    for name in ("deconstruct.stages", "another"):
        try:
            raise ValueError(text)
        except ValueError:
            record = logging.getLogger(name).makeRecord(
                name, logging.ERROR, "", 1, "%s is in", (text,), sys.exc_info()
            )
        handler.handle(record)
    assert not obeyed(page.getvalue())
    assert page.getvalue().startswith(f"{printable(text)} is in\n")
    assert "Traceback" in page.getvalue()


@each
def test_json_holds_it_whole_and_a_terminal_obeys_none_of_it(text: str) -> None:
    value = {"a": [text, float("nan")], text: 0.1 + 0.2}
    written = json_text(value, indent=1)
    assert json.loads(written) == {"a": [text, None], text: 0.1 + 0.2}
    assert not obeyed(written)


@each
def test_a_shell_reads_it_back(text: str) -> None:
    typed = quoted(text)
    assert not obeyed(typed)
    echoed = subprocess.run(["bash", "-c", f"printf %s {typed}"], capture_output=True, check=True)
    assert echoed.stdout.decode() == text
    if text.isprintable():
        assert shlex.split(typed) == [text]


@each
def test_markdown_has_it_as_code_and_nothing_else(text: str) -> None:
    """As CommonMark reads code: up to a run of as many backticks."""
    shown = code(text)
    fence = shown[: len(shown) - len(shown.lstrip("`"))]
    inside = shown[len(fence) : -len(fence)]
    assert shown.endswith(fence)
    assert fence not in inside.replace("`" + fence, "").split(" ")
    assert inside.strip() == printable(text).strip()
    assert not obeyed(shown)
    assert "|" not in code(text, cell=True).replace("\\|", "")


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-cmd", "'-cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\uff1d1", "'\uff1d1"),
        ("-5.5e3", "-5.5e3"),
        ("+1,000", "+1,000"),
        ("a=1", "a=1"),
        ("", ""),
        (-5.5, -5.5),
        (-3, -3),
        (None, None),
    ],
)
def test_a_spreadsheet_takes_no_cell_for_a_formula(value: object, safe: object) -> None:
    assert harmless(value) == safe


def test_csv_is_safe_where_that_is_asked_for_and_exact_else() -> None:
    query = "SELECT '=1+1' AS \"=a\", -0.1::DOUBLE AS x, ['=1'] AS list, '-' AS dash"
    for safe, head, first in ((False, "=a", "=1+1"), (True, "'=a", "'=1+1")):
        page = io.StringIO()
        write_csv(duckdb.connect().execute(query), page, safe)
        names, row = csv.reader(io.StringIO(page.getvalue()))
        assert names == [head, "x", "list", "dash"]
        assert row == [first, "-0.1", '["=1"]', "'-" if safe else "-"]


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    def isatty(self) -> bool:
        return True


@each
def test_csv_on_a_terminal_is_shown(text: str) -> None:
    page = Terminal()
    write_csv(duckdb.connect().execute("SELECT ? AS t", [text]), page)
    assert not obeyed(page.getvalue())
    assert next(csv.reader(io.StringIO(page.getvalue().split("\n", 1)[1]))) == [printable(text)]
