"""Settings of the stages after the corpus, but for the autoencoder's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from deconstruct.common.site import Site
from deconstruct.config.base import (
    KEY_WHERE_SET,
    LARGEST_SEED,
    MOST_LATENTS,
    MOST_ROWS,
    MOST_TOKENS,
    NO_KEY,
    Settings,
)

TokenTask = Literal["capitalised", "number", "punctuation", "word_start"]
"""What is asked of a token: whether it begins with a capital, has a digit, is of punctuation alone,
begins a word."""


class ActivationsConfig(Settings):
    """Which activations are recorded."""

    sites: tuple[str, ...] = Field(
        ("9.resid_post",),
        min_length=1,
        description="Hook sites `<layer>.<hook>` with hook resid_pre, resid_post, mlp_out, "
        "attn_out or mlp_in. All are read in one forward pass; each gets its own SAE.",
        json_schema_extra=NO_KEY,
    )
    skip_positions: int = Field(
        1,
        ge=0,
        le=MOST_ROWS,
        description="Leading positions of each document that are left out: the first token's "
        "activations are massive in most models and would rule every mean.",
    )
    shard_tokens: int = Field(
        32_768,
        ge=256,
        le=MOST_ROWS,
        description="Tokens in one Parquet shard; the unit of resuming.",
    )
    storage: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="float32: readable by DuckDB and pandas. bfloat16: raw 16-bit blobs, several "
        "times faster to read; for GPUs that outrun the reader.",
    )
    seed: int = Field(0, ge=0, description="Order in which documents are laid out over shards.")
    keep: Literal["all", "window"] = Field(
        "all",
        description="all: recorded on disk, then trained on. window: of the training corpus, "
        "computed while training and kept nowhere, so that disk and memory do not grow with it; "
        "it needs an `[[analysis]]`, whose own are recorded.",
        json_schema_extra=NO_KEY,
    )
    window_shards: int = Field(
        4,
        ge=1,
        le=MOST_ROWS,
        description="With keep = 'window': shards in memory at a time, as float32, among which "
        "batches are drawn.",
        json_schema_extra=NO_KEY,
    )
    window_moment_tokens: int = Field(
        131_072,
        ge=1,
        le=MOST_TOKENS,
        description="With keep = 'window': tokens, the first as documents are laid out, whose mean "
        "and variance all activations are scaled by.",
        json_schema_extra=NO_KEY,
    )

    @field_validator("sites")
    @classmethod
    def _sites_parse(cls, sites: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(sites)) < len(sites):
            raise ValueError("a site is named twice; name each once")
        return tuple(str(Site.parse(site)) for site in sites)


class LatentsConfig(Settings):
    """How the trained SAE is applied to the corpus."""

    threshold: float = Field(
        0.0, ge=0, description="Activations that are not above this are not recorded."
    )


class EvaluationConfig(Settings):
    """How the SAE is judged, on held-out documents."""

    max_documents: int | None = Field(
        48,
        ge=2,
        le=MOST_ROWS,
        description="Held-out documents (of split ones: windows) run through the whole model for "
        "the losses, with the SAE and without; none: all. Reconstruction is judged on all of them "
        "in any case. Of each source of `other`, how many documents are read.",
    )
    outlier_multiple: float = Field(
        10,
        gt=1,
        description="A token is an outlier if its activation is so many times as far from the "
        "train rows' mean, squared, as their median; fvu_typical leaves outliers out.",
    )
    other: tuple[str, ...] = Field(
        (),
        description="Further sources, as in corpus.source, that the SAE is judged on without "
        "training: their texts are cut into tokens as the corpus' are.",
    )
    bootstrap: int = Field(
        1000, ge=10, le=1_000_000, description="Resamples of documents for intervals."
    )
    seed: int = Field(0, ge=0, description="Seed of the resampling.")

    @field_validator("other")
    @classmethod
    def _told_apart(cls, other: tuple[str, ...]) -> tuple[str, ...]:
        for one in other:
            if not one.strip():
                raise ValueError("a source has no name; name a file, a folder or a data set")
            if one == "own":
                raise ValueError(
                    "'own' is what the run's own documents are called in the store; write './own'"
                )
            if other.count(one) > 1:
                raise ValueError(f"{one!r} is named twice; name each source once")
        return other


class ProbeConfig(Settings):
    """Linear probes of labels from pooled latents, beside baselines."""

    pooling: Literal["mean", "max"] = Field(
        "mean", description="How the latents of a document's tokens become one row."
    )
    ks: tuple[int, ...] = Field(
        (1, 2, 5, 20, 100),
        description="Sizes of the sparse probes, beside the one on all dimensions: each reads the "
        "dimensions that tell its own label best from all others.",
    )
    token_tasks: tuple[TokenTask, ...] = Field(
        (),
        description="What single tokens are probed for, on latents and activations: capitalised, "
        "number, punctuation, word_start.",
    )
    max_documents: int = Field(
        4000,
        ge=4,
        le=MOST_ROWS,
        description="Train documents that probes are fitted on, and held-out ones that they are "
        "tested on, at most: those whose text has the smallest digest.",
    )
    bootstrap: int = Field(
        1000, ge=10, le=1_000_000, description="Resamples of test documents for intervals."
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed of cross-validation and resampling."
    )
    shuffle_labels: bool = Field(
        False,
        description="Deal each document the label of another one of its split: a control, whose "
        "scores are those of chance.",
        json_schema_extra=KEY_WHERE_SET,
    )

    @field_validator("ks")
    @classmethod
    def _sizes(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if any(k < 1 for k in ks):
            raise ValueError("a probe needs one dimension at least; leave out what is below 1")
        if any(k > MOST_LATENTS for k in ks):
            raise ValueError(f"no SAE has more than {MOST_LATENTS} latents; leave out what is more")
        return ks


class ClusterConfig(Settings):
    """Clusters of documents by their latents."""

    k: int | None = Field(
        None,
        ge=2,
        le=MOST_ROWS,
        description="Number of clusters; none: the largest of 2 to 24 that is as stable as any, "
        "whatever the labels.",
    )
    fits: int = Field(
        20,
        ge=3,
        le=1000,
        description="Fits on 80% of the documents each (of their groups, where they have some): "
        "they tell how stable clusters are.",
    )
    max_documents: int = Field(
        4000,
        ge=10,
        le=50_000,
        description="Documents that are fitted: of more, those of the smallest digests; all others "
        "are assigned to the nearest centre. Memory grows with its square.",
    )
    latents: int | None = Field(
        None,
        ge=2,
        le=MOST_LATENTS,
        description="Number of clusters of latents by decoder direction; none: latents are not "
        "grouped.",
    )
    top: int = Field(
        10, ge=1, le=MOST_LATENTS, description="Latents, keywords and texts listed per cluster."
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of k-means.")


class InterpretationConfig(Settings):
    """How clear single latents are, on held-out documents."""

    latents: int = Field(
        1000, ge=1, le=MOST_LATENTS, description="Latents that are scored: a sample of the living."
    )
    quantiles: int = Field(
        5,
        ge=1,
        le=100,
        description="Parts of equal count that a latent's activations are cut into.",
    )
    trials: int = Field(
        4,
        ge=1,
        le=1000,
        description="Trials in each of them, of four firing contexts and a silent one.",
    )
    width: int = Field(
        10, ge=1, le=1000, description="Tokens on each side of the one that a context is about."
    )
    max_documents: int = Field(
        4000,
        ge=1,
        le=MOST_ROWS,
        description="Held-out documents that contexts are taken from, at most.",
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of all that is drawn.")


class MapConfig(Settings):
    """Places in the plane for documents and latents, and what else is looked at."""

    enabled: bool = Field(
        True,
        description="Whether runs have it. It changes no other stage, and no run's id.",
        json_schema_extra=NO_KEY,
    )
    max_documents: int = Field(
        10_000,
        ge=10,
        le=50_000,
        description="Documents that are laid out: of more, those of the smallest digests; all "
        "others come to where those are that they are most like.",
    )
    max_latents: int = Field(
        20_000,
        ge=10,
        le=50_000,
        description="Latents that are laid out: of more that fire, a sample.",
    )
    components: int = Field(
        40, ge=2, le=1000, description="Principal axes that neighbours are told by."
    )
    perplexity: float = Field(
        30, gt=1, le=1000, description="About how many neighbours each point is kept near to."
    )
    iterations: int = Field(
        300, ge=10, le=100_000, description="Of t-SNE, after the first 250 that pull groups apart."
    )
    massive_multiple: float = Field(
        10,
        gt=1,
        description="A token is massive if its activation is so many times as far from the train "
        "rows' mean, squared, as their median: as evaluation.outlier_multiple.",
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of all that is drawn.")


class ExplanationConfig(Settings):
    """What a language model is asked about latents, by `deconstruct explain`; no part of a run."""

    endpoint: str | None = Field(
        None,
        description="Address of an endpoint that speaks as OpenAI's, up to `/chat/completions`, as "
        "in `http://localhost:8000/v1`. A key is read from the environment variable "
        "`DECONSTRUCT_ENDPOINT_KEY` alone.",
        json_schema_extra=NO_KEY,
    )
    model: str | None = Field(None, description="The model to ask, as the endpoint calls it.")
    latents: int = Field(
        20,
        ge=1,
        le=MOST_LATENTS,
        description="Latents that are asked about: a sample of the living.",
    )
    only: tuple[int, ...] = Field((), description="These latents in the place of a sample.")
    shown: int = Field(
        20, ge=1, le=1000, description="Contexts of train documents that an explanation is made of."
    )
    scored: int = Field(
        10,
        ge=1,
        le=1000,
        description="Held-out contexts of each kind, true and false, by which it is scored.",
    )
    trials: int = Field(1, ge=0, le=1000, description="Intruder trials in each quantile; 0: none.")
    batch: int = Field(5, ge=1, le=100, description="Contexts that are judged by one answer.")
    at_once: int = Field(
        4,
        ge=1,
        le=64,
        description="Questions that wait for an answer at a time.",
        json_schema_extra=NO_KEY,
    )
    quantiles: int = Field(
        5,
        ge=1,
        le=100,
        description="Parts of equal count that a latent's activations are cut into.",
    )
    width: int = Field(
        10, ge=1, le=1000, description="Tokens on each side of the one that a context is about."
    )
    max_documents: int = Field(
        4000,
        ge=1,
        le=MOST_ROWS,
        description="Documents of each split that contexts are taken from.",
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of all that is drawn.")

    @field_validator("endpoint")
    @classmethod
    def _without_a_key(cls, endpoint: str | None) -> str | None:
        """A configuration is kept, in the store and by the server: no key is to stand in it."""
        if endpoint is not None and any(mark in endpoint for mark in "@?#"):
            raise ValueError(
                "it has a key or a query in it; leave them out, and put the key into the "
                "environment variable DECONSTRUCT_ENDPOINT_KEY"
            )
        return endpoint

    @field_validator("only")
    @classmethod
    def _are_latents(cls, only: tuple[int, ...]) -> tuple[int, ...]:
        wrong = next((latent for latent in only if not 0 <= latent < MOST_LATENTS), None)
        if wrong is not None:
            raise ValueError(f"{wrong} is the number of no latent; they are 0 to d_sae - 1")
        return only
