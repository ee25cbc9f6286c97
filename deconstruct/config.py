"""What a run is: one small frozen model per stage, read from TOML, checked before any work.

The configuration *is* the cache key: every field here can change a result, and what cannot
(device, number of workers, where the data root is) is not here but in the call.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from deconstruct.errors import ConfigError
from deconstruct.site import Site

Growth = Literal["anew", "encode", "retrain", "retrain-warm"]
"""What becomes of documents that an earlier run of the same name has seen; no part of a key."""


class Settings(BaseModel):
    """Base of all configuration: frozen, and it refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Settings):
    """Which language model is taken apart."""

    name: str = Field(
        "embedded:gemma-3-270m",
        description="A hub id ('openai-community/gpt2'), a local folder, or the embedded "
        "'embedded:gemma-3-270m'.",
    )
    revision: str | None = Field(None, description="Hub revision: a branch, a tag or a commit.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the forward pass; auto: bfloat16 where it is fast."
    )


class CorpusConfig(Settings):
    """Which labelled texts are read, and how they are split and tokenised."""

    source: str = Field(
        "embedded:bbc-news",
        description="A Parquet, CSV or JSONL file, a folder with one folder of .txt files a "
        "class, 'hub:<dataset id>', or the embedded 'embedded:bbc-news'.",
    )
    subset: str | None = Field(None, description="Hub only: the data set's configuration name.")
    revision: str | None = Field(None, description="Hub only: a branch, a tag or a commit.")
    splits: tuple[str, ...] = Field(
        ("train",), description="Hub only: which of its splits are read, one after another."
    )
    text_column: str = Field("text", description="Column that holds the text.")
    label_column: str | None = Field(
        "label", description="Column that holds the label; none: no probe, no label scores."
    )
    limit: int | None = Field(
        None, ge=1, description="Read at most this many documents, drawn evenly over the source."
    )
    max_tokens: int = Field(128, ge=2, description="Tokens kept of each document, BOS included.")
    prepend_bos: Literal["auto", "always", "never"] = Field(
        "auto", description="Begin documents with the BOS token; auto: as the tokenizer does."
    )
    test_share: float = Field(
        0.2, gt=0, lt=1, description="Share of the documents held out, by a digest of their text."
    )
    seed: int = Field(0, ge=0, description="Changes which documents are held out.")


class ActivationsConfig(Settings):
    """Which activations are recorded."""

    sites: tuple[str, ...] = Field(
        ("9.resid_post",),
        min_length=1,
        description="Hook sites '<layer>.<hook>' with hook resid_pre, resid_post, mlp_out or "
        "attn_out. All are read in one forward pass; each gets its own SAE.",
    )
    skip_positions: int = Field(
        1,
        ge=0,
        description="Leading positions of each document that are left out: the first token's "
        "activations are massive in most models and would rule every mean.",
    )
    shard_tokens: int = Field(
        32_768, ge=256, description="Tokens in one Parquet shard; the unit of resuming."
    )
    storage: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="float32: readable by DuckDB and pandas. bfloat16: raw 16-bit blobs, several "
        "times faster to read; for GPUs that outrun the reader.",
    )
    seed: int = Field(0, ge=0, description="Order in which documents are laid out over shards.")

    @field_validator("sites")
    @classmethod
    def _sites_parse(cls, sites: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(sites)) < len(sites):
            raise ValueError("a site is named twice; name each once")
        return tuple(str(Site.parse(site)) for site in sites)


BY_NUMBER = {"topk", "batchtopk", "matryoshka"}
PENALISED = {"relu", "gated", "jumprelu"}
ONLY_OF: Mapping[str, set[str]] = {
    "k": BY_NUMBER,
    "aux_k": BY_NUMBER,
    "prefixes": {"matryoshka"},
    "penalty": PENALISED,
    "penalty_warmup_share": PENALISED,
    "target_l0": PENALISED,
    "sparsity": {"jumprelu"},
    "bandwidth": {"jumprelu"},
}
"""Fields of `SaeConfig` that mean something to these architectures alone."""


