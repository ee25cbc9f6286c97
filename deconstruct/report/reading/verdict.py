"""Is a run good, is it still good, and is it better than the one before?"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import duckdb

from deconstruct.report.reading.records import Record, records
from deconstruct.store.headlines import HEADLINES, HIGHER, LOWER
from deconstruct.store.query import CALLED

_ABOUT = f"""
SELECT runs.*, called.name AS called, called.plain, called.analysis AS analysed, r.config AS
    last_config, r.growth, r.execution
FROM runs
JOIN (
    SELECT run_id, arg_max({CALLED}, n.last_execution) AS name,
        arg_max(n.name, n.last_execution) AS plain,
        arg_max(n.analysis, n.last_execution) AS analysis
    FROM names AS n WHERE run_id = $run_id GROUP BY run_id
) AS called ON called.run_id = runs.run_id
JOIN (
    SELECT run_id, arg_max(config, execution) AS config, arg_max(growth, execution) AS growth,
        max(execution) AS execution
    FROM executions WHERE run_id = $run_id GROUP BY run_id
) AS r ON r.run_id = runs.run_id
"""

_BEFORE = """
SELECT e.run_id FROM executions AS e JOIN runs AS r ON r.run_id = e.run_id
WHERE e.name = $plain AND e.analysis = $analysed AND r.site = $site AND e.run_id <> $run_id
    AND e.execution < $execution
ORDER BY e.execution DESC LIMIT 1
"""

_DIFFERENCES = "FROM differences($base, [$run_id], metrics := $metrics)"

_PROBE = "accuracy of latents"
COMPARED = {
    **{h.name: h for h in HEADLINES if h.stage == "evaluation" and h.column},
    _PROBE: next(h for h in HEADLINES if h.name == "probe_accuracy"),
    "nmi": next(h for h in HEADLINES if h.name == "nmi"),
}
"""What a run is compared by with the run before, as the macro ``differences`` calls it."""
SURE = 0.05
"""A difference is said to be one below this p, corrected for all that are looked at."""


class Gate(NamedTuple):
    """What a run had to reach. value: None where it is not measured of this run."""

    name: str
    bound: float
    value: float | None

    @property
    def passed(self) -> bool | None:
        """None: it is not about this run."""
        if self.value is None:
            return None
        return (
            self.value <= self.bound if self.name.startswith("max_") else self.value >= self.bound
        )


class Change(NamedTuple):
    """A figure beside that of another run, paired by held-out document where that can be."""

    name: str
    label: str
    reading: str
    before: float | None
    now: float | None
    difference: float | None
    low: float | None
    high: float | None
    corrected: float | None

    @property
    def word(self) -> str:
        """better, worse, changed, no clear difference, or why there is no telling."""
        if self.low is None or self.corrected is None or self.difference is None:
            return "no interval"
        if self.corrected >= SURE or not self.difference:
            return "no clear difference"
        if self.reading not in (LOWER, HIGHER):
            return "changed"
        return "better" if (self.difference < 0) == (self.reading == LOWER) else "worse"


def about(store: duckdb.DuckDBPyConnection, run_id: str) -> Record:
    """A run's row of ``runs``, with the name that it was executed under last: ``called`` (with the
    analysis, for people), ``plain``, ``analysed``; ``last_config`` and ``growth``."""
    (found,) = records(store, _ABOUT, run_id=run_id)
    return found


def before(store: duckdb.DuckDBPyConnection, run: Record) -> str | None:
    """The run that the same name, analysis and site had before this one; None of the first."""
    asked = {name: run[name] for name in ("plain", "analysed", "site", "run_id", "execution")}
    found = records(store, _BEFORE, **asked)
    return str(found[0]["run_id"]) if found else None


def gates(store: duckdb.DuckDBPyConnection, run: Record) -> list[Gate]:
    """The gates of a run's last configuration, with what it reached."""
    asked = json.loads(run["last_config"]).get("gates") or {}
    set_ = {name: bound for name, bound in asked.items() if bound is not None}
    found = _reached(store, run["run_id"]) if set_ else {}
    return [Gate(name, bound, found.get(name.split("_", 1)[1])) for name, bound in set_.items()]


def _reached(store: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for headline in HEADLINES:
        if headline.fact is not None:
            row = store.execute(headline.select("value"), {"run_id": run_id}).fetchone()
            found[headline.name] = row[0] if row else None
    found["loss_recovered"] = found.get("loss_recovered_bos_kept")
    facts = records(
        store, "SELECT facts FROM stages WHERE run_id = $run_id AND stage = 'drift'", run_id=run_id
    )
    if facts:
        told: dict[str, Any] = json.loads(facts[0]["facts"])
        now, then = told.get("fvu_train_mean"), told.get("reference_fvu_train_mean")
        found["fvu_ratio"] = now / then if now is not None and then else None
        found["latents_js"] = told.get("latents_js")
    return found


def changes(store: duckdb.DuckDBPyConnection, run_id: str, base: str) -> list[Change]:
    """The figures of a run beside those of ``base``: paired differences (run - base), with p values
    by Holm over all of them."""
    metrics = list(COMPARED)
    found = records(store, _DIFFERENCES, base=base, run_id=run_id, metrics=metrics)
    of = {row["metric"]: row for row in found}
    return [
        Change(
            name, headline.label, headline.reading, row["value_base"], row["value_other"],
            row["difference"], row["ci_low"], row["ci_high"], row["p_corrected"],
        )
        for name, headline in COMPARED.items()
        if (row := of.get(name)) is not None
    ]  # fmt: skip


def headlines(store: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Record]:
    """The headline figures of a run by name: label, reading, value, ci_low, ci_high."""
    found = {}
    for headline in HEADLINES:
        ends = ("NULL", "NULL") if headline.table == "cluster_metrics" else ("ci_low", "ci_high")
        row = store.execute(headline.select("value", *ends), {"run_id": run_id}).fetchone()
        if row is not None and row[0] is not None:
            found[headline.name] = {
                "label": headline.label, "reading": headline.reading,
                "value": row[0], "low": row[1], "high": row[2],
            }  # fmt: skip
    return found
