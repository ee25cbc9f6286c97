"""Chromium without a window, told what to do over its DevTools protocol."""

from __future__ import annotations

import base64
import importlib.resources
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
        self.faults: list[str] = []
        """Warnings and errors of the console, and faults of scripts, after `listen`."""

    def tell(self, method: str, **parameters: Any) -> Any:
        """Have the browser do something; its answer."""
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests[answer["params"]["requestId"]] = answer["params"]["request"]["url"]
            self.faults += fault(answer)
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
        while not (found := self._value_meanwhile(script)):
            assert time.monotonic() < deadline, self.text()[-3000:]
            time.sleep(0.1)
        return found

    def _value_meanwhile(self, script: str) -> Any:
        """`value`, or None where the page went away while it was being asked."""
        try:
            return self.value(script)
        except AssertionError as error:
            if "navigated" in str(error) or "context" in str(error):
                return None
            raise

    def text(self) -> str:
        return str(self.value("document.body ? document.body.innerText : ''"))

    def shows(self, words: str) -> None:
        """Until the page shows these words and all of its scripts have run: whoever goes on
        before that talks to a page that does not listen yet."""
        self.wait(
            "document.readyState == 'complete' && "
            f"document.body.innerText.includes({json.dumps(words)})"
        )

    @contextmanager
    def left(self) -> Iterator[None]:
        """For what leads to another page: at the end that one is there, and its scripts have run.
        What is asked too early is answered by the page before, whose words may be the same."""
        self.value("window.stays = true")
        yield
        self.wait("document.readyState == 'complete' && !window.stays")

    def click(self, selector: str, words: str = "") -> None:
        """Click on what a selector finds that has certain words in it."""
        found = (
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".find(one => one.innerText.includes({json.dumps(words)}))"
        )
        self.wait(f"document.readyState == 'complete' && !!{found}")
        self.value(f"{found}.click()")

    def type(self, selector: str, words: str) -> None:
        """Type into a field, as a keyboard does."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"document.readyState == 'complete' && !!{found}")
        self.value(f"{found}.focus()")
        self.tell("Input.insertText", text=words)

    def press(self, key: str) -> None:
        """Press a key: a letter, or one by its name, such as Tab or Enter."""
        text = {"text": key} if len(key) == 1 else {}
        text |= {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" else {}
        text |= {"windowsVirtualKeyCode": 9} if key == "Tab" else {}
        self.tell("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        self.tell("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def point(self, selector: str) -> None:
        """Move the mouse onto the first thing that a selector finds, which is scrolled to."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"!!{found}")
        x, y = self.value(
            f"(() => {{ const one = {found}; one.scrollIntoView({{ block: 'center', "
            "behavior: 'instant' }); const box = one.getClientRects()[0]; "
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def listen(self) -> None:
        """From here on, keep what the console says in ``faults`` and what is asked for in
        ``requests``."""
        self.faults.clear()
        self.requests.clear()
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.tell(f"{domain}.enable")

    def size(self, width: int, height: int = 900, dark: bool = False) -> None:
        """A window of so many pixels, in colours for the day or for the night."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme, still])

    def without_scripts(self, forbidden: bool = True) -> None:
        """Forbid pages that are opened from now on their scripts; `value` still works."""
        self.tell("Emulation.setScriptExecutionDisabled", value=forbidden)

    def too_wide(self) -> int:
        """By how many pixels the page is wider than the window."""
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.value(wide))

    def unfair(self) -> list[dict[str, Any]]:
        """What axe-core finds that shuts people out, seriously or critically. Pages whose policy
        lets no other script in are opened after ``tell("Page.setBypassCSP", enabled=True)``."""
        self.value(axe() + "; true")
        found = self.value("axe.run(document, { resultTypes: ['violations'] })")
        return [
            {"id": one["id"], "help": one["help"], "at": [n["html"][:300] for n in one["nodes"]]}
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def picture(self, path: Path, whole: bool = False) -> None:
        """What the window shows; ``whole``: of the whole page."""
        beyond = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self.tell("Page.getLayoutMetrics")["cssContentSize"]
            beyond["clip"] = {**size, "scale": 1}  # type: ignore[assignment]
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot", **beyond)["data"]))


def fault(event: dict[str, Any]) -> list[str]:
    """What an event of a browser has against a page."""
    told, of = event.get("params", {}), event.get("method")
    if of == "Runtime.exceptionThrown":
        return [json.dumps(told["exceptionDetails"])[:2000]]
    if of == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
        return [" ".join(str(one.get("value", one)) for one in told["args"])[:2000]]
    if of == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
        return [f"{told['entry']['text']} {told['entry'].get('url', '')}"[:2000]]
    return []


def axe() -> str:
    """The source of axe-core, which finds what shuts people out of a page."""
    file = importlib.resources.files("axe_playwright_python") / "axe.min.js"
    return file.read_text(encoding="utf-8")


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
