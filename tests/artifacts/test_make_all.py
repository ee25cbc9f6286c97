"""Artifacts asked for together, of which another process makes some meanwhile."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from deconstruct.artifacts import DataRoot, Draft, Recipe

FORKING = multiprocessing.get_context("fork")
SECONDS = 60
LOW, MIDDLE, HIGH = sorted((Recipe("sae", 1, {"k": k}, {}) for k in range(3)), key=lambda r: r.key)
ASKED = {"high": HIGH, "low": LOW, "middle": MIDDLE}
"""Not in the order of their keys, in which they are taken."""

Hold = Callable[[], None]


def writing(maker: str) -> Callable[[Mapping[str, Draft]], None]:
    def write(drafts: Mapping[str, Draft]) -> None:
        for draft in drafts.values():
            with draft.writing("maker.txt") as path:
                path.write_text(maker)

    return write


def makers(home: Path) -> dict[str, str]:
    """Key -> who made what is published."""
    return {made.key: made.file("maker.txt").read_text() for made in DataRoot(home).artifacts()}


class Waits(logging.Handler):
    """Lets the other process go on when this one says that it waits for it."""

    def __init__(self, go_on: Hold) -> None:
        super().__init__()
        self.go_on, self.said = go_on, 0

    def emit(self, record: logging.LogRecord) -> None:
        if "being computed by another run; waiting" in record.getMessage():
            self.said += 1
            self.go_on()


@contextmanager
def another(work: Callable[[Hold], None], ends: int = 0) -> Iterator[Waits]:
    """A process at ``work``, which stands at the call of its argument until this one waits.

    This one begins when the other stands there, so it finds nothing of what the other makes.
    ends: the other's exit code.
    """
    stands, goes_on = FORKING.Event(), FORKING.Event()

    def hold() -> None:
        stands.set()
        assert goes_on.wait(SECONDS)

    process: ForkProcess = FORKING.Process(target=work, args=(hold,))
    process.start()
    logger, waits = logging.getLogger("deconstruct.artifacts.root"), Waits(goes_on.set)
    level = logger.level
    logger.addHandler(waits)
    logger.setLevel(logging.INFO)
    try:
        assert stands.wait(SECONDS)
        yield waits
        process.join(SECONDS)
        assert process.exitcode == ends
    finally:
        logger.removeHandler(waits)
        logger.setLevel(level)
        process.kill()
        process.join()


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize(
    "taken",
    [["low"], ["middle"], ["high"], ["low", "high"], ["middle", "high"], ["high", "middle", "low"]],
    ids="-".join,
)
def test_what_another_process_makes_meanwhile_is_taken_and_the_rest_is_made(
    taken: list[str], tmp_path: Path
) -> None:
    def work(hold: Hold) -> None:
        def write(drafts: Mapping[str, Draft]) -> None:
            hold()
            writing("the other")(drafts)

        DataRoot(tmp_path).make_all({name: ASKED[name] for name in taken}, write)

    rest = [name for name in ASKED if name not in taken]
    calls: list[set[str]] = []

    def write(drafts: dict[str, Draft]) -> None:
        calls.append(set(drafts))
        writing("this one")(drafts)

    with another(work) as waits:
        found = DataRoot(tmp_path).make_all(ASKED | {"again": ASKED[taken[0]]}, write)
    assert waits.said > 0
    assert calls == ([set(rest)] if rest else [])  # all that is left, at once, and nothing twice
    assert list(found) == [*ASKED, "again"]
    assert {name: made.manifest.recipe for name, made in found.items() if name in ASKED} == ASKED
    assert found["again"] == found[taken[0]]
    assert {name for name, artifact in found.items() if artifact.made} == set(rest)
    assert makers(tmp_path) == {
        own.key: "the other" if name in taken else "this one" for name, own in ASKED.items()
    }
    assert not list(tmp_path.glob("*/.*.partial"))


@pytest.mark.timeout(2 * SECONDS)
def test_keys_are_taken_in_one_order_so_that_nobody_waits_in_a_circle(tmp_path: Path) -> None:
    """The other process holds the lowest key, and takes the highest when this one waits for it."""

    def work(hold: Hold) -> None:
        root, write = DataRoot(tmp_path), writing("the other")

        def both(draft: Draft) -> None:
            hold()
            root.make(HIGH, lambda highest: write({"high": highest}))
            write({"low": draft})

        root.make(LOW, both)

    with another(work):
        found = DataRoot(tmp_path).make_all(ASKED, writing("this one"))
    assert list(found) == list(ASKED)
    assert makers(tmp_path) == {LOW.key: "the other", MIDDLE.key: "this one", HIGH.key: "the other"}


@pytest.mark.timeout(2 * SECONDS)
def test_what_a_killed_process_was_making_falls_to_this_one(tmp_path: Path) -> None:
    """With the files that it had completed."""

    def work(hold: Hold) -> None:
        def write(draft: Draft) -> None:
            writing("the other")({"middle": draft})
            hold()
            os.kill(os.getpid(), signal.SIGKILL)

        DataRoot(tmp_path).make(MIDDLE, write)

    begun: dict[str, bool] = {}

    def write(drafts: dict[str, Draft]) -> None:
        begun.update({name: draft.has("maker.txt") for name, draft in drafts.items()})
        writing("this one")({name: drafts[name] for name in drafts if not begun[name]})

    with another(work, ends=-signal.SIGKILL):
        found = DataRoot(tmp_path).make_all(ASKED, write)
    assert begun == {"low": False, "middle": True, "high": False}
    assert all(artifact.made for artifact in found.values())
    assert makers(tmp_path) == {LOW.key: "this one", MIDDLE.key: "the other", HIGH.key: "this one"}
