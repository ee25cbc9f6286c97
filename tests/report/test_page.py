"""The report of a run as people open it: a file, in a browser, that asks nobody for anything."""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import PROGRAM, Page, browser
from support.store_artifacts import Planted, plant

from deconstruct.config import RunConfig
from deconstruct.report import page, trend
from deconstruct.report.figures import ALL
from deconstruct.report.sections.look import Look
from deconstruct.store import open_store, publish, run_id_of
from deconstruct.store.query import report_file

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
SIZES = [(390, False), (390, True), (1440, False), (1440, True)]
MOST = 5_000_000
"""Bytes of a page."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with two runs of one name, and a control of the second."""
    folder = tmp_path_factory.mktemp("reported")
    for seed, name in ((0, "nightly"), (1, "nightly")):
        planted = plant(folder, name, seed=seed)
        publish(folder, planted.record, planted.artifacts)
    return folder


@pytest.fixture(scope="module")
def planted(home: Path) -> Planted:
    """What the newest run is made of."""
    return plant(home, "nightly", seed=1)


@pytest.fixture(scope="module")
def file(home: Path, planted: Planted) -> Path:
    """Its report."""
    run_id = run_id_of(planted.artifacts)
    with open_store(home, files=False) as store:
        return page.write(store, run_id, report_file(home, run_id))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        one.listen()
        yield one


@pytest.fixture
def tab(chromium: Page) -> Page:
    """The browser's page, as a fresh one."""
    chromium.without_scripts(False)
    chromium.tell("Page.setBypassCSP", enabled=False)
    chromium.size(1440)
    chromium.go("about:blank")
    chromium.listen()
    return chromium


def seen_whole(tab: Page) -> None:
    """Scroll through, so that what comes alive in sight has been in sight."""
    height = int(tab.value("document.documentElement.scrollHeight"))
    for place in range(0, height, 600):
        tab.value(f"scrollTo(0, {place})")
        time.sleep(0.05)


def test_it_opens_from_disk_asks_for_nothing_and_comes_alive(tab: Page, file: Path) -> None:
    tab.go(file.as_uri())
    figures = tab.value("document.querySelectorAll('figure.figure').length")
    assert figures >= 5
    seen_whole(tab)
    tab.wait(f"document.querySelectorAll('.drawing.live svg').length == {figures}")
    # Vega-Lite warns of some charts that it draws as they are meant.
    assert tab.faults == []
    assert set(tab.requests.values()) == {file.as_uri()}
    assert file.stat().st_size < MOST
    point = "#figure-density .drawing.live svg .mark-rect path"
    tab.wait(f"!!document.querySelector('{point}')")
    tab.point(point)
    tab.wait("document.querySelector('#vg-tooltip-element.visible')?.innerText.includes('latents')")


def test_it_shows_all_without_scripts(tab: Page, file: Path) -> None:
    tab.go(file.as_uri())
    alive = tab.value("document.querySelectorAll('figure.figure').length")
    tab.without_scripts()
    tab.go(file.as_uri())
    assert tab.value("document.querySelectorAll('.drawing > svg').length") == alive
    assert tab.value("document.querySelectorAll('.drawing.live').length") == 0
    text = tab.text()
    for words in ("Verdict", "What was found", "Clusters", "goal", "Provenance", "Again"):
        assert words in text
    assert tab.value("getComputedStyle(document.getElementById('find')).display") == "none"
    assert tab.faults == []


@pytest.mark.parametrize(
    ("asked", "place"),
    [("7", "tr#latent-7"), ("goal", "tr#latent-7"), ("DROP TABLE", "#labels .panel")],
    ids=["number", "token", "label"],
)
def test_search_finds(tab: Page, file: Path, asked: str, place: str) -> None:
    tab.go(file.as_uri())
    tab.press("/")
    tab.type("#words", asked)
    tab.wait("document.body.classList.contains('finding')")
    assert tab.value(f"!!document.querySelector({json.dumps(place + '.hit')})")
    others = "[...document.querySelectorAll('tr.findable:not(.hit)')]"
    assert tab.value(f"{others}.length > 0 && {others}.every(row => !row.offsetParent)")
    assert re.fullmatch(r"\d+ places?", tab.value("document.getElementById('hits').innerText"))
    tab.press("Enter")
    number = "document.querySelector('.hit').getBoundingClientRect()"
    tab.wait(f"{number}.top < innerHeight")


