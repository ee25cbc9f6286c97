"""Quality gates: what a run must reach before it is published."""

from __future__ import annotations

from collections.abc import Mapping

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import DeconstructError
from deconstruct.config import TRAINING, GatesConfig
from deconstruct.store.headlines import HEADLINES


class GateError(DeconstructError):
    """A run that is not good enough to be published; the message says by how much."""


def figures(artifacts: Mapping[str, Artifact]) -> dict[str, float | None]:
    """What gates are about, by name; None where a stage found nothing to measure.

    artifacts: of a run, by stage; drift is among them if the run kept a standing SAE.
    """
    found = {h.name: artifacts[h.stage].facts.get(h.fact) for h in HEADLINES if h.fact is not None}
    found["loss_recovered"] = found["loss_recovered_bos_kept"]  # min_loss_recovered is older
    if "drift" in artifacts:
        facts = artifacts["drift"].facts
        found["fvu_ratio"] = facts["fvu_train_mean"] / facts["reference_fvu_train_mean"]
        found["latents_js"] = facts["latents_js"]
    return found


def check(config: GatesConfig, found: Mapping[str, Mapping[str, float | None]]) -> None:
    """Raise `GateError` if a figure of an analysis is beyond its gate, or None of all of them.

    found: by analysis, then by the figure's name, as in ``max_<name>`` and ``min_<name>`` of the
    gates; those which this kind of run does not have (drift, of one that trains) are not in it, and
    have no gate. A gate holds for each analysis that has the figure: one without labels has none
    for a probe.
    """
    faults = []
    for gate, bound in config.model_dump().items():
        if bound is None:
            continue
        side, name = gate.split("_", 1)
        values = {of: figures[name] for of, figures in found.items() if name in figures}
        measured = {of: value for of, value in values.items() if value is not None}
        if values and not measured:
            faults.append(f"gates.{gate} = {bound:g}, but this run has no {name}")
        for of, value in measured.items():
            if not ((value <= bound) if side == "max" else (value >= bound)):  # NaN is neither
                which = "" if of == TRAINING else f" of {of!r}"
                faults.append(f"gates.{gate} = {bound:g}, but {name}{which} is {value:.4g}")
    if faults:
        raise GateError(
            "; ".join(faults) + "; the run is not published, and the standing one stays. Its "
            "artifacts are kept: change the gate to publish it, or the settings to better it"
        )
