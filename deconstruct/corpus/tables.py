"""Tables of the stage corpus."""

from dataclasses import replace

from deconstruct.artifacts.table import DOC_ID, TOKEN_INDEX, Column, Table

DOCUMENTS = Table(
    "documents",
    "The texts of a run's corpus.",
    ("doc_id",),
    (
        DOC_ID,
        Column("doc_key", "VARCHAR", "Digest of the text: the same in every corpus that holds it."),
        Column("split", "VARCHAR", "train or test (held out)."),
        Column("label", "VARCHAR", "Class of the document; null if it has none."),
        Column("text", "VARCHAR", "The whole text, also what max_tokens cut off."),
        Column("n_tokens", "UINTEGER", "Tokens kept of it, in all of its windows."),
        Column(
            "group_id",
            "UINTEGER",
            "The smallest doc_id of those it hangs together with: texts alike, or the rows of "
            "corpus.group_column. Groups share a split, and are what intervals draw; null in runs "
            "of older releases: coalesce(group_id, doc_id).",
            optional=True,
        ),
        Column(
            "metadata",
            "JSON",
            "Columns of the source that corpus.keep_columns names: metadata ->> 'author', "
            "(metadata ->> 'year')::INTEGER; null without.",
            stored="VARCHAR",
            optional=True,
        ),
    ),
    "documents.parquet",
    in_place=True,
)

TOKENS = Table(
    "tokens",
    "The tokens of a run's corpus, in order.",
    ("token_index",),
    (
        TOKEN_INDEX,
        DOC_ID,
        Column(
            "position",
            "UINTEGER",
            "Place in what the model reads at once, from 0: the document, or a window of it.",
        ),
        Column("token_id", "UINTEGER", "Number in the tokenizer's vocabulary."),
        Column("token", "VARCHAR", "The token's own text, leading space included."),
        Column("special", "BOOLEAN", "BOS, EOS or padding: never recorded, never trained on."),
    ),
    "tokens.parquet",
    in_place=True,
)

DOCUMENT_LABELS = Table(
    "document_labels",
    "What columns of labels say of a run's documents: a row per label. A document without a label "
    "has no row, but one that is known to have none of a list of labels has a row without value.",
    (),
    (
        DOC_ID,
        Column("task", "VARCHAR", "Column of the source that the label stands in."),
        Column(
            "kind",
            "VARCHAR",
            "class (one per document), multilabel (any number), number (a real value).",
        ),
        Column("value", "VARCHAR", "Name of the label, or the number: CAST(value AS DOUBLE)."),
    ),
    "document_labels.parquet",
    in_place=True,
    optional=True,
)
"""Of corpora with several columns of labels; of others ``documents`` has all that there is."""

WITH_GROUPS = replace(
    DOCUMENTS,
    columns=tuple(
        replace(column, optional=column.name == "metadata") for column in DOCUMENTS.columns
    ),
)
"""What the stage writes: releases before this one wrote no ``group_id``, which the store still
reads."""

DOCUMENT_METADATA = Table(
    "document_metadata",
    "The columns that are kept of a source's documents.",
    ("doc_id",),
    (DOC_ID, Column("metadata", "JSON", "Values by column.", stored="VARCHAR")),
    "document_metadata.parquet",
    in_place=True,
    optional=True,
)
"""Of corpora with ``keep_columns``: beside ``documents.parquet``, whose ``metadata`` it is in the
store. No relation of its own."""

TABLES = (DOCUMENTS, TOKENS, DOCUMENT_LABELS)

GROUPS = "groups.parquet"
"""Of corpora with a group column: ``group uint64``, a digest of each document's group; a row per
document. No table of the store."""

KEPT = "kept.parquet"
"""Of corpora whose tokens, put together, are not their texts: ``characters``, how many characters
of each document's text its tokens cover; a row per document. No table of the store."""

RECORDED = "recorded.parquet"
"""Of corpora of chats of which one role's messages are recorded: ``recorded bool``, whether a token
is of one; a row per token, in row groups as ``tokens.parquet`` has them. No table of the store."""