class SaeConfig(Settings):
    """The sparse autoencoder, or transcoder, and its training."""

    architecture: Literal["topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu"] = Field(
        "topk",
        description="topk: the k largest pre-activations of a token. batchtopk: k a token on "
        "average. matryoshka: batchtopk with nested dictionaries. jumprelu: a learned threshold a "
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
    d_sae: int = Field(8192, ge=2, description="Number of latents.")
    k: int = Field(
        32,
        ge=1,
        description="topk: latents that fire on a token; batchtopk, matryoshka: on average. relu, "
        "gated, jumprelu: where neither penalty nor target_l0 is given, the L0 steered to.",
    )
    prefixes: tuple[int, ...] = Field(
        (),
        description="matryoshka: sizes of the nested dictionaries below d_sae, ascending; "
        "none: d_sae / 16, / 8, / 4 and / 2.",
    )
    penalty: float | None = Field(
        None,
        ge=0,
        description="relu, gated: weight of the L1 penalty, against an error that is 1 for the "
        "mean alone; none: 0.1, then steered. jumprelu: weight of a latent that fires; none: "
        "0.002, then steered.",
    )
    target_l0: float | None = Field(
        None,
        gt=0,
        description="relu, gated, jumprelu: mean L0 that the penalty is steered to; "
        "none: k, or, where a penalty is given, the penalty stays as it is.",
    )
    penalty_warmup_share: float = Field(
        0.1, ge=0, le=1, description="Share of the steps in which the penalty rises from zero."
    )
    sparsity: Literal["l0", "tanh"] = Field(
        "l0", description="jumprelu: what is penalised, the number that fire or a tanh of them."
    )
    bandwidth: float = Field(
        0.05, gt=0, description="jumprelu: width of the window about a threshold that moves it."
    )
    tokens: int = Field(1_000_000, ge=1, description="Tokens trained on, repeats included.")
    warm_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens of a training that starts from the standing SAE "
        "(--growth retrain-warm); none: a quarter of tokens.",
    )
    batch_size: int = Field(4096, ge=1, description="Tokens in one step.")
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
    warmup_share: float = Field(0.05, ge=0, le=1, description="Share of the steps of warm-up.")
    decay_share: float = Field(0.2, ge=0, le=1, description="Share of the steps of decay.")
    decay: Literal["linear", "cosine"] = Field("linear", description="Shape of the decay to zero.")
    aux_k: int | None = Field(
        None,
        ge=0,
        description="topk, batchtopk, matryoshka: dead latents that explain the residual of a "
        "token (AuxK); none: k. "
        "Gao et al.'s d_in / 2 left more latents dead on residual streams, and a higher error.",
    )
    aux_coefficient: float = Field(
        1 / 32,
        ge=0,
        description="Weight of the AuxK loss; relu, gated, jumprelu: of the pull on dead latents.",
    )
    dead_after_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens without firing after which a latent counts as dead; "
        "none: a tenth of the run, at most 10 million.",
    )
    clip_norm: float = Field(1.0, gt=0, description="Gradient clipping by global norm.")
    patience: int | None = Field(
        None,
        ge=1,
        description="Stop early once the held-out FVU, looked at 20 times in a run, has not fallen "
        "so often in a row; none: never.",
    )
    held_out_share: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Of the train split's tokens, in whole documents, kept out of training for "
        "patience to look at.",
    )
    seed: int = Field(0, ge=0, description="Initial weights and the order of the batches.")

    @field_validator("output_site")
    @classmethod
    def _output_site_parses(cls, site: str | None) -> str | None:
        return None if site is None else str(Site.parse(site))

    @model_validator(mode="after")
    def _fits(self) -> SaeConfig:
        by_number = self.architecture in BY_NUMBER
        if by_number and self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}; lower k")
        if by_number and self.target_l0 is not None:
            raise ValueError(
                f"target_l0 = {self.target_l0} is for relu, gated and jumprelu; "
                f"{self.architecture} fires k latents a token: set k"
            )
        if self.skip_connection and self.output_site is None:
            raise ValueError("skip_connection is for transcoders; set output_site too")
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

    @property
    def wanted_l0(self) -> float | None:
        """Mean L0 that the penalty is steered to; None where k fixes it, or a penalty is given."""
        if self.architecture in BY_NUMBER or self.target_l0 is not None:
            return self.target_l0
        return float(self.k) if self.penalty is None else None

    def label(self) -> str:
        """Architecture and sparsity at a glance: ``topk-32``, ``jumprelu-l0-32``, ``relu-0.1``."""
        if self.architecture in BY_NUMBER:
            return f"{self.architecture}-{self.k}"
        if self.wanted_l0 is not None:
            return f"{self.architecture}-l0-{self.wanted_l0:g}"
        return f"{self.architecture}-{self.penalty}"


