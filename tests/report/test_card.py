"""The card of a latent: what is on it, that it stays text, and that it needs nothing."""

from __future__ import annotations

import re
import webbrowser
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support import drawn
from support.browser import PROGRAM, browser
from support.drawn import DEAD, SPORT_LATENT, Drawn
from support.store_artifacts import Planted, plant
from typer.testing import CliRunner

import deconstruct
from deconstruct.cli import app
from deconstruct.report.card import Card, card
from deconstruct.store import QueryError, open_store, publish

HOSTILE = (
    "<script>document.title = 'owned'</script>",
    "</style><script>document.title = 'owned'</script>",
    '"><img src="http://evil.example/x" onerror="document.title = \'owned\'">',
    "]]><!-- {{ 7 * 7 }} {% x %}",
    "a\u202e\u2066txt.exe\x1b[31m\x00",
    "y" * 20_000,
)
LABELS = (HOSTILE[1], HOSTILE[2], HOSTILE[4].replace("\x00", ""))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    planted = plant(folder)
    publish(folder, planted.record, planted.artifacts)
    return folder


@pytest.fixture(scope="module")
def planted(home: Path) -> Planted:
    return plant(home)


@pytest.fixture(scope="module")
def hostile_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run whose name, labels, documents and tokens are markup, controls and very long."""
    folder = tmp_path_factory.mktemp("hostile-cards")

    def change(made: Drawn) -> None:
        for number, text in enumerate(HOSTILE):
            for doc in range(number, len(made.labels), len(HOSTILE)):
                place = int(np.flatnonzero(made.doc_of == doc)[3])
                made.tokens[place] = text
                made.activations[place, SPORT_LATENT] = 9 + number

    with pytest.MonkeyPatch.context() as patch:
        for text in HOSTILE:
            patch.setitem(drawn.TOKEN_IDS, text, len(drawn.TOKEN_IDS))
        made = plant(folder, HOSTILE[0], names=LABELS, change=change)
        publish(folder, made.record, made.artifacts)
        yield folder


class Tags(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def made(home: Path, latent: int = SPORT_LATENT) -> Card:
    with open_store(home) as store:
        return card(store, "latest", latent)


def test_what_is_on_it(home: Path, planted: Planted) -> None:
    found = made(home)
    fires = planted.activations[:, SPORT_LATENT]
    assert found.facts.n_fires == (fires > 0).sum()
    assert found.contexts[0].activation == fires.max()
    assert found.histogram is not None
    assert sum(row[2] for row in found.histogram.rows) == (fires > 0).sum()
    assert [band.n for band in found.bands if band.high == 1]
    page = found._repr_html_()
    for words in (
        f"Latent {SPORT_LATENT}", "demo", "goal", "promoted", "suppressed",
        "Where it fires most strongly", "Weakest fifth", "Labels of its documents",
        "Nearest directions", "sp&#39;ort; DROP TABLE runs", "<svg",
    ):  # fmt: skip
        assert words in page, words
    assert repr(found).startswith(f"<Card of latent {SPORT_LATENT} of run")
    assert "h10 peak" in page


def test_a_dead_latent_has_a_card(home: Path) -> None:
    page = made(home, DEAD)._repr_html_()
    assert "a dead latent" in page
    assert "<svg" not in page


def test_what_there_is_not_is_said(home: Path) -> None:
    with open_store(home) as store:
        with pytest.raises(QueryError, match="latent 24 is out of range"):
            deconstruct.card(store, "latest", 24)
        with pytest.raises(QueryError, match="no run is called"):
            deconstruct.card(store, "nobody", 1)


@pytest.mark.parametrize("of", ["home", "hostile_home"])
def test_it_runs_nothing_and_asks_nobody(request: pytest.FixtureRequest, of: str) -> None:
    found = made(request.getfixturevalue(of))
    for page in (found._repr_html_(), found.page()):
        for tag, attributes in Tags(page).found:
            assert tag not in ("script", "img", "iframe", "object", "embed", "form", "base"), tag
            for name, value in attributes.items():
                assert not name.startswith("on"), (tag, name)
                assert name not in ("style", "src", "action", "formaction", "xlink:href"), name
                assert name != "href" or value == "data:,", value
        assert len(re.findall("</style>", page)) == page.count("<style>")
        assert "url(" not in page.split("</style>")[0]
        assert "\x1b" not in page
        assert "\u202e" not in page
        assert "\x00" not in page
    assert len(found.page()) < 400_000
    assert "default-src &#39;none&#39;" in found.page()
    assert "script-src &#39;none&#39;" in found.page()


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium")
def test_in_a_browser(home: Path, hostile_home: Path, tmp_path: Path) -> None:
    files = [made(home).write(tmp_path / "a.html"), made(hostile_home).write(tmp_path / "b.html")]
    with browser(tmp_path / "profile") as page:
        page.tell("Network.enable")
        page.tell("Emulation.setFocusEmulationEnabled", enabled=True)
        for file in files:
            page.requests.clear()
            page.go(file.as_uri())
            assert "owned" not in page.value("document.title").split(" · ")[-1]
            assert page.value("document.querySelectorAll('script, img').length") == 0
            assert set(page.requests.values()) <= {file.as_uri(), "data:,"}
            tip = page.value(
                "(() => { const one = document.querySelector('.fires.peak'); one.focus();"
                "return [getComputedStyle(one, '::after').content, one.dataset.tip,"
                "document.activeElement === one]; })()"
            )
            assert tip == [f'"{tip[1]}"', tip[1], True]
        for width in (390, 1440):
            page.tell("Emulation.setDeviceMetricsOverride", width=width, height=900,
                      deviceScaleFactor=1, mobile=False)  # fmt: skip
            page.go(files[0].as_uri())
            assert page.value("document.documentElement.scrollWidth") <= width
            columns = page.value(
                "getComputedStyle(document.querySelector('.dc-parts')).gridTemplateColumns"
            )
            assert len(columns.split()) == (2 if width > 400 else 1)


def called(home: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["latent", "latest", *words, "--home", str(home)])
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_open_writes_it_and_says_where(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", asked.append)
    where = Path(called(home, str(SPORT_LATENT), "--open"))
    assert where.parent == home / "reports"
    assert "Where it fires most strongly" in where.read_text(encoding="utf-8")
    assert asked == [where.as_uri()]


def test_open_needs_neither_a_browser_nor_a_data_root_that_can_be_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: str) -> None:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "open", none)
    blocked = home / "reports"
    moved = blocked.rename(home / "kept") if blocked.exists() else None
    blocked.write_text("a file where the folder would be")
    try:
        where = Path(called(home, str(SPORT_LATENT), "--open"))
    finally:
        blocked.unlink()
        if moved is not None:
            moved.rename(blocked)
    assert home not in where.parents
    assert where.is_file()
