"""What a part of the check is told, and where it leaves what it finds."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DONE, SKIPPED, FAILED, OUT_OF_TIME = "done", "skipped", "failed", "out of time"
"""States of a part that has ended; `Record` has *running* until then."""


SPARE_S = 6
"""With fewer seconds left than these, a part begins nothing more."""


class Missing(Exception):
    """A part is left out: this machine lacks what it needs. The message says what that is."""


@dataclass(frozen=True)
class Job:
    """One part in one process.

    module: has ``measure(job, record)``. results: the file for what is found. out: the folder that
    the check leaves. deadline: of `time.monotonic`, when the process will be stopped. subject: of
    a part that runs once for each of several things, which one.
    """

    module: str
    results: Path
    out: Path
    deadline: float
    smoke: bool
    subject: str = ""

    def left(self) -> float:
        """Seconds until the process will be stopped."""
        return self.deadline - time.monotonic()

    def words(self) -> str:
        """As one argument of a command line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def of_words(cls, words: str) -> Job:
        """What `words` gave."""
        told = json.loads(words)
        paths = {name: Path(told[name]) for name in ("results", "out")}
        return cls(**{**told, **paths})


class Record(dict[str, Any]):
    """What a part has found so far, by name.

    `keep` writes it to the job's file, so that a part that is stopped leaves what it had.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(state="running")
        self._path = path

    def keep(self) -> None:
        write_json(self._path, self)

    def note(self, name: str, found: Any) -> None:
        """Set, and keep."""
        self[name] = found
        self.keep()


def attempt(job: Job, work: Callable[[], Any]) -> Any:
    """What ``work`` returns, or why it returns nothing; then the part goes on."""
    if job.left() < SPARE_S:
        return skipped("no time left")
    try:
        return work()
    except Missing as reason:
        return skipped(reason)
    except Exception as error:
        traceback.print_exc()
        return failed(error)


def skipped(reason: object) -> dict[str, str]:
    """In place of what was left out."""
    return {"state": SKIPPED, "reason": str(reason)}


def failed(error: Exception) -> dict[str, str]:
    """In place of what raised."""
    return {"state": FAILED, "reason": f"{type(error).__name__}: {error}"[:600]}


def write_json(path: Path, found: object) -> None:
    """Write a file whole or not at all."""
    whole = path.with_name(path.name + ".part")
    whole.write_text(json.dumps(found, indent=1, default=str))
    os.replace(whole, path)


_began = time.monotonic()


def say(*words: object) -> None:
    """Print, with the seconds since this process began."""
    print(f"[{time.monotonic() - _began:6.1f}]", *words, flush=True)
