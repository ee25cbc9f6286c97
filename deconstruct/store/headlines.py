"""The figures that tell of a run at a glance, each named once.

The columns of ``runs``, what fills them after loading, the pages ``runs`` and ``show``, the summary
of a finished run and the gates are made of this list. One with a column of its own is a change of
the schema (`migrate`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Headline:
    """One figure of a run.

    name: of its column in ``runs``, and of its gate. label: for people. table, where: the row that
    has it, its ``value`` and, if it has one, its interval. comment: of the column; None: it has
    none. heading: of the column in the list of runs; empty: the list is without it. stage, fact:
    where the figure stands among a stage's facts; None: nowhere, so that no gate can be about it.
    reading: which end is the better one, or what else it stands there for, in words to be set
    beside it; empty: nothing of both.
    """

    name: str
    label: str
    table: str
    where: str
    comment: str | None = None
    heading: str = ""
    stage: str = ""
    fact: str | None = None
    reading: str = ""

    @property
    def column(self) -> bool:
        """Whether ``runs`` has it."""
        return self.comment is not None

    def select(self, *columns: str) -> str:
        """A query for its row of a run ``$run_id``."""
        return (
            f"SELECT {', '.join(columns)} FROM {self.table} WHERE run_id = $run_id AND {self.where}"
        )


FIRST_TASK = "task = (SELECT r.label_column FROM runs AS r WHERE r.run_id = $run_id)"
"""Of rows about a column of labels: the first column's."""
LOWER, HIGHER, BASELINE = "lower is better", "higher is better", "a baseline"


def _metric(
    name: str, label: str, reading: str, comment: str | None = None, heading: str = ""
) -> Headline:
    where = f"text = 'own' AND metric = '{name}'"
    return Headline(
        name, label, "sae_metrics", where, comment, heading, "evaluation", name, reading
    )


def _probe(representation: str, reading: str, comment: str | None = None) -> Headline:
    has_column = comment is not None
    return Headline(
        "probe_accuracy" if has_column else f"probe_accuracy_{representation}",
        f"probe accuracy on {representation}",
        "probes",
        f"k IS NULL AND label IS NULL AND metric = 'accuracy' AND {FIRST_TASK} "
        f"AND representation = '{representation}'",
        comment,
        "probe",
        "probe",
        "accuracy" if has_column else None,
        reading,
    )


CLUSTERS_OF_THE_RUN = "representation = 'latents' AND kind = 'value'"
"""Of rows of cluster_metrics: what was found, not what stands beside it for comparison."""


def _cluster(name: str, label: str, comment: str | None = None) -> Headline:
    where = f"{CLUSTERS_OF_THE_RUN} AND metric = '{name}'"
    table = "cluster_metrics"
    return Headline(name, label, table, where, comment, name, "cluster", name, HIGHER)


HEADLINES = (
    _metric(
        "fvu_typical",
        "variance unexplained, no outliers",
        LOWER,
        "Share of the held-out activations' variance that is not explained, without outliers: "
        "tokens that are far from the mean, few and easily rendered. null before schema 6.",
        "typical",
    ),
    _metric(
        "fvu",
        "variance unexplained, all tokens",
        LOWER,
        "Share of the held-out activations' variance that is not explained, outliers included, "
        "which may hold most of it.",
    ),
    _metric(
        "l0",
        "latents that fire on a token",
        "",
        "Mean number of latents that fire on a held-out token.",
        "l0",
    ),
    _metric(
        "silent_share",
        "latents silent on held-out tokens",
        LOWER,
        "Share of latents that fire on no held-out token; null before schema 6.",
        "silent",
    ),
    _metric(
        "dead_share",
        "latents that never fire (dead)",
        LOWER,
        "Share of latents that fire on no recorded token of the corpus, train or test.",
        "dead",
    ),
    _metric(
        "delta_loss",
        "loss added to the model, in nats",
        LOWER,
        "Nats that the model's next-token loss grows by when the SAE is spliced in.",
        "delta",
    ),
    _metric(
        "kl",
        "KL from the model, in nats",
        LOWER,
        "KL divergence of the spliced model's predictions from the model's own, in nats.",
        "kl",
    ),
    _metric(
        "top1_agreement",
        "likeliest next tokens that stay",
        HIGHER,
        "Share of predictions whose likeliest token the spliced SAE leaves as it was; null before "
        "schema 6.",
        "top1",
    ),
    _metric("loss_clean", "loss of the model alone, in nats", BASELINE),
    _metric("loss_token_lookup", "loss by a lookup of the token", BASELINE),
    _metric("loss_pca", "loss by principal components", BASELINE),
    _metric("ce_loss_score", "loss recovered, as SAELens has it", HIGHER),
    _metric(
        "loss_recovered_bos_kept",
        "loss recovered, first tokens kept",
        HIGHER,
        "Of the loss that zeros add at recorded positions, the share that the SAE does not add; "
        "leading positions stay clean, so that it is nearer to 1 than the score of SAELens.",
    ),
    _probe("latents", HIGHER, "Held-out accuracy of the probe on all latents."),
    _probe("activations", BASELINE),
    _probe("tfidf", BASELINE),
    _probe("majority", BASELINE),
    _cluster(
        "nmi",
        "clusters agree with labels (NMI)",
        "Normalised mutual information of clusters and labels.",
    ),
    _cluster("silhouette", "clusters stand apart (silhouette)"),
    Headline(
        "cluster_stability",
        "clusters are found again (ARI)",
        "cluster_metrics",
        "representation = 'latents' AND kind = 'stability' AND metric = 'ari'",
        stage="cluster",
        fact="stability",
        reading=HIGHER,
    ),
)
