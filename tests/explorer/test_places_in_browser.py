"""Map, clusters, labels, errors, drift and SQL in Chromium: by mouse, by keys, for everybody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from explorer.conftest import Explored
from explorer.test_browser import _load_all
from support.browser import PROGRAM, Page, browser
from support.explored import running
from support.massive import ISLAND
from support.store_artifacts import plant

from deconstruct.store import publish

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium")

READY = "document.getElementById('map')?.dataset.ready == 'yes'"
PAGES = {
    "map": ("/run/demo/map", "Documents by their latents"),
    "pooled map": ("/run/demo/map?of=pooled&latent=9", "latent 9"),
    "latents' map": ("/run/demo/map?of=latents", "Latents by direction"),
    "marks": ("/run/demo/map?cluster=1", "What marks these"),
    "clusters": ("/run/demo/clusters", "Cluster 1"),
    "labels": ("/run/demo/labels", "Latents that tell"),
    "errors": ("/run/demo/errors", "Where the probe errs"),
    "drift": ("/run/demo/drift", "Since the SAE was trained"),
    "trend": ("/trend?name=demo", "from run to run"),
    "sql": ("/sql?query=FROM+features&run=demo", "Rows 1 to"),
    "no answer": ("/sql?query=FROM+nothing", "No answer"),
}
HOSTILE = (
    "<img src=x onerror=window.owned=1>",
    "</script><script>window.owned=1</script>",
    "\u202e]]>\"'`{{ 7 * 7 }}\x1b[31m",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def _open(page: Page, url: str) -> None:
    page.go(url)
    if "/map" in url:
        page.wait(READY)
    _load_all(page)


def _at(page: Page, share_x: float, share_y: float) -> tuple[float, float]:
    """A place on the canvas, in the window."""
    x, y, w, h = page.value(
        "(() => { const one = document.getElementById('canvas'); one.scrollIntoView({"
        "block: 'center', behavior: 'instant'}); const box = one.getBoundingClientRect(); "
        "return [box.x, box.y, box.width, box.height]; })()"
    )
    return x + share_x * w, y + share_y * h


def _mouse(page: Page, kind: str, x: float, y: float) -> None:
    page.tell(
        "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1,
        buttons=int(kind != "mouseReleased"),
    )  # fmt: skip


def _island_is_named(page: Page) -> None:
    page.shows("What marks these 15 documents")
    page.shows("An artefact of one token")
    first = page.value(
        "[...document.querySelectorAll('#marks tbody tr td:first-child')].slice(0, 2)"
        ".map(one => Number(one.textContent))"
    )
    assert first == list(ISLAND)
    assert "selected=" in page.value("location.search")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_fault_asks_nobody_else_and_shuts_nobody_out(
    page: Page, address: str, name: str
) -> None:
    path, words = PAGES[name]
    page.tell("Page.setBypassCSP", enabled=False)
    page.listen()
    page.size(1440)
    _open(page, address + path)
    page.shows(words)
    expected = "400" if name == "no answer" else None
    assert not [fault for fault in page.faults if expected is None or expected not in fault]
    assert not [url for url in page.requests.values() if not url.startswith(("data:", address))]
    for width, dark in ((1440, False), (1440, True), (390, False), (390, True)):
        page.size(width, dark=dark)
        assert page.too_wide() <= 0, f"{width} pixels"
    page.tell("Page.setBypassCSP", enabled=True)  # axe-core is a script of the test's
    for dark in (False, True):
        page.size(1440, dark=dark)
        _open(page, address + path)
        assert not page.unfair(), "dark" if dark else "light"


@pytest.mark.parametrize("tool", ["Lasso", "Rectangle"])
def test_the_mouse_selects_the_island_and_its_latents_are_named(
    page: Page, address: str, tool: str
) -> None:
    page.size(1440)
    _open(page, f"{address}/run/demo/map?of=pooled")
    page.click("[data-tool]", tool)
    ring = [(0.55, 0.05), (0.97, 0.05), (0.97, 0.95), (0.55, 0.95)]
    path = ring if tool == "Lasso" else [ring[0], ring[2]]
    _mouse(page, "mousePressed", *_at(page, *path[0]))
    for place in path[1:]:
        _mouse(page, "mouseMoved", *_at(page, *place))
    _mouse(page, "mouseReleased", *_at(page, *path[-1]))
    _island_is_named(page)
    page.click("#clear")
    page.wait("!document.querySelector('#marks h2')")


def test_keys_select_the_island_and_its_latents_are_named(page: Page, address: str) -> None:
    page.size(1440)
    _open(page, f"{address}/run/demo/map?of=pooled")
    page.value("document.getElementById('canvas').focus()")
    width, height = page.value("[map.view.width, map.view.height]")
    for _ in range(int(height / 2 / 12) + 1):
        page.press("ArrowUp")
    page.press("ArrowRight")
    page.press("ArrowRight")
    page.press("Enter")
    for _ in range(int(height / 12) + 2):
        page.press("ArrowDown")
    for _ in range(int(width / 2 / 12)):
        page.press("ArrowRight")
    page.press("Enter")
    _island_is_named(page)


def test_a_point_is_told_by_mouse_and_by_key(page: Page, address: str) -> None:
    page.size(1440)
    _open(page, f"{address}/run/demo/map")
    place = "(() => map.view.at(map.data.x[7], map.data.y[7]))()"
    x, y = page.value(place)
    left, top = _at(page, 0, 0)
    _mouse(page, "mouseMoved", left + x, top + y)
    page.wait("!!document.querySelector('#told a[href*=\"/doc/\"]')")
    told = page.value("document.getElementById('told').innerText")
    _open(page, f"{address}/run/demo/map")
    page.value("document.getElementById('canvas').focus()")
    page.press("+")
    page.value("map.view.all(); map.cross = map.view.at(map.data.x[7] - 60, map.data.y[7]); 1")
    page.press("ArrowRight")
    page.wait(f"document.getElementById('told').innerText == {json.dumps(told)}")
    shown = page.value("document.querySelector('#told a').getAttribute('href')")
    page.press("o")
    page.wait(f"location.pathname == {json.dumps(shown)}")


def test_groups_can_be_hidden_and_are_not_selected(page: Page, address: str) -> None:
    page.size(1440)
    _open(page, f"{address}/run/demo/map")
    page.value("document.querySelector('#legend input').click()")
    page.value(
        "map.ring = [[0, 0], [map.view.width, 0], [map.view.width, map.view.height], "
        "[0, map.view.height]]; map.select()"
    )
    page.shows("What marks these 40 documents")


def test_the_editor_completes_and_runs_by_keys(page: Page, address: str) -> None:
    page.size(1440)
    page.tell("Page.setBypassCSP", enabled=False)
    page.go(f"{address}/sql?run=demo")
    page.value("document.getElementById('query').value = ''")
    page.type("#query", "SELECT count(*) AS many FROM feat")
    page.wait("!document.getElementById('offers').hidden")
    page.press("ArrowDown")
    page.press("Tab")
    assert page.value("document.getElementById('query').value").endswith("FROM features")
    assert page.value("document.getElementById('offers').hidden")
    with page.left():
        page.tell("Input.dispatchKeyEvent", type="keyDown", key="Enter", modifiers=2)
    page.shows("many")
    page.shows("48")
    page.value(
        "(() => { const menu = document.getElementById('questions'); menu.selectedIndex = 1; "
        "menu.dispatchEvent(new Event('change')); })()"
    )
    assert "FROM runs" in page.value("document.getElementById('query').value")


def test_hostile_labels_stay_text(
    page: Page, tmp_path_factory: pytest.TempPathFactory, explored: Explored
) -> None:
    home: Path = tmp_path_factory.mktemp("hostile")
    run = plant(home, "demo", documents=45, names=HOSTILE)
    publish(home, run.record, run.artifacts)
    page.tell("Page.setBypassCSP", enabled=False)
    with running(home) as address:
        for path in (
            "map", "map?cluster=1", "map?of=latents", "clusters", "labels", "errors", "drift",
        ):  # fmt: skip
            page.listen()
            _open(page, f"{address}/run/demo/{path}")
            assert page.value("window.owned") is None, path
            assert not page.faults, path
            assert page.value("document.querySelector('main img') === null"), path
        _open(page, f"{address}/sql?query=FROM+document_labels")
        assert page.value("window.owned") is None
        assert HOSTILE[0] in page.text()
