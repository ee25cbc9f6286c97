"""A query that a page of another site leads to is shown, and run when the user says so."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from support.browser import PROGRAM, browser

QUERY = "SELECT 6 * 7 AS answer FROM range(3)"
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) of before 2023"}


@pytest.mark.parametrize(
    ("headers", "runs"),
    [
        ({}, True),  # curl and the like
        ({**LINK, "Sec-Fetch-Site": "none"}, True),  # typed, or a bookmark
        ({**LINK, "Sec-Fetch-Site": "same-origin"}, True),
        ({**LINK, "Sec-Fetch-Site": "same-site"}, False),  # another port of this machine
        ({**LINK, "Sec-Fetch-Site": "cross-site"}, False),
        (
            {**LINK, "Sec-Fetch-Site": "cross-site", "Referer": "http://127.0.0.1:4300/sql"},
            False,
        ),
        ({**BROWSER, "Referer": "http://127.0.0.1:4300/sql"}, True),
        ({**BROWSER, "Referer": "http://127.0.0.1:43000/sql"}, False),
        ({**BROWSER, "Referer": "http://evil.example/"}, False),
        (BROWSER, False),  # another page may have it keep quiet about itself
    ],
)
def test_only_what_the_user_asks_for_is_run(
    client: TestClient, headers: dict[str, str], runs: bool
) -> None:
    page = client.get("/sql", params={"query": QUERY, "run": "demo"}, headers=headers)
    assert page.status_code == 200
    assert QUERY in page.text
    assert ("Rows 1 to 3" in page.text) == runs
    assert ("press Run" in page.text) != runs
    file = client.get("/sql/file", params={"query": QUERY}, headers=headers, follow_redirects=False)
    assert file.status_code == (200 if runs else 303)
    if not runs:
        shown = client.get(file.headers["location"], headers=headers)
        assert "press Run" in shown.text
        assert QUERY in shown.text
    assert "press Run" not in client.get("/sql", headers=headers).text


@contextmanager
def _another_site(link: str) -> Iterator[str]:
    """The address of a page with a link, by a name that is not the explorer's."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            self.wfile.write(f'<a href="{link}">look at this</a>'.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()


@pytest.mark.skipif(PROGRAM is None, reason="no chromium")
def test_a_browser_runs_a_typed_address_and_not_a_link(address: str, tmp_path: Path) -> None:
    typed = f"{address}/sql?query=SELECT+6*7+AS+answer&run=demo"
    with browser(tmp_path / "profile") as page, _another_site(typed) as elsewhere:
        page.go(typed)
        page.shows("Rows 1 to 1")
        page.go(elsewhere)
        page.click("a", "look at this")
        page.shows("Not run yet")
        assert "Rows 1 to 1" not in page.text()
        assert page.value("document.getElementById('query').value") == "SELECT 6*7 AS answer"
        page.click("#run")
        page.shows("Rows 1 to 1")
        assert "Not run yet" not in page.text()
