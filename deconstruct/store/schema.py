"""The store's relations: one declaration from which tables, views and comments are made.

A relation is a table inside the DuckDB file, or (``in_place``) a view over the Parquet files of
the artifacts where they lie. Those that grow with the tokens are in place: they are never copied,
and runs that share a corpus share its files. An exported file holds all of them as tables.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 3

RUN_ID = "Run that the row belongs to: key of runs."
DOC_ID = "Document, numbered within the run's corpus."
TOKEN_INDEX = "Token, numbered over the run's whole corpus: a document's tokens are consecutive."
LATENT = "Number of the latent in its SAE: 0 to d_sae - 1."


@dataclass(frozen=True)
class Column:
    """A column: its name, DuckDB type and meaning."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True)
class Relation:
    """A table or view of the store.

    key: columns that are unique together; empty if one of them may be null.
    stage, file: the artifact and its Parquet file that the rows come from; None if they come from
    elsewhere. in_place: the rows stay in that file.
    """

    name: str
    comment: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    stage: str | None = None
    file: str | None = None
    in_place: bool = False

    @property
    def from_file(self) -> tuple[Column, ...]:
        """The columns that the Parquet file holds: all but ``run_id``."""
        return tuple(column for column in self.columns if column.name != "run_id")


def _columns(*lines: tuple[str, str, str]) -> tuple[Column, ...]:
    return (Column("run_id", "VARCHAR", RUN_ID), *(Column(*line) for line in lines))


META = Relation(
    "meta",
    "What this file is: schema version, the release that wrote it last, and when it changed.",
    ("name",),
    (
        Column(
            "name", "VARCHAR", "schema_version, deconstruct, or publication: new by each change."
        ),
        Column("value", "VARCHAR", "Its value as text."),
    ),
)

RUNS = Relation(
    "runs",
    "One row for each SAE that was trained and judged: what was run, and its headline metrics.",
    ("run_id",),
    _columns(
        ("name", "VARCHAR", "The name in the configuration; several runs may share it."),
        ("site", "VARCHAR", "Hook site '<layer>.<hook>' whose activations the SAE takes."),
        ("layer", "UINTEGER", "Layer of the site."),
        ("hook", "VARCHAR", "resid_pre, resid_post, mlp_out or attn_out."),
        ("model", "VARCHAR", "Language model as the configuration names it."),
        ("model_digest", "VARCHAR", "Digest of the model's files: equal for equal weights."),
        ("source", "VARCHAR", "Where the texts came from, as the configuration names it."),
        ("architecture", "VARCHAR", "Kind of SAE: topk or relu."),
        ("d_in", "UINTEGER", "Width of the activations."),
        ("d_sae", "UINTEGER", "Number of latents."),
        ("k", "UINTEGER", "Latents that fire on a token (topk); null for other kinds."),
        ("documents", "UBIGINT", "Documents in the corpus."),
        ("tokens", "UBIGINT", "Tokens in the corpus."),
        ("training_tokens", "UBIGINT", "Tokens that the SAE was trained on, repeats included."),
        ("fvu", "DOUBLE", "Share of the held-out activations' variance that is not explained."),
        ("l0", "DOUBLE", "Mean number of latents that fire on a held-out token."),
        ("dead_share", "DOUBLE", "Share of latents that never fire."),
        ("loss_recovered", "DOUBLE", "Share of the model's loss that the spliced SAE keeps."),
        ("probe_accuracy", "DOUBLE", "Held-out accuracy of the probe on all latents."),
        ("nmi", "DOUBLE", "Normalised mutual information of clusters and labels."),
        ("config", "JSON", "The whole configuration."),
        ("software", "JSON", "Versions of Python and packages that trained the SAE."),
        ("started", "TIMESTAMPTZ", "When the run that published this began."),
        ("finished", "TIMESTAMPTZ", "When its last stage ended."),
        ("published", "TIMESTAMPTZ", "When the row came into the store: 'latest' is the newest."),
    ),
)

STAGES = Relation(
    "stages",
    "The stages of each run: which artifact each one used, and what making it cost.",
    ("run_id", "stage"),
    _columns(
        (
            "stage",
            "VARCHAR",
            "corpus, activations, sae, latents, evaluation, probe, cluster; drift.",
        ),
        ("ordinal", "UTINYINT", "Place of the stage in the pipeline, from 0."),
        ("key", "VARCHAR", "Key of the artifact: a digest of all that decides its content."),
        ("version", "UINTEGER", "Version of the stage's code."),
        ("cached", "BOOLEAN", "The run found the artifact instead of making it."),
        ("seconds", "DOUBLE", "Wall time that making the artifact took, whoever made it."),
        ("rows", "UBIGINT", "Rows of the artifact's files together; null if none are counted."),
        ("bytes", "UBIGINT", "Bytes of the artifact's files together."),
        ("path", "VARCHAR", "Folder of the artifact, relative to the data root."),
        ("facts", "JSON", "What the stage noted about its result."),
        ("made", "TIMESTAMPTZ", "When the artifact was finished."),
    ),
)

