"""The stage evaluation: how faithful an SAE is, on held-out documents alone.

`metrics` has every definition and how those of peers differ. Dead: fires on no recorded token of
the whole corpus, train and test; a larger corpus would revive some. Silent: on no held-out one.
What no SAE is needed for comes from the stage reference. Intervals resample documents; they say
nothing of other seeds, sites or kinds of text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.common import parquet
from deconstruct.common.errors import ConfigError
from deconstruct.common.hardware import pick_device
from deconstruct.common.intervals import Estimate
from deconstruct.common.progress import track
from deconstruct.common.site import Site
from deconstruct.common.threads import one_blas_thread
from deconstruct.config import EvaluationConfig
from deconstruct.corpus.alike.groups import group_ids
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.corpus.vocabulary import token_strings
from deconstruct.evaluation import metrics, others
from deconstruct.evaluation.reconstruction import Fidelity, InOrder, Typical, fidelity
from deconstruct.evaluation.splice import Losses, spliced_losses
from deconstruct.evaluation.tables import (
    DENSITY_HISTOGRAM,
    DOCUMENT_METRICS,
    OWN,
    SAE_METRICS,
    TOKEN_ERRORS,
)
from deconstruct.features.logit_lens import feature_logits
from deconstruct.features.tables import FEATURE_LOGITS
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference.passes import Passes
from deconstruct.reference.stage import as_recorded, judged_texts
from deconstruct.reference.tables import DOCUMENT_LOSSES
from deconstruct.reference.texts import Text
from deconstruct.sae import files
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.stage import output_of

log = logging.getLogger(__name__)

VERSION = 7
HISTOGRAM_BINS = np.arange(-7, 0.01, 0.25)


def recipe(
    config: EvaluationConfig,
    *,
    model: ResolvedModel,
    reference: Artifact,
    sae: Artifact,
    latents: Artifact,
    other: Sequence[ResolvedSource] = (),
) -> Recipe:
    """All that decides the metrics. other: the sources of ``config.other``, in their order.

    Raises ``ConfigError`` if they are not as many.
    """
    if len(other) != len(config.other):
        raise ConfigError(
            f"evaluation.other names {len(config.other)} sources, and {len(other)} are given; "
            "resolve each of them (deconstruct.evaluation.others.resolve)"
        )
    read = {name: latents.manifest.inputs[name] for name in ("corpus", "activations")}
    upstream = keys_of(reference=reference, sae=sae, latents=latents)
    texts = {f"other {place}": source.digest for place, source in enumerate(other)}
    inputs = {"model": model.digest} | read | upstream | texts
    return Recipe("evaluation", VERSION, config.key_fields(), inputs)


def evaluate(
    root: DataRoot,
    config: EvaluationConfig,
    *,
    model: ResolvedModel,
    reference: Artifact,
    sae: Artifact,
    latents: Artifact,
    other: Sequence[ResolvedSource] = (),
    device: str = "auto",
) -> Artifact:
    """Judge an SAE: ``metrics``, ``document_metrics``, ``density_histogram``, ``token_errors``,
    ``feature_logits``.

    Corpus and activations are those that ``latents`` are of. Reconstruction is judged on every
    recorded token of the test split, the language model's losses on ``config.max_documents`` of its
    documents, drawn evenly: those of ``reference``. Of each other source at most as many documents
    are read. A transcoder is judged by what it reconstructs: its output site's activations, which
    it replaces in the model.

    The model runs as it ran when the activations were recorded. If it names another dtype than
    that, ``ConfigError``: the SAE would be spliced into another stream than it was made for.
    """

    @one_blas_thread()
    def write(draft: Draft) -> None:
        judging = _Judging.of(root, config, model, reference, sae, latents, pick_device(device))
        judging.own(draft)
        for name, source in zip(config.other, other, strict=True):
            judging.other(name, source)
        rows = judging.rows + _density(latents, draft)
        _logits(judging.sae, judging.lm, judging.corpus, draft)
        judging.model.check_unchanged()
        _warn(rows)
        with draft.writing(SAE_METRICS.file) as path:
            parquet.write(path, SAE_METRICS.of_rows(rows))
        draft.write_table(DOCUMENT_METRICS.file, pa.concat_tables(judging.documents))
        own = {str(row["metric"]): row["value"] for row in rows if row["text"] == OWN}
        draft.facts |= own | {"outlier_bound": judging.typical.bound}

    wanted = recipe(config, model=model, reference=reference, sae=sae, latents=latents, other=other)
    return root.make(wanted, write)


STAGE = Stage("evaluation", recipe, evaluate)


@dataclass
class _Judging:
    """One SAE and what it is judged with; ``rows`` and ``documents`` are what was found."""

    config: EvaluationConfig
    model: ResolvedModel
    corpus: Artifact
    activations: Artifact
    output: Artifact | None
    reference: Artifact
    sae: SparseAutoencoder
    device: str
    rows: list[dict[str, Any]]
    documents: list[pa.Table]

    @classmethod
    def of(
        cls,
        root: DataRoot,
        config: EvaluationConfig,
        model: ResolvedModel,
        reference: Artifact,
        sae: Artifact,
        latents: Artifact,
        device: str,
    ) -> _Judging:
        read = latents.manifest.inputs
        activations = root.open("activations", read["activations"])
        return cls(
            config=config,
            model=as_recorded(model, activations),
            corpus=root.open("corpus", read["corpus"]),
            activations=activations,
            output=output_of(root, sae, activations),
            reference=reference,
            sae=files.load(sae.path).to(device).for_many_tokens(),
            device=device,
            rows=[],
            documents=[],
        )

    @cached_property
    def lm(self) -> torch.nn.Module:
        """The language model, loaded once it is needed."""
        return load(self.model, self.device)

    @cached_property
    def group(self) -> NDArray[np.int64]:
        """Of each document of the corpus, what it hangs together with."""
        return group_ids(self.corpus)

    @cached_property
    def train_mean(self) -> NDArray[np.float64]:
        """Of what is reconstructed."""
        return ActivationReader(self.output or self.activations).moments.mean

    @cached_property
    def typical(self) -> Typical:
        median = float(self.reference.facts["median_distance"])
        return Typical(self.train_mean, self.config.outlier_multiple * median)

    @property
    def sites(self) -> list[Site]:
        """Where it reads, and where it is spliced in."""
        both = (self.activations, self.output or self.activations)
        return [Site.parse(str(artifact.facts["site"])) for artifact in both]

    def own(self, draft: Draft) -> None:
        """The corpus' held-out documents; writes ``token_errors.parquet``."""
        reader = ActivationReader(self.activations, "test")
        wanted = ActivationReader(self.output, "test") if self.output else None
        found = self._reconstructed(reader, wanted, int(self.corpus.facts["documents"]))
        draft.write_table(TOKEN_ERRORS.file, found.tokens)
        self._tell(OWN, found)
        losses = self._losses(judged_texts(self.corpus, self.activations, self.config))
        if losses is not None:
            alone = self.reference.table(DOCUMENT_LOSSES.file)
            assert np.array_equal(alone["doc_id"].to_numpy(), losses.doc_id)
            floors = {name: alone[name].to_numpy() for name in alone.column_names[1:]}
            sums = floors | _sums(losses)  # of the clean loss its own
            predictions, positions = (int(sums[n].sum()) for n in ("predictions", "positions"))
            groups = self._groups(OWN, losses.doc_id)
            for told, n in (
                (metrics.SPLICED, predictions),
                (metrics.AGAINST, predictions),
                (metrics.WITH_FIRST, positions),
            ):
                self.rows += metrics.rows(told, sums, self.config, n, OWN, groups)
        self.documents.append(_document_metrics(OWN, found, losses))

    def other(self, name: str, source: ResolvedSource) -> None:
        """Texts of another source; nothing is kept of single tokens."""
        skip = int(self.activations.manifest.config["skip_positions"])
        limit = self.config.max_documents
        texts = others.read(source, name, self.corpus, self.model, skip, limit)
        at = others.activations(self.lm, self.sites, texts, self.device)
        reader, wanted = (at[site] for site in self.sites)
        count = 1 + max(text.doc_id for text in texts)
        found = self._reconstructed(reader, None if wanted is reader else wanted, count)
        self._tell(name, found)
        losses = self._losses(texts)
        if losses is not None:
            sums = _sums(losses)
            predictions = int(sums["predictions"].sum())
            self.rows += metrics.rows(metrics.SPLICED, sums, self.config, predictions, name)
        self.documents.append(_document_metrics(name, found, losses))

    def _reconstructed(self, reader: InOrder, wanted: InOrder | None, documents: int) -> Fidelity:
        return fidelity(reader, self.sae, documents, self.device, wanted, self.typical)

    def _tell(self, text: str, found: Fidelity) -> None:
        tokens = len(found.ratios)
        groups = self._groups(text, found.doc_id)
        self.rows += metrics.rows(
            metrics.RECONSTRUCTION, found.documents, self.config, tokens, text, groups
        )
        self.rows.append(metrics.median_row(found.ratios, groups[found.places], text))
        self.rows += metrics.firing_rows(found.firings, text)

    def _groups(self, text: str, doc_id: NDArray[np.uint32]) -> NDArray[np.int64]:
        """What each of some documents hangs together with; of other texts, itself."""
        return self.group[doc_id] if text == OWN else doc_id.astype(np.int64)

    def _losses(self, texts: list[Text]) -> Losses | None:
        """The language model's losses with the SAE and without; None where no text has any."""
        if not texts:
            log.warning(
                "no held-out document is long enough to predict a token in, so there are no losses"
            )
            return None
        source, site = self.sites
        mean = torch.from_numpy(self.train_mean).float().to(self.device)
        with track("splicing", sum(len(text.ids) for text in texts), "tokens") as advance:
            return spliced_losses(Passes(self.lm, site, source), texts, self.sae, mean, advance)


