"""Long stages seen in the Prefect UI: the library's progress as a progress artifact of the task."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectHTTPStatusError

log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0


class ProgressArtifacts:
    """One artifact a kind of work, told of every `EVERY_SECONDS`; none for work shorter than that.

    A server that does not answer costs nobody the work: it is not told, that is all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}
        self._artifacts: dict[str, UUID] = {}

    def __call__(self, description: str, done: int, total: int) -> None:
        now = self._clock()
        told = self._told.setdefault(description, now)
        ended = done >= total
        if now - told < EVERY_SECONDS and not (ended and description in self._artifacts):
            return
        self._told[description] = now
        share = 100 * done / max(total, 1)
        try:
            if description in self._artifacts:
                update_progress_artifact(self._artifacts[description], share)
            else:
                key = f"{description.strip().replace(' ', '-').lower()}-progress"
                said = f"{description.strip()}: {total:,} in all"
                made = create_progress_artifact(share, key, said)
                assert isinstance(made, UUID)
                self._artifacts[description] = made
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            log.debug("progress not told: %s", error)
