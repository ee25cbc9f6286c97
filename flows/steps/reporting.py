"""The last step of a run: a page about it. Without its page a run is a run all the same."""

from __future__ import annotations

import logging
import os
import re
import socket
from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.runtime import flow_run

from deconstruct.artifacts import DataRoot
from deconstruct.common.progress import waiting
from deconstruct.common.showing import code
from deconstruct.explorer import HOST
from deconstruct.store import open_store
from deconstruct.store.query import report_file
from flows.local import RunCancelled, check_cancelled
from flows.steps.publishing import SiteResult

log = logging.getLogger("deconstruct.stages")

VARIABLE = "DECONSTRUCT_REPORT"
"""``no``: runs write no page; 'deconstruct report' does when it is asked."""


def reported(root: DataRoot, results: list[SiteResult], name: str) -> None:
    """Write the page of each result; what keeps it from being drawn is said, and no more.

    name: of the run, for the keys of its artifacts in the UI.
    """
    if os.environ.get(VARIABLE) == "no":
        return
    from deconstruct.report.page import write  # altair and vl-convert: a second

    for result in results:
        check_cancelled()
        file = report_file(root.path, result.run_id)
        try:
            with (
                waiting("report"),
                open_store(root.path, files=False, verify=False) as store,
            ):
                write(store, result.run_id, file)
            log.info("%-12s %s", "report", file)
        except RunCancelled:
            raise
        except Exception as error:  # whatever it is, the run is done and published
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning(
                "no report of run %s was written: %s; try 'deconstruct report %s'",
                result.run_id, told, result.run_id,
            )  # fmt: skip
            continue
        try:
            show(root.path, result, name)
        except RunCancelled:
            raise
        except Exception as error:  # it is written, whatever the server of the UI says
            log.warning("the UI has no link to %s: %s", file, type(error).__name__)


def show(root: Path, result: SiteResult, name: str) -> None:
    """Link to the page in the UI: over http where the explorer answers, else as a path to copy,
    since a browser follows no link from there to a file."""
    if not flow_run.get_id():
        return
    named = f"report {name} {result.site} {result.analysis}"
    key = re.sub("[^a-z0-9]+", "-", named.lower()).strip("-")
    about = f"Report of run {result.run_id}"
    address = explorer(root)
    if address is not None:
        create_link_artifact(
            f"{address}/run/{result.run_id}", link_text=about, key=key, description=about
        )
    else:
        path = code(report_file(root, result.run_id))
        create_markdown_artifact(f"# {about}\n\n{path}", key=key, description=about)


def explorer(root: Path) -> str | None:
    """The address of the explorer of a data root, if one answers on this machine."""
    from deconstruct.explorer.server import running  # starlette: half a second

    address = running(root)
    if address is None:
        return None
    try:  # of a folder that machines share, it may be another's
        with socket.create_connection((HOST, int(address.rpartition(":")[2])), timeout=1):
            return address
    except (OSError, OverflowError):
        return None
