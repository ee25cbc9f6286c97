"""A whole run, what it must reach, and how it deals with documents that came since."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from deconstruct.config.base import Settings
from deconstruct.config.sae import SaeConfig
from deconstruct.config.stages import (
    ActivationsConfig,
    ClusterConfig,
    CorpusConfig,
    EvaluationConfig,
    LatentsConfig,
    ModelConfig,
    ProbeConfig,
)

STAGES = ("corpus", "activations", "sae", "latents", "evaluation", "probe", "cluster")
"""The stages of every run, in the order of the data."""
OPTIONAL_STAGES = ("drift",)
"""Stages that only some runs have; a run's id does not depend on them."""
EVERY_STAGE = (*STAGES, *OPTIONAL_STAGES)
"""Both, in the order of the data."""

Growth = Literal["anew", "encode", "retrain", "retrain-warm"]
"""What becomes of documents that an earlier run of the same name has seen; no part of a key."""


class GatesConfig(Settings):
    """What a run must reach to be published; none: no gate. Gates change no artifact."""

    max_fvu: float | None = Field(None, gt=0, description="Held-out FVU, at most.")
    max_dead_share: float | None = Field(
        None, ge=0, le=1, description="Share of latents that never fire, at most."
    )
    min_loss_recovered: float | None = Field(
        None, le=1, description="Loss recovered against zero ablation, at least."
    )
    min_probe_accuracy: float | None = Field(
        None, ge=0, le=1, description="Held-out accuracy of the probe on all latents, at least."
    )
    max_fvu_ratio: float | None = Field(
        None,
        gt=0,
        description="Of a run that keeps a standing SAE: FVU on the documents that are new since "
        "its training over that on the reference's held-out ones, at most.",
    )
    max_latents_js: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Of such a run: Jensen-Shannon divergence, in bits, between how often each "
        "latent fires on the new documents and on the reference, at most.",
    )


class RunConfig(Settings):
    """A whole run of the pipeline."""

    name: str = Field(
        "default",
        min_length=1,
        max_length=100,
        description="What you call the run; later runs can go on from it by this name.",
    )
    model: ModelConfig = ModelConfig()
    corpus: CorpusConfig = CorpusConfig()
    activations: ActivationsConfig = ActivationsConfig()
    sae: SaeConfig = SaeConfig()
    latents: LatentsConfig = LatentsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    probe: ProbeConfig = ProbeConfig()
    cluster: ClusterConfig = ClusterConfig()
    gates: GatesConfig = GatesConfig()

    @model_validator(mode="after")
    def _window_has_what_it_needs(self) -> RunConfig:
        if self.activations.keep == "all":
            return self
        judged_on = getattr(self, "analysis", ())
        if not judged_on or any(one.name == "corpus" for one in judged_on):
            raise ValueError(
                "activations.keep = 'window' leaves no activations of the training corpus on which "
                "the SAE could be judged; name other corpora in [[analysis]], or set keep = 'all'"
            )
        if self.sae.patience is not None:
            raise ValueError(no_patience(self.sae))
        return self

    @model_validator(mode="after")
    def _transcoder_has_sites(self) -> RunConfig:
        output, sites = self.sae.output_site, self.activations.sites
        if output is not None and (output not in sites or len(sites) < 2):
            raise ValueError(
                f"sae.output_site = {output!r} must be one of activations.sites and not the only "
                f"one ({', '.join(sites)}); name input and output site there"
            )
        return self


def no_patience(sae: SaeConfig) -> str:
    """What is said of an early stop with a window, which has no rows to hold out."""
    return (
        f"sae.patience = {sae.patience} needs rows that are kept to measure on, and "
        "activations.keep = 'window' keeps none; leave patience out, or set keep = 'all'"
    )
