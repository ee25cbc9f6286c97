"""The store's relations: its own tables, and those that stages declare beside what they write.

A relation is a table inside the DuckDB file, or (``in_place``) a view over the Parquet files of
the artifacts where they lie. Those that grow with the tokens are in place: they are never copied,
and runs that share a corpus share its files. An exported file holds all of them as tables. A view
over other relations (``query``) is one in every file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from deconstruct.artifacts.table import DOC_ID, Column, Table
from deconstruct.cluster.tables import TABLES as CLUSTER
from deconstruct.config import OPTIONAL_STAGES, Architecture
from deconstruct.config import STAGES as ALWAYS
from deconstruct.config.run import CONTROLS
from deconstruct.corpus.tables import DOCUMENT_LABELS, DOCUMENT_METADATA, DOCUMENTS
from deconstruct.corpus.tables import TABLES as CORPUS
from deconstruct.drift.tables import TABLES as DRIFT
from deconstruct.evaluation.tables import TABLES as EVALUATION
from deconstruct.explanation.tables import TABLES as EXPLANATION
from deconstruct.interpretation.tables import TABLES as INTERPRETATION
from deconstruct.latents.tables import TABLES as LATENTS
from deconstruct.map.tables import TABLES as MAP
from deconstruct.matching.tables import TABLES as MATCHING
from deconstruct.probe.tables import TABLES as PROBE
from deconstruct.reference.tables import TABLES as REFERENCE
from deconstruct.sae.tables import TABLES as SAE
from deconstruct.store.headlines import HEADLINES

SCHEMA_VERSION = 7


@dataclass(frozen=True)
class Relation:
    """A table or view of the store.

    key: columns that are unique together; empty if one of them may be null. stage, table: whose
    file the rows come from; None if they come from elsewhere. beside: a second file of the stage,
    where settings ask for it, that has columns of the same rows. query: of a view over other
    relations, what it is; empty for all others.
    """

    name: str
    comment: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    stage: str | None = None
    table: Table | None = None
    beside: Table | None = None
    query: str = ""

    @classmethod
    def of(cls, stage: str, table: Table) -> Relation:
        """What a stage's table is in the store: the same for every run."""
        whose = (RUN_ID, OTHER_RUN) if table.paired else (RUN_ID,)
        key = (*(column.name for column in whose), *table.key) if table.key else ()
        beside = DOCUMENT_METADATA if table is DOCUMENTS else None
        return cls(table.name, table.comment, key, (*whose, *table.columns), stage, table, beside)

    @property
    def file(self) -> str | None:
        """Name of the Parquet file that the rows come from."""
        return self.table.file if self.table else None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all that may have columns of its rows, and of those that it is made of where a
        run has no such file."""
        found = [table.file for table in (self.table, self.beside) if table is not None]
        return (*found, DOCUMENTS.file) if self.table is DOCUMENT_LABELS else tuple(found)

    @property
    def in_place(self) -> bool:
        """Whether the rows stay in that file."""
        return self.table is not None and self.table.in_place

    @property
    def paired(self) -> bool:
        """Whether a row is of two runs."""
        return OTHER_RUN in self.columns

    @property
    def stored(self) -> bool:
        """Whether it is a table that holds rows of its own."""
        return not self.in_place and not self.query

    @property
    def from_file(self) -> tuple[Column, ...]:
        """The columns that every such Parquet file holds: all but runs' ids and optional ones."""
        return tuple(c for c in self.columns if c not in (RUN_ID, OTHER_RUN) and not c.optional)


RUN_ID = Column("run_id", "VARCHAR", "Run that the row belongs to: key of runs.")
OTHER_RUN = Column("other_run", "VARCHAR", "Run that it is compared with: key of runs.")


