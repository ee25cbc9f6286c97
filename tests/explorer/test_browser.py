"""The explorer's pages in Chromium: no fault, no request to elsewhere, usable by all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from explorer.conftest import Explored
from support.browser import PROGRAM, Page, browser
from support.drawn import DEAD, SPORT_LATENT
from support.massive import ISLAND

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium")

LATENT = f"/run/demo/latent/{SPORT_LATENT}"
PAGES = {
    "runs": ("/", "demo"),
    "run": ("/run/demo", "Baselines"),
    "compare": ("/compare/demo/other", "Metrics"),
    "latents": ("/run/demo/latents", "mostly on"),
    "latent": (LATENT, "Where it fires most strongly"),
    "massive latent": (f"/run/demo/latent/{ISLAND[0]}", "’"),
    "dead latent": (f"/run/demo/latent/{DEAD}", "a dead latent"),
    "document": (f"/run/demo/doc/1?latent={SPORT_LATENT}&token=20", "What fires on"),
    "errors in a document": ("/run/demo/doc/0?by=error", "does not render"),
    "search": ("/run/demo/search?q=goal", "Latents that fire mostly on it"),
    "notes": ("/notes", "Stars and notes"),
    "fault": ("/run/nobody", "Not here"),
}
IDLE = "!document.querySelector('[aria-busy]') && document.readyState == 'complete'"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        one.tell("Page.setBypassCSP", enabled=False)
        yield one


def _load_all(page: Page) -> None:
    """Have all parts come that come when they are seen."""
    page.value("document.querySelectorAll('[data-load]').forEach(one => one.scrollIntoView())")
    for _ in range(3):
        page.value("new Promise(done => setTimeout(done, 100))")
        page.wait(IDLE)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_fault_asks_nobody_else_and_shuts_nobody_out(
    page: Page, address: str, name: str
) -> None:
    path, words = PAGES[name]
    page.tell("Page.setBypassCSP", enabled=False)
    page.listen()
    page.size(1440)
    page.go(address + path)
    page.shows(words)
    _load_all(page)
    faults = [fault for fault in page.faults if "404" not in fault or name != "fault"]
    assert not faults
    asked = [url for url in page.requests.values() if not url.startswith(("data:", address))]
    assert not asked
    assert "Not here" not in page.text() or name == "fault"
    for width, dark in ((1440, False), (1440, True), (390, False), (390, True)):
        page.size(width, dark=dark)
        assert page.too_wide() <= 0, f"{width} pixels"
    page.tell("Page.setBypassCSP", enabled=True)  # axe-core is a script of the test's
    for dark in (False, True):
        page.size(1440, dark=dark)
        page.go(address + path)
        _load_all(page)
        assert not page.unfair(), "dark" if dark else "light"


def test_values_show_on_hover_and_on_focus(page: Page, address: str) -> None:
    page.size(1440)
    page.go(address + LATENT)
    page.shows("Where it fires most strongly")
    _load_all(page)  # what comes later would move the token from under the mouse
    tip = "getComputedStyle(document.querySelector('.fires.peak'), '::after').content"
    told = page.value("document.querySelector('.fires.peak').dataset.tip")
    assert float(told) > 2
    assert page.value(tip) == "none"
    page.point(".fires.peak")
    page.wait(f"{tip} == {told!r} || {tip} == '\"{told}\"'")
    page.tell("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    page.wait(f"{tip} == 'none'")
    page.value("document.querySelector('.fires.peak').focus()")
    page.wait(f"{tip} == '\"{told}\"'")
    assert told in page.value("document.querySelector('.fires.peak').getAttribute('aria-label')")


def test_keys_lead_on_search_and_tell_of_themselves(page: Page, address: str) -> None:
    page.size(1440)
    page.go(address + LATENT)
    with page.left():
        page.press("j")
    page.shows(f"Latent {SPORT_LATENT + 1}")
    with page.left():
        page.press("k")
    page.shows(f"Latent {SPORT_LATENT}\n")
    page.press("?")
    page.wait("document.getElementById('keys').open")
    page.press("?")
    page.wait("!document.getElementById('keys').open")
    page.press("/")
    page.wait("document.activeElement.id == 'q'")
    page.type("#q", "j?r")  # keys are letters there
    assert page.value("document.getElementById('q').value") == "j?r"
    for words, shown in (
        (str(ISLAND[0]), f"Latent {ISLAND[0]}"),
        ("goal", "Latents that fire mostly on it"),
        ("busin", "Labels"),
    ):
        page.go(address + LATENT)
        page.press("/")
        page.type("#q", words)
        with page.left():
            page.press("Enter")
        page.shows(shown)
    page.go(address + LATENT)
    with page.left():
        page.press("r")
    page.shows("Latent ")


def test_a_token_of_a_document_leads_to_its_latents(page: Page, address: str) -> None:
    page.size(1440)
    page.go(f"{address}/run/demo/doc/1?latent={SPORT_LATENT}")
    page.click("a.t.fires", "goal")
    page.shows("What fires on")
    page.wait("!!document.querySelector('a.t.chosen')")
    assert page.value(
        "[...document.querySelectorAll('section.aside a.latent')]"
        f".some(a => a.text == '{SPORT_LATENT}')"
    )


def test_two_runs_that_are_ticked_are_compared_and_tables_sorted(
    page: Page, address: str, explored: Explored
) -> None:
    page.size(1440)
    page.go(address)
    page.wait("document.querySelector('[data-compares]').disabled")
    page.value("document.querySelectorAll('input[name=compared]').forEach(box => box.click())")
    with page.left():
        page.click("[data-compares]")
    page.shows("Metrics")
    assert all(run in page.value("location.pathname") for run in explored.ids)
    page.go(address)
    names = (
        "[...document.querySelectorAll('#runs tbody tr:not([hidden]) td:nth-child(2)')]"
        ".map(x => x.innerText)"
    )
    page.click("th button", "name")
    assert page.value(names) == ["demo", "other"]
    page.click("th button", "name")
    assert page.value(names) == ["other", "demo"]
    page.type("[data-filters]", "oth")
    assert page.value(names) == ["other"]


def test_a_star_and_a_note_stay(page: Page, address: str) -> None:
    page.size(1440)
    page.go(f"{address}/run/demo/latent/2")
    with page.left():
        page.press("s")
    page.shows("★ starred")
    page.type("#note", "looks like <b>commas</b>")
    with page.left():
        page.click(".note button", "Save")
    page.shows("saved ")
    page.go(f"{address}/notes")
    page.shows("looks like <b>commas</b>")
    assert page.value("!document.querySelector('main b')")
