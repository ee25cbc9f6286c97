"""A whole run, what it must reach, and how it deals with documents that came since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from deconstruct.config.analysis import TRAINING, AnalysisConfig
from deconstruct.config.base import Settings
from deconstruct.config.corpus import CorpusConfig, ModelConfig
from deconstruct.config.sae import SaeConfig
from deconstruct.config.stages import (
    ActivationsConfig,
    ClusterConfig,
    EvaluationConfig,
    ExplanationConfig,
    InterpretationConfig,
    LatentsConfig,
    MapConfig,
    ProbeConfig,
)

STAGES = (
    "corpus",
    "activations",
    "reference",
    "sae",
    "latents",
    "evaluation",
    "probe",
    "cluster",
    "interpretation",
)
"""The stages of every run, in the order of the data."""
OPTIONAL_STAGES = ("map", "drift", "matching", "explanation")
"""Stages that only some runs have; a run's id does not depend on them."""
EVERY_STAGE = (*STAGES, *OPTIONAL_STAGES)
"""Both, in the order of the data."""

Growth = Literal["anew", "encode", "retrain", "retrain-warm"]
"""What becomes of documents that an earlier run of the same name has seen; no part of a key."""


CONTROLS = (
    "seed", "frozen-decoder", "frozen-encoder", "random-sae", "random-model", "shuffled"
)  # fmt: skip
"""Kinds of control: runs that one thing is taken away from, or changed in."""
CONTROLS_OF = "/controls/"
"""In the name of a control, between the name of the run that it is of and its own."""


class GatesConfig(Settings):
    """What a run must reach to be published; none: no gate. Gates change no artifact."""

    max_fvu_typical: float | None = Field(
        None, gt=0, description="Held-out FVU of typical tokens, outliers left out, at most."
    )
    max_fvu: float | None = Field(
        None, gt=0, description="Held-out FVU of all tokens, which outliers may lead, at most."
    )
    max_delta_loss: float | None = Field(
        None,
        ge=0,
        description="Nats that the model's loss grows by when the SAE is spliced in, at most.",
    )
    max_kl: float | None = Field(
        None,
        gt=0,
        description="KL divergence of the spliced model from the model, in nats, at most.",
    )
    min_top1_agreement: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of predictions whose likeliest token stays as it was, at least.",
    )
    max_silent_share: float | None = Field(
        None, ge=0, le=1, description="Share of latents that fire on no held-out token, at most."
    )
    max_dead_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of latents that fire on no token of the whole corpus, at most.",
    )
    min_loss_recovered: float | None = Field(
        None,
        le=1,
        description="Loss recovered against zeros at recorded positions, the leading ones kept "
        "(loss_recovered_bos_kept, not the score of SAELens), at least.",
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
    analysis: tuple[AnalysisConfig, ...] = Field(
        (),
        description="Corpora that the SAE is judged on, each a table `[[analysis]]`; none: "
        "`[corpus]`, which it is trained on.",
    )
    activations: ActivationsConfig = ActivationsConfig()
    sae: SaeConfig = SaeConfig()
    latents: LatentsConfig = LatentsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    probe: ProbeConfig = ProbeConfig()
    cluster: ClusterConfig = ClusterConfig()
    interpretation: InterpretationConfig = InterpretationConfig()
    map: MapConfig = MapConfig()
    explanation: ExplanationConfig = ExplanationConfig()
    gates: GatesConfig = GatesConfig()

    @field_validator("analysis", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            raise ValueError("it is a list of tables; write [[analysis]], in two brackets")
        return value

    @field_validator("analysis")
    @classmethod
    def _named_once(cls, value: tuple[AnalysisConfig, ...]) -> tuple[AnalysisConfig, ...]:
        names = [one.name for one in value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two analyses are called {twice!r}; give each a name of its own")
        return value

    @model_validator(mode="after")
    def _window_has_what_it_needs(self) -> RunConfig:
        if self.activations.keep == "all":
            return self
        if not self.analysis or any(one.name == TRAINING for one in self.analysis):
            raise ValueError(
                "activations.keep = 'window' leaves no activations of the training corpus on which "
                "the SAE could be judged; name other corpora in [[analysis]], or set keep = 'all'"
            )
        if self.sae.patience is not None:
            raise ValueError(no_patience(self.sae))
        return self

    @model_validator(mode="after")
    def _sites_fit(self) -> RunConfig:
        output, sites = self.sae.output_site, self.activations.sites
        if output is not None and (output not in sites or len(sites) < 2):
            raise ValueError(
                f"sae.output_site = {output!r} must be one of activations.sites and not the only "
                f"one ({', '.join(sites)}); name input and output site there"
            )
        if self.sae.pretrained is not None and len(self.read_sites) > 1:
            raise ValueError(
                f"sae.pretrained is of one site, and activations.sites names "
                f"{', '.join(self.read_sites)} to "
                "be read; name one of them, and make a run for each dictionary"
            )
        return self

    @property
    def read_sites(self) -> list[str]:
        """The sites that an SAE reads, each one's its own: all but the one that transcoders
        reconstruct."""
        return [site for site in self.activations.sites if site != self.sae.output_site]

    @property
    def control(self) -> str | None:
        """Which kind of control the settings make it, of `CONTROLS`; None: none. A seed like any
        other is one by the run's name alone."""
        if self.probe.shuffle_labels:
            return "shuffled"
        if self.model.redrawn is not None:
            return "random-model"
        if self.sae.frozen != "none":
            return "random-sae" if self.sae.frozen == "all" else f"frozen-{self.sae.frozen}"
        return "seed" if f"{CONTROLS_OF}seed-" in self.name else None

    def analysed(self) -> dict[str, CorpusConfig]:
        """The corpora that the SAE is judged on, by the names of their analyses, in their order."""
        if not self.analysis:
            return {TRAINING: self.corpus}
        return {one.name: self.corpus if one.name == TRAINING else one for one in self.analysis}


def no_patience(sae: SaeConfig) -> str:
    """What is said of an early stop with a window, which has no rows to hold out."""
    return (
        f"sae.patience = {sae.patience} needs rows that are kept to measure on, and "
        "activations.keep = 'window' keeps none; leave patience out, or set keep = 'all'"
    )
