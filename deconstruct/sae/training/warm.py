"""Warm starts: training that goes on from an SAE that is there, on other activations of its site.

Weights are taken over, and what steers sparsity: BatchTopK's threshold, the penalty that a target
L0 has led to. Adam's moments start at zero, as those of the earlier run belong to other data and
to a rate that had decayed away; so does the count of tokens since a latent fired.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deconstruct.activations.window import Stream
from deconstruct.artifacts import Artifact
from deconstruct.common.errors import ConfigError
from deconstruct.config import SaeConfig
from deconstruct.sae import files
from deconstruct.sae.architectures.base import Selection
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.folding import Scaling, unfold
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.rates import default_learning_rate
from deconstruct.sae.schedule import dead_after, step_count
from deconstruct.sae.spec import StepSpec

FACTOR = "penalty_factor"
"""The fact of an SAE artifact that says what the target L0 has made of the penalty."""
WARM_SHARE = 4
"""Of a cold run's tokens, one in so many (docs/running.md has the figures)."""

WARM_RATE = 0.5


@dataclass(frozen=True)
class Start:
    """What training starts from in place of a seed. penalty_factor: see `FACTOR`."""

    sae: SparseAutoencoder
    penalty_factor: float = 1.0

    @classmethod
    def of(cls, artifact: Artifact) -> Start:
        """Read one. Raises ``StorageError`` if its files don't read."""
        return cls(files.load(artifact.path), factor_of(artifact))

    def weights(
        self, spec: StepSpec, inputs: Scaling, outputs: Scaling | None
    ) -> dict[str, Tensor]:
        """In the scaled coordinates of the new run, named as `initial_weights` names them.

        They compute what the SAE computes, whatever the moments. Raises ``ConfigError`` if they
        are not of the architecture and the shapes of ``spec``.
        """
        weights = unfold(self.sae, inputs, outputs)
        if self._selection is Selection.PER_BATCH:
            del weights["threshold"]  # follows the data: no parameter
        found = {name: tuple(weight.shape) for name, weight in weights.items()}
        wanted = {name: tuple(w.shape) for name, w in initial_weights(spec, 0).items()}
        if self.sae.architecture != spec.architecture or found != wanted:
            raise ConfigError(
                f"a {spec.architecture} SAE with weights {wanted} can't start from a "
                f"{self.sae.architecture} one with {found}; train it from its seed"
            )
        return {name: weights[name] for name in wanted}

    def controls(self, inputs: Scaling, outputs: Scaling | None) -> dict[str, Tensor]:
        """What steers sparsity (`engines.control`), named as a checkpoint names it."""
        if self._selection is Selection.ABOVE_EDGE:
            return {"control.factor": torch.tensor([self.penalty_factor], dtype=torch.float64)}
        if self._selection is Selection.PER_BATCH:
            threshold = unfold(self.sae, inputs, outputs)["threshold"]
            return {"control.threshold": threshold.double().mean()[None]}
        return {}

    @property
    def _selection(self) -> Selection:
        return ARCHITECTURES[self.sae.architecture].selection


def warmed(config: SaeConfig) -> SaeConfig:
    """The settings of a warm start, from those of a cold run.

    It has its own number of tokens. The peak rate is `WARM_RATE` of the cold run's, and a latent
    counts as dead after as many tokens as there: by the rules for so short a run, higher rates
    and AuxK would pull at rare latents until they fire no more. The penalty is there at once, as
    the latents are sparse already.
    """
    rate = config.learning_rate or WARM_RATE * default_learning_rate(config, step_count(config))
    changes = {
        "tokens": config.warm_tokens or max(config.batch_size, config.tokens // WARM_SHARE),
        "learning_rate": rate,
        "dead_after_tokens": dead_after(config),
        "penalty_warmup_share": 0.0,
    }
    return config.model_copy(update=changes)


def factor_of(artifact: Artifact) -> float:
    """The penalty factor that an SAE was trained to; 1 if it has none."""
    return float(artifact.facts.get(FACTOR, 1.0))


def check(
    start: Artifact,
    config: SaeConfig,
    activations: Artifact | Stream,
    output: Artifact | Stream | None,
) -> None:
    """Raise ``ConfigError`` unless an SAE of ``config`` can start from the artifact ``start``."""
    facts = start.facts
    skips = start.manifest.config.get("skip_connection", False)
    both = {
        "site": (facts["site"], activations.facts["site"]),
        "output_site": (facts.get("output_site"), output.facts["site"] if output else None),
        "architecture": (facts["architecture"], config.architecture),
        "d_in": (facts["d_in"], activations.facts["d_in"]),
        "d_sae": (facts["d_sae"], config.d_sae),
        "skip_connection": (skips, config.skip_connection),
    }
    off = [f"{name} {there}, not {here}" for name, (there, here) in both.items() if there != here]
    if off:
        raise ConfigError(
            f"training can't start from SAE {start.key[:12]}: it has {'; '.join(off)}. Start from "
            "the seed (--growth retrain), or set what differs"
        )
