"""Settings of what is read: the language model, and the texts of a corpus with their labels."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from deconstruct.config.base import (
    KEY_WHERE_SET,
    MOST_ROWS,
    NO_KEY,
    Settings,
)
from deconstruct.config.redrawn import named

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
        "'embedded:gemma-3-270m'. `random:<seed>:<name>`: any of these with its weights, but those "
        "of norms, drawn anew with their own means and standard deviations: a control.",
    )
    revision: str | None = Field(None, description="Hub revision: a branch, a tag or a commit.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the forward pass; auto: bfloat16 where it is fast."
    )

    @field_validator("name")
    @classmethod
    def _name_is_well_formed(cls, name: str) -> str:
        named(name)
        return name

    @property
    def redrawn(self) -> int | None:
        """The seed that its weights are drawn anew by; None: they are not."""
        return named(self.name).seed

    @property
    def itself(self) -> str:
        """The name of the model that is read, whatever becomes of its weights."""
        return named(self.name).itself


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
