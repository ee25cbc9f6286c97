"""One more analysis of an SAE that is there: the configuration that gives it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deconstruct.common.errors import ConfigError
from deconstruct.config import TRAINING, AnalysisConfig, Growth, RunConfig
from deconstruct.config.toml import changed
from deconstruct.store import open_store, resolve_run
from deconstruct.store.query import executed


def analysed_again(
    home: Path | str | None, run: str, analysis: Sequence[AnalysisConfig]
) -> tuple[str, RunConfig, Growth]:
    """The run_id that ``run`` means, its configuration with other analyses, and its growth.

    Of its sites, the configuration has the one that the run is of (and that which its transcoder
    writes). Raises ``QueryError`` for an unknown run.
    """
    with open_store(home, files=False, verify=False) as store:
        run_id = resolve_run(store, run)
        [(site,)] = store.execute("SELECT site FROM runs WHERE run_id = ?", [run_id]).fetchall()
    config, growth = executed(home, run_id)
    wanted = (site, config.sae.output_site)
    sites = [one for one in config.activations.sites if one in wanted]
    recorded = config.activations.model_copy(update={"sites": tuple(sites)})
    own = config.model_copy(update={"activations": recorded, "analysis": tuple(analysis)})
    return run_id, own, growth


def one_analysis(source: str | None, name: str | None, fields: Sequence[str]) -> AnalysisConfig:
    """An analysis of ``source``; without a name, it is called after that.

    fields: ``max_tokens=64`` and the like. Raises ``ConfigError`` as reading a configuration does.
    """
    called = name or (TRAINING if source is None else called_after(source))
    if name is None and source is not None and called in ("", TRAINING):
        raise ConfigError(f"--source {source!r} gives no name to call the analysis by; add --name")
    table: dict[str, Any] = {"name": called} | ({} if source is None else {"source": source})
    overrides = [f"analysis.{called}.{field}" for field in fields]
    return changed(RunConfig(), {"analysis": [table]}, overrides).analysis[0]


def called_after(source: str) -> str:
    """A name for an analysis: that of the file, folder or data set, without its ending."""
    last = source.rstrip("/").split("/")[-1].split(":")[-1]
    return re.sub("[^A-Za-z0-9_-]+", "-", last.split(".")[0]).strip("-_")[:64]
