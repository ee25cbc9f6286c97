"""Chromium without a window, told what to do over its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Page:
    """One page of a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.asked = 0
        self.requests: dict[str, str] = {}
        """What the page has asked for and was let, after ``tell("Network.enable")``."""

    def tell(self, method: str, **parameters: Any) -> Any:
        """Have the browser do something; its answer."""
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests[answer["params"]["requestId"]] = answer["params"]["request"]["url"]
            if answer.get("params", {}).get("blockedReason") == "csp":
                self.requests.pop(answer["params"]["requestId"], None)
            if answer.get("id") == self.asked:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, script: str) -> Any:
        """What a script of the page is, once its promise is kept. Its faults are raised."""
        told = self.tell(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def go(self, url: str) -> None:
        self.tell("Page.navigate", url=url)
        self.wait("document.readyState == 'complete'")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Until a script of the page is true; what it is then."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < deadline, self.text()[-3000:]
            time.sleep(0.1)
        return found

    def text(self) -> str:
        return str(self.value("document.body ? document.body.innerText : ''"))

    def shows(self, words: str) -> None:
        self.wait(f"document.body && document.body.innerText.includes({json.dumps(words)})")

    def click(self, selector: str, words: str = "") -> None:
        """Click on what a selector finds that has certain words in it."""
        found = (
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".find(one => one.innerText.includes({json.dumps(words)}))"
        )
        self.wait(f"!!{found}")
        self.value(f"{found}.click()")

    def type(self, selector: str, words: str) -> None:
        """Type into a field, as a keyboard does."""
        self.wait(f"!!document.querySelector({json.dumps(selector)})")
        self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        self.tell("Input.insertText", text=words)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))


@contextmanager
def browser(profile: Path, *options: str) -> Iterator[Page]:
    """A browser with a profile of its own, and its page."""
    assert PROGRAM is not None
    command = [
        PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--window-size=1400,900", "--remote-debugging-port=0", f"--user-data-dir={profile}",
        *options, "about:blank",
    ]  # fmt: skip
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            note, deadline = profile / "DevToolsActivePort", time.monotonic() + 60
            while not note.exists() or not note.read_text().strip():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            port = int(note.read_text().split()[0])
            with OPENER.open(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
                (page,) = [one for one in json.load(answer) if one["type"] == "page"]
            with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                yield Page(socket)
        finally:
            process.kill()
