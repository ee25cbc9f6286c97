"""Quality gates: what a run must reach before it is published."""

from __future__ import annotations

from collections.abc import Mapping

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import DeconstructError
from deconstruct.config import GatesConfig


class GateError(DeconstructError):
    """A run that is not good enough to be published; the message says by how much."""


def figures(
    evaluation: Artifact, probe: Artifact, drift: Artifact | None
) -> dict[str, float | None]:
    """What gates are about, by name; None where a stage found nothing to measure."""
    found = {name: evaluation.facts.get(name) for name in ("fvu", "dead_share", "loss_recovered")}
    found["probe_accuracy"] = probe.facts.get("accuracy")
    if drift is not None:
        found["fvu_ratio"] = drift.facts["fvu"] / drift.facts["reference_fvu"]
        found["latents_js"] = drift.facts["latents_js"]
    return found


def check(config: GatesConfig, found: Mapping[str, float | None]) -> None:
    """Raise `GateError` if a figure in ``found`` is beyond its gate, or None.

    found: by the figure's name, as in ``max_<name>`` and ``min_<name>`` of the gates; those which
    this kind of run does not have (drift, of one that trains) are not in it, and have no gate.
    """
    faults = []
    for gate, bound in config.model_dump().items():
        if bound is None:
            continue
        side, name = gate.split("_", 1)
        if name not in found:
            continue
        value = found[name]
        if value is None:
            faults.append(f"gates.{gate} = {bound:g}, but this run has no {name}")
        elif (value > bound) if side == "max" else (value < bound):
            faults.append(f"gates.{gate} = {bound:g}, but {name} is {value:.4g}")
    if faults:
        raise GateError(
            "; ".join(faults) + "; the run is not published, and the standing one stays. Its "
            "artifacts are kept: change the gate to publish it, or the settings to better it"
        )