DOCUMENTS = Relation(
    "documents",
    "The texts of a run's corpus.",
    ("run_id", "doc_id"),
    _columns(
        ("doc_id", "UINTEGER", DOC_ID),
        ("doc_key", "VARCHAR", "Digest of the text: the same in every corpus that holds it."),
        ("split", "VARCHAR", "train or test (held out)."),
        ("label", "VARCHAR", "Class of the document; null if it has none."),
        ("text", "VARCHAR", "The whole text, also what max_tokens cut off."),
        ("n_tokens", "UINTEGER", "Tokens kept of it."),
    ),
    "corpus",
    "documents.parquet",
    in_place=True,
)

TOKENS = Relation(
    "tokens",
    "The tokens of a run's corpus, in order.",
    ("run_id", "token_index"),
    _columns(
        ("token_index", "UBIGINT", TOKEN_INDEX),
        ("doc_id", "UINTEGER", DOC_ID),
        ("position", "UINTEGER", "Place in the document, from 0."),
        ("token_id", "UINTEGER", "Number in the tokenizer's vocabulary."),
        ("token", "VARCHAR", "The token's own text, leading space included."),
        ("special", "BOOLEAN", "BOS, EOS or padding: never recorded, never trained on."),
    ),
    "corpus",
    "tokens.parquet",
    in_place=True,
)

_FIRINGS = _columns(
    ("latent", "UINTEGER", LATENT),
    ("token_index", "UBIGINT", TOKEN_INDEX),
    ("activation", "FLOAT", "How strongly the latent fires there; rows exist only where it does."),
)

LATENTS = Relation(
    "latents",
    "Every firing of every latent, in the order (latent, strongest first): fast by latent.",
    ("run_id", "latent", "token_index"),
    _FIRINGS,
    "latents",
    "latents.parquet",
    in_place=True,
)

LATENTS_BY_TOKEN = Relation(
    "latents_by_token",
    "The same rows as latents, in the order (token_index, latent): fast by token.",
    ("run_id", "token_index", "latent"),
    _FIRINGS,
    "latents",
    "latents_by_token.parquet",
    in_place=True,
)

DOCUMENT_LATENTS = Relation(
    "document_latents",
    "Firings pooled over each document; no row where a latent is silent.",
    ("run_id", "doc_id", "latent"),
    _columns(
        ("doc_id", "UINTEGER", DOC_ID),
        ("latent", "UINTEGER", LATENT),
        ("n_fires", "UINTEGER", "Tokens of the document on which the latent fires."),
        ("mean", "FLOAT", "Mean activation over the document's recorded tokens, zeros counted."),
        ("max", "FLOAT", "Strongest activation in the document."),
    ),
    "latents",
    "document_latents.parquet",
    in_place=True,
)

FEATURES = Relation(
    "features",
    "One row for each latent: how often and on what it fires, and its place in the dictionary.",
    ("run_id", "latent"),
    _columns(
        ("latent", "UINTEGER", LATENT),
        ("n_fires", "UBIGINT", "Tokens on which it fires, over the whole corpus."),
        ("density", "DOUBLE", "Share of the recorded tokens on which it fires."),
        ("n_documents", "UINTEGER", "Documents in which it fires."),
        ("mean_activation", "FLOAT", "Mean of its activations where it fires."),
        ("max_activation", "FLOAT", "Strongest activation."),
        ("top_token", "VARCHAR", "Token on which it fires most often."),
        ("top_token_share", "FLOAT", "Share of its firings that are on top_token."),
        ("dead", "BOOLEAN", "It never fires in the corpus."),
        ("decoder_norm", "FLOAT", "Length of its decoder row."),
        ("encoder_decoder_cosine", "FLOAT", "Cosine of its encoder and decoder directions."),
        ("nearest_latent", "UINTEGER", "Latent whose decoder row points most nearly its way."),
        ("nearest_cosine", "FLOAT", "Cosine to that one: near 1 for duplicates."),
    ),
    "latents",
    "features.parquet",
)

