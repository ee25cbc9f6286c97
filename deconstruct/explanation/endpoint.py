"""A language model behind an endpoint that speaks as OpenAI's does: one question, one answer.

The key comes from the environment variable alone; it is in no file, no log and no error. It goes to
the address that was named, follows no redirection, and over the network goes encrypted only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib import error, request
from urllib.parse import SplitResult, urlsplit

from deconstruct.common.errors import ConfigError, SourceUnreachable

log = logging.getLogger(__name__)

KEY_VARIABLE = "DECONSTRUCT_ENDPOINT_KEY"
HERE = ("localhost", "127.0.0.1", "::1")
TRIES, PAUSE_SECONDS = 4, 2.0
MOST_BYTES = 1 << 20
"""Of an answer; what is longer is none."""
WORTH_TRYING = (408, 409, 425, 429, 500, 502, 503, 504)


NO_ADDRESS = "is no address; name one such as http://localhost:8000/v1"


class Reply(NamedTuple):
    """The answer's text, and the tokens of prompt and answer as the endpoint counts them."""

    text: str
    tokens_in: int
    tokens_out: int


class _Stays(request.HTTPRedirectHandler):
    """Follows no redirection: the key is for the address that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _parts(url: str) -> SplitResult:
    """Raises ``ConfigError`` for what can't be taken apart; what it may hold is not repeated."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - looked at by whoever asks for it alone
    except ValueError:
        raise ConfigError(f"explanation.endpoint {NO_ADDRESS}") from None
    return parts


class Endpoint:
    """Asks ``model`` at ``url`` (which ends before ``/chat/completions``).

    Raises ``ConfigError`` for an address that can't be asked, or may not be with a key.
    """

    def __init__(self, url: str, model: str, timeout: float = 120.0) -> None:
        parts = _parts(url)
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "explanation.endpoint has a key or a query in it; leave them out, and put the key "
                f"into the environment variable {KEY_VARIABLE}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"explanation.endpoint = {url!r} {NO_ADDRESS}")
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(
                f"the environment variable {KEY_VARIABLE} has a line break, or a letter beyond "
                "ASCII, in it; set it anew"
            )
        if self._key and parts.scheme == "http" and parts.hostname not in HERE:
            raise ConfigError(
                f"explanation.endpoint = {url!r} would get the key of {KEY_VARIABLE} unencrypted; "
                "name an https address, or unset the variable"
            )
        self.url, self.model, self._timeout = url.rstrip("/"), model, timeout
        # A proxy would get what is for this machine, with the key in clear.
        direct = [request.ProxyHandler({})] if parts.hostname in HERE else []
        self._opener = request.build_opener(_Stays, *direct)

    def digest(self, prompt: str) -> str:
        """SHA-256 of all that an answer depends on, but the address."""
        return hashlib.sha256(json.dumps(self._body(prompt), sort_keys=True).encode()).hexdigest()

    def ask(self, prompt: str) -> Reply:
        """The model's answer. Raises ``SourceUnreachable`` if there is none after some tries."""
        for attempt in range(TRIES):
            try:
                return self._asked(prompt)
            except error.HTTPError as fault:
                said = f"answers {fault.code} {fault.reason}"
                fault.close()
                if fault.code not in WORTH_TRYING:
                    break
            except (OSError, ValueError, HTTPException) as fault:
                said = (
                    f"gives no answer ({type(fault).__name__}: {getattr(fault, 'reason', fault)})"
                )
            if attempt + 1 < TRIES:
                time.sleep(PAUSE_SECONDS * 2**attempt)
        raise SourceUnreachable(
            f"{self.url} {said} to a question for model {self.model!r}; look at the address, the "
            f"model and {KEY_VARIABLE}, then run the command again: what was answered is kept"
        )

    def _asked(self, prompt: str) -> Reply:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        asked = request.Request(
            f"{self.url}/chat/completions", json.dumps(self._body(prompt)).encode(), headers
        )
        with self._opener.open(asked, timeout=self._timeout) as answer:
            content = answer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError("more than 1 MB")
        found = json.loads(content)
        try:
            text = found["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise ValueError("no choices[0].message.content") from None
        usage = found.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        return Reply(str(text or ""), *(int(c) if isinstance(c, int) else 0 for c in counts))

    def _body(self, prompt: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 200,
        }


class Answers:
    """Asks an endpoint what it has not answered before; keeps each answer as it comes.

    known: digest of a prompt -> its answer. notes: a file of JSON lines that a killed attempt goes
    on from. asked: how many questions were sent. stopped: once it is set, none is sent any more.
    """

    def __init__(self, endpoint: Endpoint, known: dict[str, Reply], notes: Path) -> None:
        self.endpoint, self.known, self.asked = endpoint, dict(known), 0
        self.used: dict[str, Reply] = {}
        self.stopped = threading.Event()
        self._notes, self._lock = notes, threading.Lock()
        if notes.exists():
            for line in notes.read_text(encoding="utf-8").splitlines():
                try:
                    digest, *reply = json.loads(line)
                    self.known[digest] = Reply(*reply)
                except (ValueError, TypeError):  # the last line of a killed attempt
                    continue

    def of(self, prompt: str) -> str:
        """The answer to a prompt. Safe to call from several threads."""
        digest = self.endpoint.digest(prompt)
        reply = self.known.get(digest)
        if reply is None:
            if self.stopped.is_set():
                raise SourceUnreachable("no more is asked, as another question has failed")
            reply = self.endpoint.ask(prompt)
            with self._lock:
                self.asked += 1
                with self._notes.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([digest, *reply]) + "\n")
        with self._lock:
            self.known[digest] = self.used[digest] = reply
        return reply.text
