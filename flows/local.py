"""Running a flow in this process, for a command; it ends soon after somebody cancels it.

Prefect leaves it to a worker to end the run that it started. A run that a command makes has none:
it would go on, publish, and stand as *Cancelling* for ever.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from deconstruct.common.errors import DeconstructError
from flows.liveness import held, set_cancelled

R = TypeVar("R")

EVERY_SECONDS = 2.0
SAID = (
    "the run was cancelled; nothing of it is published. What it finished comes from cache when "
    "you run again"
)

log = logging.getLogger(__name__)


class RunCancelled(DeconstructError):
    """Somebody has cancelled the run."""


def run_here(flow: Flow[..., R], **parameters: Any) -> R:
    """Run ``flow`` with ``parameters`` and return what it returns, or raise what it raises."""
    with in_this_process():
        return cast(R, flow(**parameters))


@contextmanager
def in_this_process() -> Iterator[None]:
    """What surrounds a run here.

    Without Prefect's heartbeats: ending their thread takes a second, and a dead run is known by
    its lock (`flows.liveness`).
    """
    with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), cancel_obeyed():
        yield


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
                    # A signal: waits and sleeps end by it, too.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
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
