"""Tables in narrow terminals: no number is cut, and what is left out is named."""

from __future__ import annotations

import io
import re
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.store_artifacts import SPORT_LATENT, Planted, plant

from deconstruct.store import open_store, pages, publish, resolve_run
from deconstruct.store.render import write_table

WIDTHS = (40, 80, 200)


def printed(width: int, *parts: object) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(*parts, sep="\n")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def answered(query: str, width: int, full: bool = False) -> str:
    """What ``deconstruct sql`` prints of a query on a terminal so wide."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with duckdb.connect() as connection:
        write_table(connection.execute(query), console, 100, full)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def numbers(page: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])-?\d[\d.]*(?:e[-+]?\d+)?", page))


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_of_many_columns_are_whole(width: int) -> None:
    columns = {f"a_column_called_{i}": 1254 * 10**i for i in range(12)}
    query = "SELECT " + ", ".join(f"{value} AS {name}" for name, value in columns.items())
    page = answered(query, width)
    assert {str(value) for value in columns.values()} <= numbers(page)
    assert all(name in page for name in columns) or width == 200
    assert max(map(len, page.splitlines())) <= width


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.lists(st.integers(-(10**12), 10**12), min_size=4, max_size=4), min_size=1, max_size=4
    ),
    text=st.text("abcd efgh", max_size=80),
    width=st.integers(20, 120),
)
def test_no_number_is_ever_cut(values: list[list[int]], text: str, width: int) -> None:
    rows = ", ".join(f"({', '.join(map(str, row))}, '{text}')" for row in values)
    page = answered(
        f"SELECT * FROM (VALUES {rows}) AS t(latent, l0, a, number_of_firings, t)", width
    )
    assert {str(value) for row in values for value in row} <= numbers(page)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_list_is_cut_between_its_numbers(width: int) -> None:
    shown = numbers(answered("SELECT list(range) AS l FROM range(12540, 12580)", width)) - {
        "1",
        "60",
    }
    assert shown <= {str(n) for n in range(12540, 12580)}
    assert len(shown) > 4


def test_numbers_of_every_kind_stand_to_the_right() -> None:
    page = answered(
        "SELECT 1.5 AS d, 2::HUGEINT AS h, 1e300 AS big, 9999.6::DOUBLE AS near FROM range(2)", 80
    )
    assert page.splitlines()[1].split() == ["1.5", "2", "1e+300", "1e+04"]
    assert page.splitlines()[0].index("d") == page.splitlines()[1].index("5")


def test_a_number_that_is_missing_moves_no_other() -> None:
    page = answered("SELECT * FROM (VALUES (1254), (NULL), (7)) AS t(a_number)", 80)
    assert [line.rstrip() for line in page.splitlines()[:4]] == [
        "a_number",
        "    1254",
        "",
        "       7",
    ]


@pytest.fixture(scope="module")
def extreme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a run whose figures are long, under a long name and with long labels."""
    home = tmp_path_factory.mktemp("extreme")
    names = ("world news of politics and economics " * 2, "sports", "x" * 90)
    run = plant(home, "a-run-with-a-rather-long-name-of-its-own", names=names)
    publish(home, run.record, run.artifacts)
    with duckdb.connect(home / "deconstruct.duckdb") as store:
        store.execute("UPDATE runs SET d_sae = 131072, k = 256, l0 = 1254, tokens = 98765432109")
        store.execute("UPDATE sae_metrics SET value = 1254, ci_low = -1e-12 WHERE metric = 'l0'")
    return home


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_of_runs_says_what_it_hides(extreme: Path, width: int) -> None:
    with open_store(extreme) as store:
        wide = printed(1000, *pages.runs(store, 10))
        page = printed(width, *pages.runs(store, 10))
        (run_id,) = store.execute("SELECT run_id FROM runs").fetchone() or ()
    assert run_id in page
    assert "1254" in numbers(page)
    headings = set(wide.splitlines()[0].split())
    hidden = set(re.findall(r"\w+", page.split("want of width:")[1])) if "width:" in page else set()
    assert {word for word in headings - hidden if word not in page} == set()
    assert numbers(page) >= {"0.3", "131072"}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_run_has_every_number_whole(extreme: Path, width: int) -> None:
    with open_store(extreme) as store:
        run = resolve_run(store, "latest")
        wide = numbers(printed(1000, *pages.show(store, run)))
        assert {"131072", "98765432109", "1254", "-1e-12"} <= wide
        folded = {number for number in wide if len(number) > 20}  # keys may go over two lines
        assert wide - folded <= numbers(printed(width, *pages.show(store, run)))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_latent_has_every_number_whole(
    two_runs: tuple[Path, Planted, Planted], width: int
) -> None:
    with open_store(two_runs[0]) as store:
        run = resolve_run(store, "demo")
        page = (store, run, SPORT_LATENT, 3, 12, False)
        assert numbers(printed(1000, *pages.latent(*page))) <= numbers(
            printed(width, *pages.latent(*page))
        )
