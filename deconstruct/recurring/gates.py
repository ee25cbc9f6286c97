"""Quality gates: what a run must reach before it is published."""

from __future__ import annotations

from collections.abc import Mapping

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import DeconstructError
from deconstruct.config import GatesConfig
from deconstruct.store.headlines import HEADLINES


class GateError(DeconstructError):
    """A run that is not good enough to be published; the message says by how much."""


def figures(artifacts: Mapping[str, Artifact]) -> dict[str, float | None]:
    """What gates are about, by name; None where a stage found nothing to measure.

    artifacts: of a run, by stage; drift is among them if the run kept a standing SAE.
    """
    found = {h.name: artifacts[h.stage].facts.get(h.fact) for h in HEADLINES if h.fact is not None}
    if "drift" in artifacts:
        facts = artifacts["drift"].facts
        found["fvu_ratio"] = facts["fvu"] / facts["reference_fvu"]
        found["latents_js"] = facts["latents_js"]
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
        elif not ((value <= bound) if side == "max" else (value >= bound)):  # NaN is neither
            faults.append(f"gates.{gate} = {bound:g}, but {name} is {value:.4g}")
    if faults:
        raise GateError(
            "; ".join(faults) + "; the run is not published, and the standing one stays. Its "
            "artifacts are kept: change the gate to publish it, or the settings to better it"
        )
