"""Tables of the stage matching; the store's rows have ``other_run`` beside ``run_id``."""

from deconstruct.artifacts.table import LATENT, Column, Table

LATENT_MATCHES = Table(
    "latent_matches",
    "The latents of a run and their partners in another, one to one, so that the sum of their "
    "decoder rows' cosines is as large as it can be; made by deconstruct match.",
    ("latent",),
    (
        LATENT,
        Column(
            "other_latent",
            "UINTEGER",
            "Its partner in other_run; null where either is dead, or other_run has too few.",
        ),
        Column("cosine", "DOUBLE", "Cosine of the two decoder rows; null without a partner."),
        Column(
            "correlation",
            "DOUBLE",
            "Pearson correlation of their activations over the held-out tokens that both runs "
            "recorded; null without a partner, of other texts, or where either is silent there.",
        ),
        Column(
            "max_cosine",
            "DOUBLE",
            "Largest cosine with any living latent of other_run, whoever its partner is; null of "
            "a dead latent.",
        ),
    ),
    "latent_matches.parquet",
    paired=True,
)

MATCHING_METRICS = Table(
    "matching_metrics",
    "How much of a run's dictionary is found again in another, beside what chance gives.",
    ("metric",),
    (
        Column(
            "metric",
            "VARCHAR",
            "pw_mcc, mean_max_cosine and share_over_0.7, each with _null (random rows) and "
            "_calibrated ((value - null) / (1 - null)); mean_correlation.",
        ),
        Column("value", "DOUBLE", "Its value; null where there is none."),
        Column("n", "UBIGINT", "Latents or pairs that it is about."),
    ),
    "matching_metrics.parquet",
    paired=True,
)

TABLES = (LATENT_MATCHES, MATCHING_METRICS)
