"""What is said first: is the run good, its figures, what was found, and how it came to this."""

from __future__ import annotations

from typing import NamedTuple

from deconstruct.report.chart import Missing
from deconstruct.report.reading.records import Record, records
from deconstruct.report.reading.verdict import gates, headlines
from deconstruct.report.sections.look import Found, Look

CARDS = (
    "fvu_typical", "fvu", "delta_loss", "kl", "top1_agreement", "loss_recovered_bos_kept", "l0",
    "dead_share", "silent_share", "probe_accuracy", "nmi", "cluster_stability",
)  # fmt: skip
BESIDE = {
    "delta_loss": (("loss_clean", "the model alone loses {}"),),
    "probe_accuracy": (
        ("probe_accuracy_activations", "activations {}"),
        ("probe_accuracy_tfidf", "tf-idf {}"),
        ("probe_accuracy_majority", "majority {}"),
    ),
}
"""What stands in a card beside its figure."""
CONTROLLED = ("fvu_typical", "fvu", "delta_loss", "kl", "dead_share", "probe_accuracy", "nmi")

_DRIFT = """
SELECT subject, metric, difference, ci_low, ci_high FROM drift
WHERE run_id = $run_id AND ci_low IS NOT NULL AND ci_high IS NOT NULL
"""
_CONTROLS = """
SELECT control, seed, run_id FROM control_runs($run_id) ORDER BY control, seed, run_id
"""
_HISTORY = """
SELECT started, run_id, made, tokens, fvu_typical, fvu_typical_change, delta_loss, dead_share,
    probe_accuracy, nmi
FROM metrics_over_time()
WHERE name = $plain AND analysis = $analysed AND site = $site
ORDER BY started DESC LIMIT $n
"""
SHOWN = 30
"""Executions that a trend has."""


class Light(NamedTuple):
    """One of the things that a verdict is made of. kind: good, bad, or quiet; word: says it without
    colour."""

    kind: str
    subject: str
    word: str
    detail: str


def verdict(look: Look) -> Found:
    """Lights, and the differences to the run before."""
    lights = [_gates(look), _drift(look), _compared(look), _tokens(look)]
    return {"lights": lights, "changes": look.changes, "head": look.head, "base": look.base}


def _gates(look: Look) -> Light:
    found = gates(look.store, look.run)
    if not found:
        return Light("quiet", "Gates", "none set", "Whatever the figures, the run was published.")
    failed = [gate for gate in found if gate.passed is False]
    judged = [gate for gate in found if gate.passed is not None]
    told = "; ".join(f"{g.name} {g.bound:g}, reached {g.value:.4g}" for g in failed or judged)
    if failed:
        return Light("bad", "Gates", "failed", told)
    if not judged:
        return Light("quiet", "Gates", "not judged", "This run has none of the figures they ask.")
    return Light("good", "Gates", "passed", f"{len(judged)} of {len(found)} are about it: {told}")


def _drift(look: Look) -> Light:
    rows = look.records(_DRIFT)
    if not rows:
        return Light(
            "quiet", "Drift", "not measured", "No standing SAE was kept for new documents."
        )
    apart = [row for row in rows if row["ci_low"] > 0 or row["ci_high"] < 0]
    detail = f"Of {len(rows)} differences {len(apart)} leave 0 outside their 95% interval"
    if len(apart) <= max(1, round(0.05 * len(rows))):
        return Light("good", "Drift", "none seen", f"{detail}; one in twenty would by chance.")
    names = ", ".join(f"{row['metric']}" for row in apart[:4])
    return Light("bad", "Drift", "apart", f"{detail}: {names}.")


def _compared(look: Look) -> Light:
    if not look.base:
        return Light("quiet", "Compared", "first of its name", "There is no run before this one.")
    better = [c.label for c in look.changes if c.word == "better"]
    worse = [c.label for c in look.changes if c.word == "worse"]
    detail = f"With run {look.base}, by held-out document."
    detail += f" Worse: {', '.join(worse)}." if worse else ""
    detail += f" Better: {', '.join(better)}." if better else ""
    if worse:
        return Light("bad", "Compared", "worse", detail)
    if better:
        return Light("good", "Compared", "better", detail)
    if any(change.low is not None for change in look.changes):
        return Light("quiet", "Compared", "no clear difference", f"{detail} No difference is sure.")
    return Light("quiet", "Compared", "not comparable", f"{detail} They judged other documents.")


def _tokens(look: Look) -> Light:
    found = look.massive
    if found.variance_share is None and not found.mapped and not found.tokens:
        told = "Neither a map nor the errors of single tokens tell of them."
        return Light("quiet", "Massive activations", "not measured", told)
    if not found.heavy:
        return Light("good", "Massive activations", "not seen", "No few tokens hold the variance.")
    detail = "Read the figures of typical tokens"
    if found.share is not None and found.variance_share is not None:
        detail = (
            f"{100 * found.share:.2g} % of the held-out tokens hold "
            f"{100 * found.variance_share:.0f} % of the variance: read the figures of typical "
            "tokens"
        )
    if found.suspects:
        numbers = ", ".join(str(row["cluster"]) for row in found.suspects)
        detail += f", and take cluster {numbers} for their artefact until shown otherwise"
    return Light("bad", "Massive activations", "present", f"{detail}.")


def numbers(look: Look) -> Found:
    """Cards of the headline figures, each with what it was in the run before, and controls."""
    head = look.head
    if not head:
        raise Missing("this run has no headline figures")
    of = {
        ("probe_accuracy" if c.name == "accuracy of latents" else c.name): c for c in look.changes
    }
    cards = []
    for name in CARDS:
        if name not in head:
            continue
        beside = [
            words.format(f"{head[other]['value']:.3f}")
            for other, words in BESIDE.get(name, ())
            if other in head
        ]
        cards.append({"name": name, **head[name], "beside": beside, "change": of.get(name)})
    return {
        "cards": cards,
        "controlled": [(name, head[name]["label"]) for name in CONTROLLED if name in head],
        "controls": _controls(look),
        "figures": look.figures("fidelity", "losses", "controls"),
    }


def _controls(look: Look) -> list[Record]:
    """A record for this run and each of its controls, with its figures in the order of
    ``CONTROLLED``; empty where there are none."""
    found = look.records(_CONTROLS)
    if not found:
        return []
    own = {"control": "this run", "seed": None, "run_id": look.run_id}
    shown = [name for name in CONTROLLED if name in look.head]
    rows = []
    for row in (own, *found):
        head = headlines(look.store, row["run_id"])
        cells = [head[name]["value"] if name in head else None for name in shown]
        rows.append({**row, "cells": cells})
    return rows


def trend(look: Look) -> Found:
    """The last executions under the run's name."""
    asked = {name: look.run[name] for name in ("plain", "analysed", "site")}
    rows = records(look.store, _HISTORY, n=SHOWN, **asked)
    return {"rows": rows, "figures": look.figures("trend")}
