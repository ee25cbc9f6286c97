"""Who is answered, and what is answered to what is not there."""

from __future__ import annotations

import re

import pytest
from explorer.conftest import Explored
from starlette.testclient import TestClient
from support.drawn import DEAD, LABELS, SPORT_LATENT

from deconstruct.explorer.app import Explorer
from deconstruct.explorer.notes import Notes
from deconstruct.explorer.pages import PAGES

RUN = "/run/demo"
READ = (
    "/",
    RUN,
    f"{RUN}/latents",
    f"{RUN}/latents?kind=all&sort=max&token=goal",
    f"{RUN}/latents?label={LABELS[0]}",
    f"{RUN}/latent/{SPORT_LATENT}",
    f"{RUN}/latent/{DEAD}",
    f"{RUN}/latent/{SPORT_LATENT}/bands",
    f"{RUN}/latent/{SPORT_LATENT}/tokens",
    f"{RUN}/latent/{SPORT_LATENT}/labels",
    f"{RUN}/latent/{SPORT_LATENT}/partners",
    f"{RUN}/latent/{SPORT_LATENT}/counterparts?all=1",
    f"{RUN}/latent/{SPORT_LATENT}/figure/activations",
    f"{RUN}/figure/density",
    f"{RUN}/doc/1",
    f"{RUN}/doc/0?by=error",
    f"{RUN}/doc/1?latent={SPORT_LATENT}&token=20",
    f"{RUN}/search?q=goal",
    f"{RUN}/search?q=business",
    f"{RUN}/search",
    "/compare/demo/other",
    "/compare/demo/other/metrics",
    "/compare/demo/other/all",
    "/notes",
    "/notes.csv",
    "/static/style.css",
    "/static/explore.css",
    "/static/explore.js",
)


@pytest.mark.parametrize("path", READ)
def test_pages_are_there_and_not_sent_twice(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text[-2000:]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert " style=" not in answer.text
    assert not re.search(r"<[^>]* on\w+=", answer.text)
    if "etag" in answer.headers:
        again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_every_page_that_is_read_is_asked_for_here_or_by_the_tests_of_its_module() -> None:
    own = {"documents", "figures", "latent", "latents", "notes", "runs"}
    paths = {
        page.path
        for page in PAGES
        if page.methods == ("GET",) and page.answer.__module__.rpartition(".")[2] in own  # type: ignore[attr-defined]
    }
    asked = {re.sub(r"\?.*", "", path) for path in READ}
    for path in paths - {"/compare", "/search", "/run/{run}/latent/random"}:
        pattern = re.sub(r"\\{.*?\\}", "[^/]+", re.escape(path))
        assert any(re.fullmatch(pattern, one) for one in asked), path


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/run/nobody", "no run is called 'nobody'"),
        (f"{RUN}/latent/24", "latent 24 is out of range"),
        (f"{RUN}/latent/99999999999999999999", "out of range"),
        (f"{RUN}/doc/60", "document 60 is out of range"),
        (f"{RUN}/doc/99999999999999999999", "out of range"),
        (f"{RUN}/doc/1?latent=x", "latent = 'x'"),
        (f"{RUN}/doc/1?latent=24", "latent 24 is out of range"),
        (f"{RUN}/latents?sort=1%20--", "is none of"),
        (f"{RUN}/latents?kind=all'%20OR%201", "is none of"),
        (f"{RUN}/latents?first=-1", "first = '-1'"),
        (f"{RUN}/figure/nothing", "no figure 'nothing'"),
        ("/compare/demo/nobody", "no run is called 'nobody'"),
        ("/static/app.py", "there is no file"),
        ("/nowhere", "there is no page '/nowhere'"),
        ("/run/%27%20OR%201=1--", "no run is called"),
    ],
)
def test_what_is_not_there_is_a_sentence(client: TestClient, path: str, sentence: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404), answer.text
    text = re.sub(r"&#39;", "'", answer.text)
    assert sentence in text


def test_words_of_an_address_are_values_and_no_sql(client: TestClient) -> None:
    for words in ("'; DROP TABLE runs; --", "$run", "' UNION SELECT 1 --", '"', "\\", "%"):
        for path in (f"{RUN}/search", f"{RUN}/latents"):
            answer = client.get(path, params={"q": words, "token": words, "label": words})
            assert answer.status_code == 200, answer.text
    assert client.get("/").status_code == 200


def test_a_number_leads_to_its_latent_and_a_word_to_what_it_is(client: TestClient) -> None:
    found = client.get(f"{RUN}/search?q={SPORT_LATENT}", follow_redirects=False)
    assert found.status_code == 303
    assert found.headers["location"].endswith(f"/latent/{SPORT_LATENT}")
    by_token = client.get(f"{RUN}/search?q=goal").text
    assert f"/latent/{SPORT_LATENT}" in by_token
    assert "<mark>goal</mark>" in by_token
    assert "/labels?label=business" in client.get(f"{RUN}/search?q=busi").text
    newest = client.get("/search?q=goal", follow_redirects=False)
    assert newest.headers["location"].endswith("/search?q=goal")


def test_a_random_latent_fires(client: TestClient) -> None:
    found = client.get(f"{RUN}/latent/random", follow_redirects=False)
    assert found.headers["cache-control"] == "no-store"
    assert f"/latent/{DEAD}" not in found.headers["location"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "rebound.example"}, 421),
        ({"Host": "rebound.example:4300"}, 421),
        ({"Host": "127.0.0.1:4301"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "localhost:4300"}, 200),
        ({"Origin": "http://127.0.0.1:4300", "Sec-Fetch-Site": "same-origin"}, 200),
        (
            {
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
            200,
        ),
    ],
)
def test_who_is_answered(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/", headers=headers).status_code == status


def test_nothing_is_written_but_with_a_token_by_our_own_pages(
    client: TestClient, explorer: Explorer, explored: Explored
) -> None:
    path = f"{RUN}/latent/3/note"
    form = {"what": "note", "text": "stolen"}
    own = {**form, "token": explorer.token}
    assert client.post(path, data=form).status_code == 403
    assert client.post(path, data={**form, "token": "x"}).status_code == 403
    assert client.post(path, data={**form, "token": "ü"}).status_code == 403
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "rebound.example:4300"},
        # What a browser lets any page send without asking, even as a navigation.
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        },
    ):
        assert client.post(path, data=own, headers=headers).status_code in (403, 421)
    assert client.post("/", data=own).status_code == 405
    assert client.get(path).status_code == 405
    assert client.put(path, data=own).status_code == 405
    large = client.post(path, content=b"text=" + b"x" * 5_000_000)
    assert large.status_code == 413
    assert 3 not in {note.latent for note in Notes(explored.home).all()}