DIRECTIONS = Relation(
    "directions",
    "The decoder row of each latent: what it adds to the activation, for comparing latents.",
    ("run_id", "latent"),
    _columns(
        ("latent", "UINTEGER", LATENT),
        ("decoder", "FLOAT[]", "Its decoder row, d_in numbers, as trained (not of unit length)."),
    ),
    "latents",
    "directions.parquet",
    in_place=True,
)

FEATURE_LOGITS = Relation(
    "feature_logits",
    "Tokens of the corpus that a latent's decoder row promotes and suppresses most, were it alone "
    "at the model's end (logit lens): a hint, the less to be trusted the earlier the layer.",
    ("run_id", "latent", "direction", "rank"),
    _columns(
        ("latent", "UINTEGER", LATENT),
        ("direction", "VARCHAR", "promoted or suppressed."),
        ("rank", "UINTEGER", "1 for the strongest."),
        ("token_id", "UINTEGER", "Number in the tokenizer's vocabulary."),
        ("token", "VARCHAR", "The token's own text."),
        ("logit", "FLOAT", "The token's logit less the mean over all tokens of the corpus."),
    ),
    "evaluation",
    "feature_logits.parquet",
    in_place=True,
)

SAE_METRICS = Relation(
    "sae_metrics",
    "How good the SAE is, on held-out documents.",
    ("run_id", "metric"),
    _columns(
        ("metric", "VARCHAR", "What is measured: fvu, l0, loss_recovered, ..."),
        ("value", "DOUBLE", "The estimate."),
        ("ci_low", "DOUBLE", "Lower end of its 95% interval; null if it has none."),
        ("ci_high", "DOUBLE", "Upper end of it."),
        ("n", "UBIGINT", "Tokens, documents or latents that it is taken over."),
        ("unit", "VARCHAR", "Unit of the value."),
        ("note", "VARCHAR", "How it is defined."),
    ),
    "evaluation",
    "metrics.parquet",
)

DENSITY_HISTOGRAM = Relation(
    "density_histogram",
    "How many latents fire how often: counts over bins of log10 density.",
    ("run_id", "low"),
    _columns(
        ("low", "DOUBLE", "Lower edge of the bin, log10 of the density."),
        ("high", "DOUBLE", "Upper edge."),
        ("latents", "UBIGINT", "Latents in the bin."),
    ),
    "evaluation",
    "density_histogram.parquet",
)

TOKEN_ERRORS = Relation(
    "token_errors",
    "Reconstruction error of each held-out token.",
    ("run_id", "token_index"),
    _columns(
        ("token_index", "UBIGINT", TOKEN_INDEX),
        ("squared_error", "FLOAT", "Squared distance of activation and reconstruction."),
        ("squared_norm", "FLOAT", "Squared length of the activation."),
    ),
    "evaluation",
    "token_errors.parquet",
    in_place=True,
)

TRAINING_LOG = Relation(
    "training_log",
    "What training reported every few steps, one row for each number.",
    ("run_id", "step", "metric"),
    _columns(
        ("step", "UBIGINT", "Optimiser steps done."),
        ("metric", "VARCHAR", "What is reported: tokens, loss, fvu, l0, ..."),
        ("value", "DOUBLE", "Its value."),
    ),
    "sae",
    "training_log.parquet",
)

PROBES = Relation(
    "probes",
    "How well labels are read off pooled documents, on held-out ones, with baselines.",
    (),  # k and label are null in places, so they can't be part of a primary key
    _columns(
        ("representation", "VARCHAR", "latents, activations, tfidf or majority."),
        ("k", "UINTEGER", "Latents that the sparse probe may use; null: all of them."),
        ("label", "VARCHAR", "Class that the value is for; null: all classes together."),
        ("metric", "VARCHAR", "accuracy, f1, auroc, ..."),
        ("value", "DOUBLE", "The estimate."),
        ("ci_low", "DOUBLE", "Lower end of its 95% interval."),
        ("ci_high", "DOUBLE", "Upper end of it."),
        ("n_train", "UINTEGER", "Documents trained on."),
        ("n_test", "UINTEGER", "Documents tested on."),
    ),
    "probe",
    "probes.parquet",
)

PROBE_WEIGHTS = Relation(
    "probe_weights",
    "Weights of the probe on all latents.",
    ("run_id", "label", "latent"),
    _columns(
        ("label", "VARCHAR", "Class whose score the weight adds to."),
        ("latent", "UINTEGER", LATENT),
        ("weight", "DOUBLE", "Its weight, per unit of pooled activation."),
        ("effect", "DOUBLE", "Weight per standard deviation of the latent's pooled activation."),
        ("rank", "UINTEGER", "Its place among the label's effects, whatever their sign."),
    ),
    "probe",
    "probe_weights.parquet",
)

