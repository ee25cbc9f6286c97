"""What is known of single latents, as tables: written by the stages latents and evaluation."""

from deconstruct.artifacts.table import LATENT, Column, Table

FEATURES = Table(
    "features",
    "One row for each latent: how often and on what it fires, and its place in the dictionary.",
    ("latent",),
    (
        LATENT,
        Column("n_fires", "UBIGINT", "Tokens on which it fires, over the whole corpus."),
        Column("density", "DOUBLE", "Share of the recorded tokens on which it fires."),
        Column("n_documents", "UINTEGER", "Documents in which it fires."),
        Column("mean_activation", "FLOAT", "Mean of its activations where it fires."),
        Column("max_activation", "FLOAT", "Strongest activation."),
        Column("top_token", "VARCHAR", "Token on which it fires most often."),
        Column("top_token_share", "FLOAT", "Share of its firings that are on top_token."),
        Column("dead", "BOOLEAN", "It never fires in the corpus."),
        Column("decoder_norm", "FLOAT", "Length of its decoder row."),
        Column("encoder_decoder_cosine", "FLOAT", "Cosine of its encoder and decoder directions."),
        Column(
            "nearest_latent", "UINTEGER", "Latent whose decoder row points most nearly its way."
        ),
        Column("nearest_cosine", "FLOAT", "Cosine to that one: near 1 for duplicates."),
    ),
    "features.parquet",
)

DIRECTIONS = Table(
    "directions",
    "The decoder row of each latent: what it adds to the activation, for comparing latents.",
    ("latent",),
    (
        LATENT,
        Column(
            "decoder", "FLOAT[]", "Its decoder row, d_in numbers, as trained (not of unit length)."
        ),
    ),
    "directions.parquet",
    in_place=True,
)

FEATURE_LOGITS = Table(
    "feature_logits",
    "Tokens of the corpus that a latent's decoder row promotes and suppresses most, were it alone "
    "at the model's end (logit lens): a hint, the less to be trusted the earlier the layer.",
    ("latent", "direction", "rank"),
    (
        LATENT,
        Column("direction", "VARCHAR", "promoted or suppressed."),
        Column("rank", "UINTEGER", "1 for the strongest."),
        Column("token_id", "UINTEGER", "Number in the tokenizer's vocabulary."),
        Column("token", "VARCHAR", "The token's own text."),
        Column("logit", "FLOAT", "The token's logit less the mean over all tokens of the corpus."),
    ),
    "feature_logits.parquet",
    in_place=True,
)