class LatentsConfig(Settings):
    """How the trained SAE is applied to the corpus."""

    threshold: float = Field(0.0, ge=0, description="Weaker activations are not recorded.")


class EvaluationConfig(Settings):
    """How the SAE is judged, on held-out documents."""

    max_documents: int | None = Field(
        48,
        ge=2,
        description="Held-out documents run through the whole model, four times each, "
        "for the losses; none: all. Reconstruction is judged on all of them in any case.",
    )
    bootstrap: int = Field(1000, ge=10, description="Resamples of documents for intervals.")
    seed: int = Field(0, ge=0, description="Seed of the resampling.")


class ProbeConfig(Settings):
    """Linear probes of labels from pooled latents."""

    pooling: Literal["mean", "max"] = Field("mean", description="Of a document's tokens.")
    ks: tuple[int, ...] = Field(
        (1, 2, 5, 20), description="Sizes of the sparse probes, beside the one on all latents."
    )
    bootstrap: int = Field(1000, ge=10, description="Resamples of test documents for intervals.")
    seed: int = Field(0, ge=0, description="Seed of cross-validation and resampling.")


class ClusterConfig(Settings):
    """Clusters of documents by their latents."""

    k: int | None = Field(None, ge=2, description="Number of clusters; none: one a label, or 8.")
    top: int = Field(10, ge=1, description="Latents, keywords and texts listed for a cluster.")
    seed: int = Field(0, ge=0, description="Seed of k-means.")


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

    name: str = Field("default", min_length=1, max_length=100, description="What you call it.")
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
    def _transcoder_has_sites(self) -> RunConfig:
        output, sites = self.sae.output_site, self.activations.sites
        if output is not None and (output not in sites or len(sites) < 2):
            raise ValueError(
                f"sae.output_site = {output!r} must be one of activations.sites and not the only "
                f"one ({', '.join(sites)}); name input and output site there"
            )
        return self


Run = TypeVar("Run", bound=RunConfig)


def load(path: Path | str | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file (none: all defaults), then apply overrides such as ``"sae.k=64"``.

    See `load_as`.
    """
    return load_as(RunConfig, path, overrides)


def load_as(model: type[Run], path: Path | str | None = None, overrides: Iterable[str] = ()) -> Run:
    """The same for a configuration that has more stages than `RunConfig`.

    An override's value is read as TOML, and as plain text where it is none. Raises ``ConfigError``
    with one sentence a fault.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text())
        except OSError as error:
            raise ConfigError(f"config {str(path)!r} can't be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"config {str(path)!r} is not TOML: {error}") from error
    for override in overrides:
        _apply(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(fault, model) for fault in error.errors())) from error


def _apply(values: dict[str, Any], override: str) -> None:
    field, sign, text = override.partition("=")
    if not sign or not field:
        raise ConfigError(f"override {override!r} is not of the form stage.field=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = None if text in ("none", "null") else text
    *parents, last = field.strip().split(".")
    inner = values
    for parent in parents:
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {parent!r} has no fields")
    inner[last] = value


def _sentence(fault: Any, model: type[RunConfig]) -> str:
    """One of pydantic's faults as a sentence that names field, value and remedy."""
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        value = fault["input"]
        return f"{where or 'config'}: {message}" + (
            "" if isinstance(value, dict | BaseModel) else f" (found {value!r})"
        )
    *parents, last = fault["loc"]
    known = _fields(parents, model)
    close = difflib.get_close_matches(str(last), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{where}: no such field; {hint}known here: {', '.join(known)}"


def _fields(parents: list[Any], model: Any) -> list[str]:
    for parent in parents:
        model = model.model_fields[parent].annotation
    return list(model.model_fields)