PROBE_PREDICTIONS = Relation(
    "probe_predictions",
    "What each probe says about each held-out document.",
    (),
    _columns(
        ("representation", "VARCHAR", "latents, activations, tfidf or majority."),
        ("k", "UINTEGER", "Latents that the sparse probe may use; null: all of them."),
        ("doc_id", "UINTEGER", DOC_ID),
        ("label", "VARCHAR", "The document's class."),
        ("predicted", "VARCHAR", "The class that the probe gives it."),
        ("probability", "DOUBLE", "How sure the probe is of that."),
    ),
    "probe",
    "probe_predictions.parquet",
)

CLUSTERS = Relation(
    "clusters",
    "Which cluster each document fell into.",
    ("run_id", "doc_id"),
    _columns(
        ("doc_id", "UINTEGER", DOC_ID),
        ("cluster", "UINTEGER", "Number of the cluster, from 0."),
        ("distance", "DOUBLE", "Distance from the cluster's centre."),
    ),
    "cluster",
    "clusters.parquet",
)

CLUSTER_SUMMARY = Relation(
    "cluster_summary",
    "One row for each cluster of documents.",
    ("run_id", "cluster"),
    _columns(
        ("cluster", "UINTEGER", "Number of the cluster, from 0."),
        ("size", "UINTEGER", "Documents in it."),
        ("top_label", "VARCHAR", "Most frequent label in it; null without labels."),
        ("top_label_share", "DOUBLE", "Share of its documents with that label."),
        ("latents", "UINTEGER[]", "Latents that set it apart, strongest first."),
        ("keywords", "VARCHAR[]", "Words that set it apart (c-TF-IDF), strongest first."),
        ("exemplars", "UINTEGER[]", "Documents (doc_id) nearest its centre."),
    ),
    "cluster",
    "cluster_summary.parquet",
)

CLUSTER_METRICS = Relation(
    "cluster_metrics",
    "How good the clustering is.",
    ("run_id", "metric"),
    _columns(
        ("metric", "VARCHAR", "silhouette, nmi, ari, purity, ..."),
        ("value", "DOUBLE", "Its value."),
    ),
    "cluster",
    "cluster_metrics.parquet",
)

DRIFT = Relation(
    "drift",
    "Documents that came after the SAE was trained, beside those it was trained among; of runs "
    "that kept a standing SAE.",
    ("run_id", "subject", "metric"),
    _columns(
        ("subject", "VARCHAR", "reconstruction, label share or distance."),
        ("metric", "VARCHAR", "fvu, l0, ...; the label; what the distance is between."),
        (
            "reference",
            "DOUBLE",
            "Value on the documents it was trained among (held-out ones).",
        ),
        ("current", "DOUBLE", "Value on the documents since; of a distance, the distance in bits."),
        ("difference", "DOUBLE", "current - reference."),
        ("ci_low", "DOUBLE", "Lower end of the difference's 95% interval; null if it has none."),
        ("ci_high", "DOUBLE", "Upper end of it."),
        ("n_reference", "UBIGINT", "Tokens, documents or firings of the reference."),
        ("n_current", "UBIGINT", "The same of the documents since."),
    ),
    "drift",
    "drift.parquet",
)

LATENT_DRIFT = Relation(
    "latent_drift",
    "How often each latent fires, before and since; of runs that kept a standing SAE.",
    ("run_id", "latent"),
    _columns(
        ("latent", "UINTEGER", LATENT),
        ("reference_density", "DOUBLE", "Share of the reference's recorded tokens it fires on."),
        ("current_density", "DOUBLE", "The same of the documents since."),
        ("log2_ratio", "DOUBLE", "log2(current / reference), half a firing added to both."),
    ),
    "drift",
    "latent_drift.parquet",
    in_place=True,
)

RELATIONS = (
    META, RUNS, STAGES, DOCUMENTS, TOKENS, LATENTS, LATENTS_BY_TOKEN, DOCUMENT_LATENTS, FEATURES,
    DIRECTIONS, FEATURE_LOGITS, SAE_METRICS, DENSITY_HISTOGRAM, TOKEN_ERRORS, TRAINING_LOG, PROBES,
    PROBE_WEIGHTS, PROBE_PREDICTIONS, CLUSTERS, CLUSTER_SUMMARY, CLUSTER_METRICS,
    DRIFT, LATENT_DRIFT,
)  # fmt: skip
