"""Tables of the stage probe."""

from deconstruct.artifacts.table import DOC_ID, LATENT, Column, Table

TASK = Column("task", "VARCHAR", "Column of the labels that are probed.", optional=True)
"""In files where there are several."""

PROBES = Table(
    "probes",
    "How well labels are read off pooled documents, on held-out ones, with baselines.",
    (),
    (
        TASK,
        Column("representation", "VARCHAR", "latents, activations, tfidf or majority."),
        Column("k", "UINTEGER", "Latents that the sparse probe may use; null: all of them."),
        Column("label", "VARCHAR", "Class that the value is for; null: all classes together."),
        Column("metric", "VARCHAR", "accuracy, f1, auroc, ..."),
        Column("value", "DOUBLE", "The estimate."),
        Column("ci_low", "DOUBLE", "Lower end of its 95% interval."),
        Column("ci_high", "DOUBLE", "Upper end of it."),
        Column("n_train", "UINTEGER", "Documents trained on."),
        Column("n_test", "UINTEGER", "Documents tested on."),
    ),
    "probes.parquet",
)

PROBE_WEIGHTS = Table(
    "probe_weights",
    "Weights of the probe on all latents.",
    ("task", "label", "latent"),
    (
        TASK,
        Column("label", "VARCHAR", "Class whose score the weight adds to."),
        LATENT,
        Column("weight", "DOUBLE", "Its weight, per unit of pooled activation."),
        Column(
            "effect", "DOUBLE", "Weight per standard deviation of the latent's pooled activation."
        ),
        Column("rank", "UINTEGER", "Its place among the label's effects, whatever their sign."),
    ),
    "probe_weights.parquet",
)

PROBE_PREDICTIONS = Table(
    "probe_predictions",
    "What each probe says about each held-out document.",
    (),
    (
        TASK,
        Column("representation", "VARCHAR", "latents, activations, tfidf or majority."),
        Column("k", "UINTEGER", "Latents that the sparse probe may use; null: all of them."),
        DOC_ID,
        Column("label", "VARCHAR", "The document's class."),
        Column("predicted", "VARCHAR", "The class that the probe gives it."),
        Column("probability", "DOUBLE", "How sure the probe is of that."),
    ),
    "probe_predictions.parquet",
)

TABLES = (PROBES, PROBE_WEIGHTS, PROBE_PREDICTIONS)