def _sums(losses: Losses) -> dict[str, NDArray[np.float64]]:
    return {name: of for name, of in vars(losses).items() if name != "doc_id"}


def _document_metrics(text: str, found: Fidelity, losses: Losses | None) -> pa.Table:
    """Rows of `DOCUMENT_METRICS`: null where a document's losses are not judged."""
    columns: dict[str, Any] = {
        "text": [text] * len(found.doc_id), "doc_id": found.doc_id
    } | found.documents  # fmt: skip
    place = {int(doc): n for n, doc in enumerate([] if losses is None else losses.doc_id)}
    which = [place.get(int(doc)) for doc in found.doc_id]
    for name in ("predictions", "clean", "spliced", "kl", "top1"):
        of = [] if losses is None else getattr(losses, name).tolist()
        columns[name] = [None if n is None else of[n] for n in which]
    return DOCUMENT_METRICS.of(*(columns[column.name] for column in DOCUMENT_METRICS.columns))


def _logits(sae: SparseAutoencoder, lm: torch.nn.Module, corpus: Artifact, draft: Draft) -> None:
    """Writes ``feature_logits.parquet``, over the corpus's own tokens; without rows, and with a
    warning, for a model whose end they can't be told of."""
    try:
        table = feature_logits(lm, sae.W_dec.float(), token_strings(corpus, special=False))
    except ConfigError as error:
        log.warning("%s; feature_logits stays empty", error)
        table = FEATURE_LOGITS.empty()
    draft.write_table(FEATURE_LOGITS.file, table)


