"""Texts, tokens and labels of any kind stay text on every page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient
from support.drawn import SPORT_LATENT, TOKEN_IDS, Drawn
from support.hostile import HOSTILE, obeyed
from support.store_artifacts import plant

from deconstruct.explorer.app import Explorer
from deconstruct.store import publish

NAMES = (HOSTILE["html"], "</style></script>]]><b>", HOSTILE["right to left"])
PATHS = (
    "/run/latest", "/run/latest/latents", f"/run/latest/latent/{SPORT_LATENT}",
    *(f"/run/latest/latent/{SPORT_LATENT}/{part}" for part in ("bands", "labels", "tokens")),
    "/run/latest/doc/1?token=20", "/run/latest/doc/2", "/run/latest/search?q=</title><script>",
    "/run/latest/search?q=goal", "/run/latest/search?q=b>", "/run/<script>", "/notes",
)  # fmt: skip


class Elements(HTMLParser):
    """Which elements a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        source = dict(attrs).get("src")
        assert source is None or source.startswith("/static/")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("hostile")
    texts = [*HOSTILE.values(), "</script>", "</style>", "]]>", "<!--", "x" * 1_000_000]

    def change(drawn: Drawn) -> None:
        for place, token in enumerate(drawn.tokens):
            if not drawn.special[place] and token != " goal":
                drawn.tokens[place] = texts[place % len(texts)] if place < 60 else token
                TOKEN_IDS.setdefault(drawn.tokens[place], 99)

    run = plant(home, documents=30, names=NAMES, change=change)
    publish(home, run.record, run.artifacts)
    with TestClient(Explorer(home).application(), base_url="http://127.0.0.1:4300") as one:
        yield one


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_obeyed(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (200, 404), answer.text[-500:]
    found = Elements(answer.text).found
    assert not {"img", "b", "style"} & set(found)
    assert found.count("script") <= 3
    # What a form sends back is as it was; nobody sees it.
    assert not obeyed(re.sub(r'value="[^"]*"', "", answer.text))
    assert len(answer.text) < 3_000_000
