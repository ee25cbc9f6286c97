"""Settings of the stages, but for the autoencoder's."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

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

LabelKind = Literal["class", "multilabel", "number"]
"""What a column of labels holds: one class per document, a list of them, or a real value."""


class LabelColumn(NamedTuple):
    """A column of labels, and its kind where the configuration says it."""

    name: str
    kind: LabelKind | None = None

    @classmethod
    def of(cls, text: str) -> LabelColumn:
        """``"stars:number"`` is a column and its kind, any other text a column."""
        name, colon, last = text.rpartition(":")
        for kind in get_args(LabelKind):
            if colon and last == kind:
                return cls(name, kind)
        return cls(text)


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

    source: str | tuple[str, ...] = Field(
        "embedded:bbc-news",
        description="A Parquet, CSV, JSONL, JSON or .txt file, of text also as .gz or .zst; a "
        "pattern such as 'data/*.parquet', a folder of such files, or a list of these; a folder "
        "with one folder of .txt files per class; `hub:<dataset id>`; or the embedded "
        "'embedded:bbc-news'.",
        json_schema_extra=NO_KEY,
    )
    subset: str | None = Field(None, description="Hub only: the data set's configuration name.")
    revision: str | None = Field(
        None,
        description="Hub only: a branch, a tag or a commit.",
        json_schema_extra=NO_KEY,
    )
    splits: tuple[str, ...] = Field(
        ("train",),
        min_length=1,
        description="Hub only: which of its splits are read, one after another.",
    )
    text_column: str = Field("text", description="Column that holds the text.")
    label_column: str | None = Field(
        "label", description="Column that holds the label; none: no probe, no label scores."
    )
    label_columns: tuple[str, ...] = Field(
        (),
        description="Several columns of labels, each a task of its own. `label_column`, by default "
        "the first of them, is the task that headline figures, gates and clusters are about. Kinds "
        "are found: lists are multilabel; floats are numbers if one has a fraction; all else is "
        "classes. Said: 'stars:number', 'stars:class', 'tags:multilabel'.",
        json_schema_extra=KEY_WHERE_SET,
    )
    group_column: str | None = Field(
        None,
        description="Documents with the same value here are held out together or not at all, as "
        "those of one author or one conversation; a digest of the value decides.",
        json_schema_extra=KEY_WHERE_SET,
    )
    split_column: str | None = Field(
        None,
        description="Column with the source's own split, which is kept as it is: train or test (or "
        "validation, dev, ...: held out). Then test_share decides nothing.",
        json_schema_extra=KEY_WHERE_SET,
    )
    keep_columns: tuple[str, ...] = Field(
        (),
        description="Further columns that reach `documents.metadata` of the store, for SQL.",
        json_schema_extra=KEY_WHERE_SET,
    )
    txt_documents: Literal["file", "line"] = Field(
        "file",
        description="Of .txt files: whether each file is a document, or each line of one.",
        json_schema_extra=KEY_WHERE_SET,
    )
    roles: Literal["all", "assistant", "user", "system"] | None = Field(
        None,
        description="The text column holds chats, [{role, content}, ...], made texts by the "
        "tokenizer's chat template; activations are recorded of all their tokens, or of those in "
        "messages of one role alone.",
        json_schema_extra=KEY_WHERE_SET,
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=MOST_ROWS,
        description="Read at most this many documents, drawn evenly over the source.",
    )
    limit_from: Literal["whole", "beginning"] = Field(
        "whole",
        description="Whether `limit` is drawn over the whole source, or is its beginning. Of a hub "
        "data set the beginning alone is downloaded then, file by file.",
        json_schema_extra=KEY_WHERE_SET,
    )
    max_tokens: int = Field(
        128,
        ge=2,
        le=MOST_ROWS,
        description="Tokens kept of each document, or of each window of it, BOS included.",
    )
    long_documents: Literal["truncate", "split"] = Field(
        "truncate",
        description="What becomes of a document of more than max_tokens: cut off there, or split "
        "into windows of so many, which the model reads one by one, BOS before each. Documents "
        "stay whole for splits, probes, clusters and intervals.",
        json_schema_extra=KEY_WHERE_SET,
    )
    prepend_bos: Literal["auto", "always", "never"] = Field(
        "auto", description="Begin documents with the BOS token; auto: as the tokenizer does."
    )
    test_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the documents held out; a digest of the text decides which.",
    )
    seed: int = Field(0, ge=0, description="Changes which documents are held out.")

    @property
    def tasks(self) -> tuple[LabelColumn, ...]:
        """The columns of labels where there are several, `label_column` first; else none."""
        named = [LabelColumn.of(text) for text in self.label_columns]
        if not named or self.label_column is None:
            return tuple(named)
        first = LabelColumn(self.label_column, "class")
        first = next((one for one in named if one.name == self.label_column), first)
        return (first, *(one for one in named if one.name != first.name))

    @model_validator(mode="before")
    @classmethod
    def _first_label(cls, values: Any) -> Any:
        """Of several columns the first is `label_column`, where that is not said."""
        if not isinstance(values, dict) or "label_column" in values:
            return values
        columns = values.get("label_columns")
        if not isinstance(columns, list | tuple) or not columns or not isinstance(columns[0], str):
            return values
        return {**values, "label_column": LabelColumn.of(columns[0]).name}

    @field_validator("label_columns", "keep_columns")
    @classmethod
    def _each_once(cls, columns: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        labels = info.field_name == "label_columns"
        names = [LabelColumn.of(text).name if labels else text for text in columns]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"column {twice!r} is named twice; name each once")
        if "" in names:
            raise ValueError("a column has no name; leave it out")
        return columns

    @model_validator(mode="after")
    def _one_way_to_split(self) -> CorpusConfig:
        if self.group_column is not None and self.split_column is not None:
            raise ValueError(
                f"group_column {self.group_column!r} and split_column {self.split_column!r} would "
                "both decide what is held out; leave one out"
            )
        return self

    @property
    def place(self) -> str:
        """The source as one line."""
        return self.source if isinstance(self.source, str) else ", ".join(self.source)

    @model_validator(mode="after")
    def _sources_go_together(self) -> CorpusConfig:
        if isinstance(self.source, tuple):
            if not self.source:
                raise ValueError("source: an empty list; name a file")
            for one in self.source:
                if one.startswith(("hub:", "embedded:")) or not one.strip():
                    raise ValueError(
                        f"source: {one!r} is no file, folder or pattern, which alone stand in a "
                        "list; name it by itself"
                    )
        if self.limit_from == "beginning" and self.limit is None:
            raise ValueError("limit_from = 'beginning' says where limit begins; set limit too")
        return self


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
        description="Held-out documents (of split ones: windows) run through the whole model, four "
        "times each, for the losses; none: all. Reconstruction is judged on all of them in any "
        "case.",
    )
    bootstrap: int = Field(
        1000, ge=10, le=1_000_000, description="Resamples of documents for intervals."
    )
    seed: int = Field(0, ge=0, description="Seed of the resampling.")


class ProbeConfig(Settings):
    """Linear probes of labels from pooled latents."""

    pooling: Literal["mean", "max"] = Field(
        "mean", description="How the latents of a document's tokens become one row."
    )
    ks: tuple[int, ...] = Field(
        (1, 2, 5, 20), description="Sizes of the sparse probes, beside the one on all latents."
    )
    bootstrap: int = Field(
        1000, ge=10, le=1_000_000, description="Resamples of test documents for intervals."
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed of cross-validation and resampling."
    )

    @field_validator("ks")
    @classmethod
    def _sizes(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if any(k < 1 for k in ks):
            raise ValueError("a probe needs one latent at least; leave out what is below 1")
        if any(k > MOST_LATENTS for k in ks):
            raise ValueError(f"no SAE has more than {MOST_LATENTS} latents; leave out what is more")
        return ks


class ClusterConfig(Settings):
    """Clusters of documents by their latents."""

    k: int | None = Field(
        None, ge=2, le=MOST_ROWS, description="Number of clusters; none: one per label, or 8."
    )
    top: int = Field(
        10, ge=1, le=MOST_LATENTS, description="Latents, keywords and texts listed per cluster."
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of k-means.")
