"""A language model on this machine that answers as it is told, and notes what it was asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StandIn:
    """url: as `explanation.endpoint` has it. asked: the prompts so far. keys: what was sent as
    authorisation with each."""

    url: str
    asked: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


def excerpts(prompt: str) -> int:
    """How many excerpts a prompt holds."""
    return len(re.findall(r"^Excerpt \d+:$", prompt, re.MULTILINE))


def says_no(prompt: str) -> str:
    """An answer that is no to every question, and a sentence where one is wanted."""
    if "one sentence" in prompt:
        return "  It fires on\n something.  "
    return str([0] * excerpts(prompt)) if "JSON list" in prompt else "1"


@contextmanager
def standing_in(answer: Callable[[str], str], status: int = 200) -> Iterator[StandIn]:
    """A server whose answers are ``answer(prompt)``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            here.asked.append(prompt)
            here.keys.append(self.headers["Authorization"])
            message = {"message": {"content": answer(prompt)}}
            usage = {"prompt_tokens": 10, "completion_tokens": 2}
            content = json.dumps({"choices": [message], "usage": usage}).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"{here.url}/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = StandIn(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