def _columns(*lines: tuple[str, str, str]) -> tuple[Column, ...]:
    return (RUN_ID, *(Column(*line) for line in lines))


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
    "One row for each SAE and corpus that it was judged on: what was run, and headline metrics.",
    ("run_id",),
    _columns(
        ("name", "VARCHAR", "The name it was made under; names has all that it goes by."),
        ("site", "VARCHAR", "Hook site '<layer>.<hook>' whose activations the SAE takes."),
        ("layer", "UINTEGER", "Layer of the site."),
        ("hook", "VARCHAR", "resid_pre, resid_post, mlp_out, attn_out or mlp_in."),
        ("model", "VARCHAR", "Language model as the configuration names it."),
        ("model_digest", "VARCHAR", "Digest of the model's files: equal for equal weights."),
        ("source", "VARCHAR", "Where the texts came from, as the configuration names it."),
        (
            "analysis",
            "VARCHAR",
            "What those texts are to the SAE: corpus, which it was trained on, or the name of an "
            "analysis; names has all names.",
        ),
        ("trained_on", "VARCHAR", "Where the texts came from that the SAE was trained on."),
        (
            "seen_documents",
            "UBIGINT",
            "Held-out documents whose text the SAE was trained on; null where that is not known.",
        ),
        ("architecture", "VARCHAR", f"Kind of SAE: {', '.join(get_args(Architecture))}."),
        ("d_in", "UINTEGER", "Width of the activations."),
        ("d_sae", "UINTEGER", "Number of latents."),
        ("k", "UINTEGER", "Latents that fire on a token, of kinds that fix it; null for others."),
        ("documents", "UBIGINT", "Documents in the corpus."),
        ("tokens", "UBIGINT", "Tokens in the corpus."),
        (
            "training_tokens",
            "UBIGINT",
            "Tokens trained on, repeats included; null of an SAE that others trained.",
        ),
        *((h.name, "DOUBLE", h.comment) for h in HEADLINES if h.comment is not None),
        ("config", "JSON", "The whole configuration."),
        ("software", "JSON", "Versions of Python and packages that trained the SAE."),
        ("started", "TIMESTAMPTZ", "When the execution that made it began."),
        ("finished", "TIMESTAMPTZ", "When its last stage ended."),
        ("published", "TIMESTAMPTZ", "When the row came into the store."),
        (
            "label_column",
            "VARCHAR",
            "Column of the source that documents.label, headline figures and clusters are about: "
            "the first of classes; null if there is none.",
        ),
        ("control", "VARCHAR", f"What kind of control it is: {', '.join(CONTROLS)}; null: none."),
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
            f"{', '.join(ALWAYS)}; {', '.join(OPTIONAL_STAGES)} (this one, of two runs, is in "
            "matchings).",
        ),
        ("ordinal", "UTINYINT", "Place of the stage in the pipeline, from 0."),
        ("key", "VARCHAR", "Key of the artifact: a digest of all that decides its content."),
        ("version", "UINTEGER", "Version of the stage's code."),
        (
            "cached",
            "BOOLEAN",
            "The execution that made the run found the artifact instead of making it.",
        ),
        ("seconds", "DOUBLE", "Wall time that making the artifact took, whoever made it."),
        ("rows", "UBIGINT", "Rows of the artifact's files together; null if none are counted."),
        ("bytes", "UBIGINT", "Bytes of the artifact's files together."),
        ("path", "VARCHAR", "Folder of the artifact, relative to the data root."),
        ("facts", "JSON", "What the stage noted about its result."),
        ("made", "TIMESTAMPTZ", "When the artifact was finished."),
    ),
)

EXECUTIONS = Relation(
    "executions",
    "Every time that a run came into the store, also where nothing was left to do: equal work is "
    "one run, executed as often as it was asked for.",
    ("execution",),
    _columns(
        (
            "execution",
            "UBIGINT",
            "Number in this store, ascending: the order, whatever clocks say.",
        ),
        ("name", "VARCHAR", "The name in the configuration."),
        ("analysis", "VARCHAR", "corpus, or the name of an analysis."),
        ("growth", "VARCHAR", "anew, encode, retrain or retrain-warm; null before schema 4."),
        ("started", "TIMESTAMPTZ", "When it began."),
        ("finished", "TIMESTAMPTZ", "When its last stage ended."),
        ("published", "TIMESTAMPTZ", "When it came into the store."),
        ("made", "VARCHAR[]", "Stages whose artifact it made."),
        ("cached", "VARCHAR[]", "Stages whose artifact it found."),
        ("config", "JSON", "The whole configuration."),
        (
            "training_corpus",
            "VARCHAR",
            "Key of the corpus that [corpus] had come to; null where it was of no concern.",
        ),
        (
            "stands",
            "BOOLEAN",
            "Whether a growing run may go on from it: from all but one more analysis of an SAE "
            "that was there.",
        ),
    ),
)

