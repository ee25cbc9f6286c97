"""Tables of the stage evaluation."""

from deconstruct.artifacts.table import TOKEN_INDEX, Column, Table
from deconstruct.features.tables import FEATURE_LOGITS

SAE_METRICS = Table(
    "sae_metrics",
    "How good the SAE is, on held-out documents.",
    ("metric",),
    (
        Column("metric", "VARCHAR", "What is measured: fvu, l0, loss_recovered, ..."),
        Column("value", "DOUBLE", "The estimate."),
        Column("ci_low", "DOUBLE", "Lower end of its 95% interval; null if it has none."),
        Column("ci_high", "DOUBLE", "Upper end of it."),
        Column("n", "UBIGINT", "Tokens, documents or latents that it is taken over."),
        Column("unit", "VARCHAR", "Unit of the value."),
        Column("note", "VARCHAR", "How it is defined."),
    ),
    "metrics.parquet",
)

DENSITY_HISTOGRAM = Table(
    "density_histogram",
    "How many latents fire how often: counts over bins of log10 density.",
    ("low",),
    (
        Column("low", "DOUBLE", "Lower edge of the bin, log10 of the density."),
        Column("high", "DOUBLE", "Upper edge."),
        Column("latents", "UBIGINT", "Latents in the bin.", stored="UINTEGER"),
    ),
    "density_histogram.parquet",
)

TOKEN_ERRORS = Table(
    "token_errors",
    "Reconstruction error of each held-out token.",
    ("token_index",),
    (
        TOKEN_INDEX,
        Column("squared_error", "FLOAT", "Squared distance of activation and reconstruction."),
        Column("squared_norm", "FLOAT", "Squared length of the activation."),
    ),
    "token_errors.parquet",
    in_place=True,
)

TABLES = (FEATURE_LOGITS, SAE_METRICS, DENSITY_HISTOGRAM, TOKEN_ERRORS)
