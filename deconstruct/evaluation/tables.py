"""Tables of the stage evaluation."""

from deconstruct.artifacts.table import TOKEN_INDEX, Column, Table
from deconstruct.features.tables import FEATURE_LOGITS

OWN = "own"
"""What the run's own held-out documents are called among texts."""

SAE_METRICS = Table(
    "sae_metrics",
    "How good the SAE is, on held-out documents and on the other texts of evaluation.other.",
    ("text", "metric"),
    (
        Column("text", "VARCHAR", "own: the corpus' held-out documents; or the other source."),
        Column("metric", "VARCHAR", "What is measured: fvu_typical, l0, delta_loss, kl, ..."),
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

DOCUMENT_METRICS = Table(
    "document_metrics",
    "Sums over the tokens of each document that the SAE is judged on: metrics are ratios of them "
    "(fvu_typical = sum(error_typical) / sum(variance_typical)), and two runs are compared on the "
    "documents that both judged.",
    ("text", "doc_id"),
    (
        Column("text", "VARCHAR", "As in sae_metrics."),
        Column("doc_id", "UINTEGER", "Document of the run's corpus; of other texts, its place."),
        Column("tokens", "DOUBLE", "Recorded tokens."),
        Column("tokens_typical", "DOUBLE", "Those that are no outliers."),
        Column("error", "DOUBLE", "Squared distance of activation and reconstruction."),
        Column("variance", "DOUBLE", "Squared distance of activation and mean of the text."),
        Column("error_typical", "DOUBLE", "error of the typical tokens alone."),
        Column("variance_typical", "DOUBLE", "variance of those, about their own mean."),
        Column("fires", "DOUBLE", "Latents that fire, over tokens."),
        Column(
            "predictions",
            "DOUBLE",
            "Predictions whose loss is judged; null, as the rest, where the document's is not.",
        ),
        Column("clean", "DOUBLE", "Next-token loss of the model as it is, in nats."),
        Column("spliced", "DOUBLE", "The same with the reconstruction in place."),
        Column("kl", "DOUBLE", "KL(clean || spliced), in nats."),
        Column("top1", "DOUBLE", "Predictions whose likeliest token stays the same."),
    ),
    "document_metrics.parquet",
)

TABLES = (FEATURE_LOGITS, SAE_METRICS, DOCUMENT_METRICS, DENSITY_HISTOGRAM, TOKEN_ERRORS)