def _density(latents: Artifact, draft: Draft) -> list[dict[str, Any]]:
    """Dead share, and the histogram of log10 densities; dead latents are in none of its bins."""
    values = latents.table("features.parquet", ["density"])["density"].to_numpy()
    alive = values[values > 0]
    counts, edges = np.histogram(np.log10(alive).clip(HISTOGRAM_BINS[0]), bins=HISTOGRAM_BINS)
    with draft.writing(DENSITY_HISTOGRAM.file) as path:
        parquet.write(path, DENSITY_HISTOGRAM.of(edges[:-1], edges[1:], counts))
    dead, n = len(values) - len(alive), len(values)
    note = "fire on no recorded token of the corpus, train and test: training tokens count"
    return [
        metrics.row("dead_share", Estimate(dead / n), n, "share", note),
        metrics.row("dead_latents", Estimate(float(dead)), n, "latents", note),
    ]


def _warn(rows: list[dict[str, Any]]) -> None:
    """Say which metrics are no numbers: a ratio to something that does not vary, or is zero."""
    undefined = [
        row["metric"] if row["text"] == OWN else f"{row['metric']} of {row['text']!r}"
        for row in rows
        if not np.isfinite(row["value"])
    ]
    if undefined:
        log.warning("evaluation: %s undefined, as what they are measured against is zero",
                    ", ".join(undefined) + (" is" if len(undefined) == 1 else " are"))  # fmt: skip
