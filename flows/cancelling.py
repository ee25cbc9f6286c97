"""Runs of this process that somebody cancels, in the UI for example.

Prefect leaves it to a worker to end the run that it started. A run that a command makes has none:
it would go on, publish, and stand as *Cancelling* for ever.
"""

from __future__ import annotations

import _thread
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run

from deconstruct.common.errors import DeconstructError
from flows.liveness import held, set_cancelled

EVERY_SECONDS = 2.0
SAID = (
    "the run was cancelled; nothing of it is published. What it finished comes from cache when "
    "you run again"
)

log = logging.getLogger(__name__)


class RunCancelled(DeconstructError):
    """Somebody has cancelled the run."""


def check_cancelled() -> None:
    """Raise `RunCancelled` if the run that this code is in has been cancelled."""
    name = flow_run.get_id()
    if name and is_cancelled(name):
        raise RunCancelled(SAID)


def is_cancelled(run: str) -> bool:
    """Whether somebody has cancelled a run, which need not have ended."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(run)).state
        except ObjectNotFound:
            return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


@contextmanager
def cancel_obeyed() -> Iterator[None]:
    """Within it, a run of this process ends soon after it is cancelled, and the server knows.

    Raises `RunCancelled` then.
    """
    before, ended, seen = set(held()), threading.Event(), threading.Event()

    def look() -> None:
        while not ended.wait(EVERY_SECONDS):
            try:
                if any(is_cancelled(run) for run in set(held()) - before):
                    seen.set()
                    _thread.interrupt_main()
                    return
            except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
                log.debug("not known whether the run is cancelled: %s", error)

    watch = threading.Thread(target=look, name="cancel-watch", daemon=True)
    watch.start()
    try:
        yield
    except KeyboardInterrupt as error:
        if not seen.is_set():
            raise
        raise RunCancelled(SAID) from error
    finally:
        ended.set()
        with suppress(httpx.HTTPError):  # no server, no state; its fault is said elsewhere
            for run in set(held()) - before:
                if seen.is_set() or is_cancelled(run):
                    set_cancelled(UUID(run), "It has ended, as it was asked to.")
