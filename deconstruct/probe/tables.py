"""Tables of the stage probe."""

from deconstruct.artifacts.table import DOC_ID, LATENT, Column, Table

TASK = Column("task", "VARCHAR", "Column of the labels that are probed.", optional=True)
"""In files where there are several."""
REPRESENTATION = Column(
    "representation",
    "VARCHAR",
    "majority, length, tfidf, token_embeddings, activations, pca, random_projection or latents.",
)
K = Column(
    "k", "UINTEGER", "Dimensions that a sparse probe reads, chosen for its class; null: all."
)

PROBES = Table(
    "probes",
    "How well labels are read off pooled documents, on held-out ones, with baselines.",
    (),
    (
        TASK,
        Column(
            "target",
            "VARCHAR",
            "The one label of a probe that tells it from all others; null: all probes together.",
        ),
        REPRESENTATION,
        K,
        Column("label", "VARCHAR", "Label that the value is for; null: all labels together."),
        Column("metric", "VARCHAR", "accuracy, macro_f1, auroc, balanced_accuracy, r2, ..."),
        Column("value", "DOUBLE", "The estimate."),
        Column("ci_low", "DOUBLE", "Lower end of its 95% interval."),
        Column("ci_high", "DOUBLE", "Upper end of it."),
        Column("n_train", "UINTEGER", "Documents trained on; of token tasks: tokens."),
        Column("n_test", "UINTEGER", "Documents tested on; of token tasks: tokens."),
        Column("seed", "UINTEGER", "Seed of sample, folds and directions; null before schema 6."),
    ),
    "probes.parquet",
)

PROBE_WEIGHTS = Table(
    "probe_weights",
    "Weights of the probes on all latents, each of which tells one label from all others.",
    ("task", "label", "latent"),
    (
        TASK,
        Column("label", "VARCHAR", "Label whose score the weight adds to."),
        LATENT,
        Column("weight", "DOUBLE", "Its weight, per unit of pooled activation."),
        Column(
            "effect", "DOUBLE", "Weight per standard deviation of the latent's pooled activation."
        ),
        Column("rank", "UINTEGER", "Its place among the label's effects, whatever their sign."),
    ),
    "probe_weights.parquet",
)

PROBE_SCORES = Table(
    "probe_scores",
    "What each probe says about each held-out document: a row per label that a document may have.",
    (),
    (
        TASK,
        REPRESENTATION,
        K,
        Column(
            "target",
            "VARCHAR",
            "Label that the score is for; null where a number is told, and, before schema 6, for "
            "all labels but the predicted one together.",
        ),
        DOC_ID,
        Column(
            "score",
            "DOUBLE",
            "Log odds that the document has the label; of a column of numbers the number.",
        ),
        Column("truth", "DOUBLE", "1 if it has the label, 0 if not; or its number."),
    ),
    "probe_scores.parquet",
)

PROBE_CURVE = Table(
    "probe_curve",
    "How well labels are read off after few train documents: the macro AUROC on all held-out ones.",
    (),
    (
        TASK,
        REPRESENTATION,
        Column("n", "UINTEGER", "Train documents of each class."),
        Column("draw", "UINTEGER", "Which documents: the same of all representations."),
        Column("value", "DOUBLE", "Mean over the classes of the area under the ROC curve."),
    ),
    "probe_curve.parquet",
)

TABLES = (PROBES, PROBE_WEIGHTS, PROBE_SCORES, PROBE_CURVE)
