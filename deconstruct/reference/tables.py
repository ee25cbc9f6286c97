"""Table of the stage reference."""

from deconstruct.artifacts.table import DOC_ID, Column, Table

DOCUMENT_LOSSES = Table(
    "document_losses",
    "What the model loses without any SAE, of the held-out documents whose losses are judged: sums "
    "over each document's predictions, in nats.",
    ("doc_id",),
    (
        DOC_ID,
        Column("predictions", "DOUBLE", "Predictions from recorded positions: what sums are over."),
        Column("clean", "DOUBLE", "Next-token loss of the model as it is."),
        Column("zero", "DOUBLE", "With zeros at every position of the site, as SAELens has it."),
        Column("kl_zero", "DOUBLE", "KL(clean || zero)."),
        Column(
            "zero_bos_kept",
            "DOUBLE",
            "With zeros at recorded positions alone; leading ones and special tokens stay clean.",
        ),
        Column("mean", "DOUBLE", "With the mean of the train rows at recorded positions."),
        Column(
            "token_lookup",
            "DOUBLE",
            "With the mean of the token's own train rows there: what is known without context. Of "
            "tokens that no train row has, the mean of all.",
        ),
        Column("pca", "DOUBLE", "With the 128 first principal components of the train rows there."),
        Column(
            "unigram",
            "DOUBLE",
            "Of how often each token is among the train rows, without any model; tokens that are "
            "not get the share that Witten and Bell (1991) leave them.",
        ),
    ),
    "document_losses.parquet",
)

TABLES = (DOCUMENT_LOSSES,)
