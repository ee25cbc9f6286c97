"""Settings of the autoencoder and its training, and which architectures there are."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, get_args

from pydantic import Field, JsonValue, field_validator, model_validator
from pydantic.fields import FieldInfo

from deconstruct.common.site import Site
from deconstruct.config.base import (
    KEY_WHERE_SET,
    MOST_LATENTS,
    MOST_ROWS,
    MOST_TOKENS,
    NO_KEY,
    Settings,
)

Architecture = Literal["topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu"]
SPARSITY_PENALTIES: Mapping[str, float] = {"relu": 0.1, "gated": 0.1, "jumprelu": 0.002}
"""Architectures whose sparsity is penalised, and the weight that steering starts from where
``sae.penalty`` is none."""
PENALISED = frozenset(SPARSITY_PENALTIES)
BY_NUMBER = frozenset(get_args(Architecture)) - PENALISED
"""The others: they fix the number of latents that fire, on a token or on average."""

DictionaryFormat = Literal[
    "auto",
    "saelens",
    "sparsify",
    "dictionary-learning",
    "gemma-scope",
    "gemma-scope-2",
    "llama-scope",
    "qwen-scope",
    "circuit-tracer",
]
"""Layouts in which dictionaries of others are read (`deconstruct.sae.formats`)."""


def _only_of(*architectures: str) -> dict[str, JsonValue]:
    """Of a field that means something to these architectures alone."""
    return {"only_of": [*sorted(architectures)]}


class SaeConfig(Settings):
    """The sparse autoencoder, or transcoder, and its training."""

    pretrained: str | None = Field(
        None,
        min_length=1,
        description="A dictionary to take in place of training one: a folder, a file, or "
        "`hub:owner/name/folder@revision` (docs/dictionaries.md). none: train.",
        json_schema_extra=KEY_WHERE_SET,
    )
    pretrained_format: DictionaryFormat = Field(
        "auto",
        description="The layout of its files; auto: found by what they are called.",
        json_schema_extra=KEY_WHERE_SET,
    )
    architecture: Architecture = Field(
        "topk",
        description="topk: the k largest pre-activations of a token. batchtopk: k per token on "
        "average. matryoshka: the same with nested dictionaries. jumprelu: a learned threshold per "
        "latent. gated: a gate and a magnitude. relu: ReLU with an L1 penalty.",
    )
    output_site: str | None = Field(
        None,
        description="Site that is reconstructed from the one that is read: a transcoder. It must "
        "be among activations.sites. none: an autoencoder.",
    )
    skip_connection: bool = Field(
        False, description="A transcoder's linear path from input to output."
    )
    d_sae: int = Field(8192, ge=2, le=MOST_LATENTS, description="Number of latents.")
    k: int = Field(
        32,
        ge=1,
        le=MOST_LATENTS,
        description="topk: latents that fire on a token; batchtopk, matryoshka: on average. relu, "
        "gated, jumprelu: where neither penalty nor target_l0 is given, the L0 steered to.",
        json_schema_extra=_only_of(*BY_NUMBER),
    )
    prefixes: tuple[int, ...] = Field(
        (),
        description="matryoshka: sizes of the nested dictionaries below d_sae, ascending; "
        "none: d_sae / 16, / 8, / 4 and / 2.",
        json_schema_extra=_only_of("matryoshka"),
    )
    penalty: float | None = Field(
        None,
        ge=0,
        description="relu, gated: weight of the L1 penalty, against an error that is 1 for the "
        "mean alone; none: 0.1, then steered. jumprelu: weight of a latent that fires; none: "
        "0.002, then steered.",
        json_schema_extra=_only_of(*PENALISED),
    )
    target_l0: float | None = Field(
        None,
        gt=0,
        description="relu, gated, jumprelu: mean L0 that the penalty is steered to; "
        "none: k, or, where a penalty is given, the penalty stays as it is.",
        json_schema_extra=_only_of(*PENALISED),
    )
    penalty_warmup_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the steps in which the penalty rises from zero.",
        json_schema_extra=_only_of(*PENALISED),
    )
    sparsity: Literal["l0", "tanh"] = Field(
        "l0",
        description="jumprelu: what is penalised, the number that fire or a tanh of them.",
        json_schema_extra=_only_of("jumprelu"),
    )
    bandwidth: float = Field(
        0.05,
        gt=0,
        description="jumprelu: width of the window about a threshold that moves it.",
        json_schema_extra=_only_of("jumprelu"),
    )
    tokens: int = Field(
        1_000_000, ge=1, le=MOST_TOKENS, description="Tokens trained on, repeats included."
    )
    warm_tokens: int | None = Field(
        None,
        ge=1,
        le=MOST_TOKENS,
        description="Tokens of a training that starts from the standing SAE "
        "(--growth retrain-warm); none: a quarter of tokens.",
        json_schema_extra=NO_KEY,
    )
    batch_size: int = Field(4096, ge=1, le=MOST_ROWS, description="Tokens in one step.")
    optimizer: Literal["sparse_adam", "adam"] = Field(
        "sparse_adam",
        description="sparse_adam: Adam that leaves alone the latents that a step has no gradient "
        "for, and moves biases slowly. adam: as published; it leaves more latents dead.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Adam's peak rate; none: 2e-4 * sqrt(16384 / d_sae), raised for "
        "runs shorter than 20,000 steps (topk: 10,000).",
    )
    warmup_share: float = Field(0.05, ge=0, le=1, description="Share of steps with a rising rate.")
    decay_share: float = Field(0.2, ge=0, le=1, description="Share of steps with a falling rate.")
    decay: Literal["linear", "cosine"] = Field("linear", description="How the rate falls to zero.")
    aux_k: int | None = Field(
        None,
        ge=0,
        le=MOST_LATENTS,
        description="topk, batchtopk, matryoshka: dead latents that explain the residual of a "
        "token (AuxK); none: k. "
        "Gao et al.'s d_in / 2 left more latents dead on residual streams, and a higher error.",
        json_schema_extra=_only_of(*BY_NUMBER),
    )
    aux_coefficient: float = Field(
        1 / 32,
        ge=0,
        description="Weight of the AuxK loss; relu, gated, jumprelu: of the pull on dead latents.",
    )
    dead_after_tokens: int | None = Field(
        None,
        ge=1,
        le=MOST_TOKENS,
        description="Tokens without firing after which a latent counts as dead; "
        "none: a tenth of the run, at most 10 million.",
    )
    clip_norm: float = Field(1.0, gt=0, description="Gradient clipping by global norm.")
    patience: int | None = Field(
        None,
        ge=1,
        le=MOST_ROWS,
        description="Stop early once the held-out FVU, measured 20 times per run, has not fallen "
        "this many times in a row; none: never.",
    )
    held_out_share: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="With patience: share of the train split's tokens, in whole documents, that "
        "is not trained on but measured.",
    )
    seed: int = Field(0, ge=0, description="Initial weights and the order of the batches.")
    frozen: Literal["none", "decoder", "encoder", "all"] = Field(
        "none",
        description="What stays at its random start: a control. decoder, encoder: its directions; "
        "biases and thresholds are trained. all: nothing is trained but the scale of activations "
        "(and, of relu, gated and jumprelu, one threshold): the random SAE at equal L0.",
        json_schema_extra=KEY_WHERE_SET,
    )

    @field_validator("output_site")
    @classmethod
    def _output_site_parses(cls, site: str | None) -> str | None:
        return None if site is None else str(Site.parse(site))

    @model_validator(mode="after")
    def _fits(self) -> SaeConfig:
        if self.by_number and self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}; lower k")
        if self.by_number and self.target_l0 is not None:
            raise ValueError(
                f"target_l0 = {self.target_l0} is for relu, gated and jumprelu; "
                f"{self.architecture} fires k latents per token: set k"
            )
        if self.pretrained_format != "auto" and self.pretrained is None:
            raise ValueError(
                f"pretrained_format = {self.pretrained_format!r} is of a dictionary that is taken "
                "over; set pretrained too"
            )
        if self.skip_connection and self.output_site is None:
            raise ValueError("skip_connection is for transcoders; set output_site too")
        self._check_frozen()
        ordered = (0, *self.prefixes, self.d_sae)
        if any(low >= high for low, high in pairwise(ordered)):
            raise ValueError(
                f"prefixes = {list(self.prefixes)} must ascend and lie in 1..{self.d_sae - 1}"
            )
        if self.warmup_share + self.decay_share > 1:
            raise ValueError(
                f"warmup_share {self.warmup_share} + decay_share {self.decay_share} exceed 1"
            )
        return self

    def _check_frozen(self) -> None:
        if self.frozen == "none":
            return
        if self.pretrained is not None:
            raise ValueError(
                f"frozen = {self.frozen!r} is of a training, and pretrained = "
                f"{self.pretrained!r} is taken over as it is; leave one out"
            )
        if self.frozen == "all" and not self.by_number and self.wanted_l0 is None:
            raise ValueError(
                f"frozen = 'all' trains nothing that penalty = {self.penalty} could make sparse; "
                "set target_l0 in its place"
            )

    @property
    def by_number(self) -> bool:
        """Whether the architecture fixes how many latents fire; else a penalty makes them few."""
        return self.architecture in BY_NUMBER

    @property
    def wanted_l0(self) -> float | None:
        """Mean L0 that the penalty is steered to; None where k fixes it, or a penalty is given."""
        if self.by_number or self.target_l0 is not None:
            return self.target_l0
        return float(self.k) if self.penalty is None else None

    def label(self) -> str:
        """Architecture and sparsity at a glance: ``topk-32``, ``jumprelu-l0-32``, ``relu-0.1``,
        ``topk-32-frozen-decoder``; of a dictionary that others trained, ``pretrained``."""
        if self.pretrained is not None:
            return "pretrained"
        sparsity = f"l0-{self.wanted_l0:g}" if self.wanted_l0 is not None else f"{self.penalty}"
        still = "" if self.frozen == "none" else f"-frozen-{self.frozen}"
        return f"{self.architecture}-{self.k if self.by_number else sparsity}{still}"

    def _outside_key(self) -> set[str]:
        if self.pretrained is not None:  # nothing is trained
            return set(SaeConfig.model_fields) - {"pretrained", "pretrained_format", "output_site"}
        unused = super()._outside_key() | unused_by(self.architecture)
        if self.output_site is None:
            unused |= {"output_site", "skip_connection"}
        if self.patience is None:
            unused |= {"patience", "held_out_share"}
        return unused

    def key_fields(self) -> dict[str, Any]:
        """The fields that are part of the stage's key: none that mean nothing to these settings."""
        fields = super().key_fields()
        if "target_l0" in fields:
            fields["target_l0"] = self.wanted_l0  # k's part in it
        return fields


def _owners(field: FieldInfo) -> set[str] | None:
    extra = field.json_schema_extra
    owners = extra.get("only_of") if isinstance(extra, dict) else None
    return set(map(str, owners)) if isinstance(owners, list) else None


ONLY_OF = {
    name: owners
    for name, field in SaeConfig.model_fields.items()
    if (owners := _owners(field)) is not None
}
"""Fields of `SaeConfig` that mean something to some architectures alone, and to which."""


def unused_by(architecture: str) -> set[str]:
    """The fields of `SaeConfig` that mean nothing to an architecture."""
    return {name for name, owners in ONLY_OF.items() if architecture not in owners}