def test_hover_and_the_keyboard_tell_how_strongly_a_token_fires(tab: Page, file: Path) -> None:
    tab.go(file.as_uri())
    one = "#latent-7 .fires.peak"
    told = f"getComputedStyle(document.querySelector('{one}'), '::after').content"
    value = tab.value(f"document.querySelector('{one}').dataset.tip")
    assert float(value) > 2
    assert tab.value(told) == "none"
    tab.point(one)
    tab.wait(f"{told} == {json.dumps(json.dumps(value))}")
    tab.tell("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    tab.wait(f"{told} == 'none'")
    tab.value(f"document.querySelector('{one}').focus()")
    tab.wait(f"{told} == {json.dumps(json.dumps(value))}")
    spoken = tab.value(f"document.querySelector('{one}').getAttribute('aria-label')")
    assert "goal" in spoken
    assert value in spoken


def test_tables_are_sorted_by_their_headings(tab: Page, file: Path) -> None:
    tab.go(file.as_uri())
    column = (
        "[...document.querySelectorAll('table.latents tbody tr')].map(r => +r.cells[5].innerText)"
    )
    for _ in range(2):
        tab.click("table.latents th:nth-child(6) button")
    up = tab.value(column)
    assert up == sorted(up)
    tab.click("table.latents th:nth-child(6) button")
    assert tab.value(column) == sorted(up, reverse=True)


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_it_fits_and_shuts_nobody_out(tab: Page, file: Path, width: int, dark: bool) -> None:
    tab.tell("Page.setBypassCSP", enabled=True)  # lets axe in, in this test alone
    tab.size(width, dark=dark)
    tab.go(file.as_uri())
    seen_whole(tab)
    assert tab.too_wide() <= 0
    assert tab.unfair() == []


def test_the_verdict_says_what_is_better_than_before(tab: Page, file: Path, home: Path) -> None:
    tab.go(file.as_uri())
    text = tab.value("document.getElementById('verdict').innerText")
    before = run_id_of(plant(home, "nightly", seed=0).artifacts)
    assert before in text
    assert "none set" in text
    assert "Does not show" in text
    assert re.search("better|worse|no clear difference|not comparable", text)


def test_the_same_run_gives_the_same_bytes(home: Path, file: Path, planted: Planted) -> None:
    with open_store(home, files=False) as store:
        assert page.report(store, run_id_of(planted.artifacts)) == file.read_text("utf-8")


def test_its_settings_can_be_run_again(home: Path, planted: Planted) -> None:
    with open_store(home, files=False) as store:
        look = Look(store, run_id_of(planted.artifacts))
        sections = {one.name: one for one in page.SECTIONS}
        told = sections["provenance"].find(look)["config"]
    assert RunConfig.model_validate(tomllib.loads(told)) == planted.record.config


def test_the_page_of_a_name(tab: Page, home: Path) -> None:
    with open_store(home, files=False) as store:
        made = trend.write(store, "nightly", trend.place(home, "nightly"))
    tab.go(made.as_uri())
    assert tab.faults == []
    assert tab.value("document.querySelectorAll('#series-1 tbody tr').length") >= 2


def test_sections_name_figures_that_there_are() -> None:
    known = {make.__name__ for make in ALL}
    folder = Path(page.__file__).parent / "sections"
    named = {
        name
        for source in folder.glob("*.py")
        for call in re.findall(r"look\.figures\(([^)]*)\)", source.read_text())
        for name in re.findall(r'"(\w+)"', call)
    }
    assert named == known
