"""Running a flow in this process, for a command."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from prefect import Flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.cancelling import cancel_obeyed

R = TypeVar("R")


def run_here(flow: Flow[..., R], **parameters: Any) -> R:
    """Run ``flow`` with ``parameters`` and return what it returns, or raise what it raises.

    Without Prefect's heartbeats: ending their thread takes a second, and a dead run is known by
    its lock (`flows.liveness`).
    """
    with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), cancel_obeyed():
        return cast(R, flow(**parameters))