NAMES = Relation(
    "names",
    "What runs are called. A name means the run that was executed last under it; a run that was "
    "asked for under several names has them all.",
    ("name", "analysis", "run_id"),
    _columns(
        ("name", "VARCHAR", "The name in the configuration."),
        ("analysis", "VARCHAR", "corpus, or the name of an analysis."),
        ("first_execution", "UBIGINT", "The execution that gave it: key of executions."),
        ("last_execution", "UBIGINT", "The newest execution under it."),
    ),
)

MATCHINGS = Relation(
    "matchings",
    "The pairs of runs whose latents were matched (deconstruct match), and the artifact of each. "
    "A pair goes with either of its runs.",
    ("run_id", "other_run"),
    (
        RUN_ID,
        OTHER_RUN,
        Column("key", "VARCHAR", "Key of the artifact: a digest of all that decides its content."),
        Column("version", "UINTEGER", "Version of the stage's code."),
        Column("seconds", "DOUBLE", "Wall time that making the artifact took."),
        Column("path", "VARCHAR", "Folder of the artifact, relative to the data root."),
        Column("facts", "JSON", "What the stage noted about its result."),
        Column("made", "TIMESTAMPTZ", "When the artifact was finished."),
    ),
)

PROBE_PREDICTIONS = Relation(
    "probe_predictions",
    "The class that each probe gives each held-out document: the one of the largest score.",
    (),
    _columns(
        ("task", "VARCHAR", "Column of the labels that are probed; those of classes."),
        ("representation", "VARCHAR", "As in probe_scores."),
        ("k", "UINTEGER", "As in probe_scores."),
        ("doc_id", "UINTEGER", DOC_ID.comment),
        ("label", "VARCHAR", "The document's class."),
        ("predicted", "VARCHAR", "The class that the probe gives it."),
        (
            "probability",
            "DOUBLE",
            "How sure the probe is of that: its share of the probabilities of all classes.",
        ),
    ),
    query="""
SELECT s.run_id, s.task, s.representation, s.k, s.doc_id,
    max(s.target) FILTER (s.truth = 1) AS label,
    first(s.target ORDER BY s.score DESC NULLS LAST, s.target) FILTER (s.target IS NOT NULL)
        AS predicted,
    max(1 / (1 + exp(-s.score))) FILTER (s.target IS NOT NULL) / sum(1 / (1 + exp(-s.score)))
        AS probability
FROM probe_scores AS s
SEMI JOIN (FROM probes AS p WHERE p.metric = 'accuracy') AS of_classes
    ON of_classes.run_id = s.run_id AND of_classes.task IS NOT DISTINCT FROM s.task
GROUP BY s.run_id, s.task, s.representation, s.k, s.doc_id""",
)

_OF_STAGES = {
    "corpus": CORPUS,
    "latents": LATENTS,
    "evaluation": EVALUATION,
    "reference": REFERENCE,
    "sae": SAE,
    "probe": PROBE,
    "cluster": CLUSTER,
    "interpretation": INTERPRETATION,
    "map": MAP,
    "explanation": EXPLANATION,
    "drift": DRIFT,
    "matching": MATCHING,
}
"""In the order in which a reader meets them."""

RELATIONS = (
    META,
    RUNS,
    NAMES,
    EXECUTIONS,
    STAGES,
    MATCHINGS,
    *(Relation.of(stage, table) for stage, tables in _OF_STAGES.items() for table in tables),
    PROBE_PREDICTIONS,
)
