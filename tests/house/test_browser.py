"""The browser of our tests waits for pages as a person does: until they listen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.browser import PROGRAM, browser

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium")


class _Slow(BaseHTTPRequestHandler):
    """A page with a link to one whose words come at once, and whose script half a second later."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        if self.path == "/":
            self.wfile.write(b"<a href=/slow>go on</a>")
            return
        self.wfile.write(b"<p>here are the words</p>" + b" " * 2000)
        self.wfile.flush()
        time.sleep(0.5)
        self.wfile.write(b"<script>window.listening = true</script>")

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_words_are_shown_once_the_scripts_of_their_page_have_run(
    address: str, tmp_path: Path
) -> None:
    with browser(tmp_path) as page:
        page.go(address)
        page.click("a", "go on")
        page.shows("the words")
        assert page.value("window.listening") is True
        page.go(address)
        with page.left():
            page.click("a", "go on")
        assert page.value("window.listening") is True
