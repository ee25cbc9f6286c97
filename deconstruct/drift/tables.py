"""Tables of the stage drift."""

from deconstruct.artifacts.table import LATENT, Column, Table

DRIFT = Table(
    "drift",
    "Documents that came after the SAE was trained, beside those it was trained among; of runs "
    "that kept a standing SAE.",
    ("subject", "metric"),
    (
        Column("subject", "VARCHAR", "reconstruction, label share or distance."),
        Column(
            "metric",
            "VARCHAR",
            "fvu_train_mean (about the mean of the train rows on both sides, where the fvu of "
            "sae_metrics is about that of the rows judged), l0, ...; the label; what the distance "
            "is between.",
        ),
        Column(
            "reference", "DOUBLE", "Value on the documents it was trained among (held-out ones)."
        ),
        Column(
            "current",
            "DOUBLE",
            "Value on the documents since; of a distance, the distance in bits.",
        ),
        Column("difference", "DOUBLE", "current - reference."),
        Column(
            "ci_low", "DOUBLE", "Lower end of the difference's 95% interval; null if it has none."
        ),
        Column("ci_high", "DOUBLE", "Upper end of it."),
        Column("n_reference", "UBIGINT", "Tokens, documents or firings of the reference."),
        Column("n_current", "UBIGINT", "The same of the documents since."),
    ),
    "drift.parquet",
)

LATENT_DRIFT = Table(
    "latent_drift",
    "How often each latent fires, before and since; of runs that kept a standing SAE.",
    ("latent",),
    (
        LATENT,
        Column(
            "reference_density", "DOUBLE", "Share of the reference's recorded tokens it fires on."
        ),
        Column("current_density", "DOUBLE", "The same of the documents since."),
        Column(
            "log2_ratio",
            "DOUBLE",
            "log2(current / reference), half a firing on the side of fewer tokens added to both "
            "shares; 0 where the latent is silent on both.",
        ),
    ),
    "latent_drift.parquet",
    in_place=True,
)

TABLES = (DRIFT, LATENT_DRIFT)
