"""The explorer's page of a text of one's own, in a browser and without."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from firing.houses import House
from starlette.testclient import TestClient
from support.browser import PROGRAM, browser
from support.explored import running
from support.hostile import HOSTILE

from deconstruct.explorer.app import Explorer
from deconstruct.explorer.pages import trying
from deconstruct.firing import Firer

ONE = "the bank cut its rates and shares rose"
OTHER = "the team won the match after a late goal"


@pytest.fixture(scope="module")
def explorer(fired: House) -> Iterator[Explorer]:
    one = Explorer(fired.home, 4300)
    yield one
    one.stores.close()


@pytest.fixture(scope="module")
def client(explorer: Explorer) -> Iterator[TestClient]:
    with TestClient(explorer.application(), base_url="http://127.0.0.1:4300") as one:
        yield one


@pytest.fixture(scope="module")
def reader(fired: House) -> Firer:
    return Firer("plain", fired.home)


def sent(client: TestClient, explorer: Explorer, **fields: str) -> Any:
    return client.post("/try?run=plain", data={"token": explorer.token, **fields})


def test_the_form_comes_before_any_model(client: TestClient) -> None:
    trying._kept.__init__()  # type: ignore[misc]
    answer = client.get("/try", follow_redirects=False)
    assert answer.status_code == 303
    page = client.get(answer.headers["location"])
    assert page.status_code == 200
    assert "The first text loads the model" in page.text
    assert trying._kept._firer is None


def test_what_fires_is_shown(client: TestClient, explorer: Explorer, reader: Firer) -> None:
    found = reader.fire([ONE, OTHER])
    page = sent(client, explorer, text=ONE, other=OTHER)
    assert page.status_code == 200
    for title in ("Strongest", "Furthest above their usual", "Speaking for a label",
                  "nowhere on the other text", "probe says"):  # fmt: skip
        assert title in page.text
    first = found.top(1, text=0)[0]
    assert f"/run/{found.run_id}/latent/{first.latent}" in page.text
    tips = re.findall(r'data-tip="latent (\d+): [^"]+"', page.text)
    wanted = [
        found.on_token(number, place, 1)[0][0]
        for number, read in enumerate(found.texts)
        for place in range(len(read.ids))
        if found.on_token(number, place)
    ]
    assert list(map(int, tips)) == wanted
    again = sent(client, explorer, text=ONE, latent=str(first.latent))
    tips = re.findall(r'data-tip="latent (\d+): [^"]+"', again.text)
    assert set(map(int, tips)) == {first.latent}
    assert "loads the model" not in again.text


def test_what_can_not_be_read_is_said_beside_the_text(
    client: TestClient, explorer: Explorer
) -> None:
    empty = sent(client, explorer, text="  ")
    assert empty.status_code == 400
    assert "texts[0] is empty" in empty.text
    long = sent(client, explorer, text="a " * 10_001)
    assert long.status_code == 400
    assert "has 20,002 characters, and this page takes 20,000" in long.text
    unknown = sent(client, explorer, text=ONE, latent="64")
    assert unknown.status_code == 404
    assert "0 to 63" in unknown.text
    assert client.get("/try?run=nobody").status_code == 404


def test_no_other_page_has_a_text_read(client: TestClient) -> None:
    asked = client.post("/try?run=plain", data={"text": ONE, "token": "guessed"})
    assert asked.status_code == 403
    cross = client.post(
        "/try?run=plain", data={"text": ONE}, headers={"Origin": "http://evil.example"}
    )
    assert cross.status_code == 403


def test_hostile_texts_stay_text(client: TestClient, explorer: Explorer) -> None:
    for text in [*HOSTILE.values(), "</textarea><script>document.title = 'owned'</script>"]:
        if not text.strip():
            continue
        page = sent(client, explorer, text="x " + text, other=text)
        assert page.status_code == 200
        assert page.text.count("<script") == page.text.count("<script src=")
        assert "\x1b" not in re.sub(r"<textarea.*?</textarea>", "", page.text, flags=re.S)
        boxes = re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", page.text, flags=re.S)
        assert html.unescape(boxes[0]) == "x " + text


WATCH = """
window.faults = [];
addEventListener('error', (event) => faults.push(String(event.message)));
addEventListener('securitypolicyviolation', (event) => faults.push(event.violatedDirective));
addEventListener('submit', () => {
  sessionStorage.said = document.getElementById('waiting').textContent;
});
"""
"""While a form is on its way, nobody can ask a page anything."""


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium")
def test_in_a_browser(fired: House, tmp_path: Path) -> None:
    """No fault, no request elsewhere; it says that it waits; hover and focus tell of tokens."""
    trying._kept.__init__()  # type: ignore[misc]
    with running(fired.home) as where, browser(tmp_path / "profile") as page:
        page.tell("Emulation.setFocusEmulationEnabled", enabled=True)
        page.tell("Page.enable")
        page.tell("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        page.tell("Network.enable")
        page.go(f"{where}/try?run=plain")
        page.type("textarea[name=text]", ONE + " <b>bold</b>")
        page.type("textarea[name=other]", OTHER)
        page.click("#trying button", "Read")
        page.shows("Latents on it")
        assert page.value("sessionStorage.said") == "loading the model, some seconds …"
        assert page.value("document.querySelectorAll('.tried b').length") == 0
        assert "<b>bold" in page.text()
        tip = page.value(
            "(() => { const one = document.querySelector('.tried .fires'); one.focus();"
            "return [getComputedStyle(one, '::after').content, one.dataset.tip]; })()"
        )
        assert tip[0] == f'"{tip[1]}"'
        page.click(".lists button", "show")
        page.shows("Coloured by latent")
        for width in (390, 1440):
            page.tell("Emulation.setDeviceMetricsOverride", width=width, height=900,
                      deviceScaleFactor=1, mobile=False)  # fmt: skip
            assert page.value("document.getElementById('main').scrollWidth") <= width
        assert page.value("window.faults") == []
        assert all(url.startswith((where, "data:,")) for url in page.requests.values())


@pytest.mark.parametrize("latent", ["9" * 30, "0" * 20 + "9" * 5000])
def test_a_number_that_is_no_latent_is_refused(
    client: TestClient, explorer: Explorer, latent: str
) -> None:
    answer = sent(client, explorer, text=ONE, latent=latent)
    assert answer.status_code == 404
    assert "name a whole number" in answer.text
