"""Tables of the stage corpus."""

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
        Column("n_tokens", "UINTEGER", "Tokens kept of it."),
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
        Column("position", "UINTEGER", "Place in the document, from 0."),
        Column("token_id", "UINTEGER", "Number in the tokenizer's vocabulary."),
        Column("token", "VARCHAR", "The token's own text, leading space included."),
        Column("special", "BOOLEAN", "BOS, EOS or padding: never recorded, never trained on."),
    ),
    "tokens.parquet",
    in_place=True,
)

TABLES = (DOCUMENTS, TOKENS)

KEPT = "kept.parquet"
"""Of corpora whose tokens, put together, are not their texts: ``characters``, how many characters
of each document's text its tokens cover; a row per document. No table of the store."""
