"""Which latents tell a label's documents from all others: what the macro latents_for_label answers,
of all labels at once.

A sum over the documents of each label is a product of sparse matrices, so that one pass over the
pooled firings serves them all; the store's macro, which is asked about one label, takes one each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.artifacts import Artifact
from deconstruct.cluster.methods import Matrix
from deconstruct.corpus.alike.groups import group_ids
from deconstruct.corpus.tables import DOCUMENT_LABELS
from deconstruct.latents.pooling import latents_in_blocks
from deconstruct.map.layout import Floats
from deconstruct.map.tables import LABEL_LATENTS
from deconstruct.probe.measures import auroc_where_fires

Ints = NDArray[np.int64]
TOP = 50
"""Latents of each label."""
MOST_LABELS = 100
"""Of a column, the most frequent ones: as many as are probed."""
CELLS = 1 << 21
"""Labels times latents that are summed at a time: six such arrays of float64 are in memory."""
TRAIN, TEST = 0, 1


@dataclass(frozen=True)
class Labelled:
    """The documents that have, or may have, labels of one column.

    names: of the labels. member: CSR [documents of the corpus, labels], 1 where one has a label.
    known: bool [documents], whether it has a row at all. side: [documents], `TRAIN` or `TEST`.
    groups: [documents], equal for those that count as one.
    """

    names: list[str]
    member: Matrix
    known: NDArray[np.bool_]
    side: Ints
    groups: Ints


def label_latents(corpus: Artifact, latents: Artifact) -> pa.Table:
    """Rows of `LABEL_LATENTS`, with the column ``task`` where the corpus has several of labels."""
    several = "tasks" in corpus.facts
    table = LABEL_LATENTS.with_optional() if several else LABEL_LATENTS
    parts = [table.empty()]
    for name, labelled in _columns(corpus):
        rows = _rows(labelled, latents)
        parts.append(
            rows.add_column(0, table.arrow.field(0), pa.repeat(name, len(rows)))
            if several
            else rows
        )
    return pa.concat_tables(parts).combine_chunks()


def _columns(corpus: Artifact) -> Iterator[tuple[str, Labelled]]:
    """The columns of classes and of lists of labels, by name."""
    split = corpus.table("documents.parquet", ["split"])["split"]
    side = np.where(pc.equal(split, "test").to_numpy(zero_copy_only=False), TEST, TRAIN)
    groups = group_ids(corpus)
    if "tasks" not in corpus.facts:
        rows = corpus.table("documents.parquet", ["doc_id", "label"])
        rows = rows.filter(pc.is_valid(rows["label"])).rename_columns(["doc_id", "value"])
        yield "", _labelled(rows, side, groups)
        return
    for told in corpus.facts["tasks"]:
        if told["kind"] == "number":
            continue
        rows = corpus.table(DOCUMENT_LABELS.file, ["doc_id", "task", "value"])
        own = rows.filter(pc.equal(rows["task"], told["task"]))
        yield str(told["task"]), _labelled(own.select(["doc_id", "value"]), side, groups)


def _labelled(rows: pa.Table, side: Ints, groups: Ints) -> Labelled:
    known = np.zeros(len(side), np.bool_)
    known[rows["doc_id"].to_numpy()] = True
    named = rows.filter(pc.is_valid(rows["value"]))
    counts = sorted(
        (
            (value["counts"], value["values"])
            for value in pc.value_counts(named["value"]).to_pylist()
        ),
        key=lambda one: (-one[0], one[1]),
    )
    names = sorted(name for _, name in counts[:MOST_LABELS])
    label = pc.index_in(named["value"], pa.array(names, pa.string()))
    doc_id = named["doc_id"].to_numpy()[label.is_valid().to_numpy(zero_copy_only=False)]
    place = label.drop_null().to_numpy().astype(np.int64)
    shape = (len(side), len(names))
    member = sparse.csr_matrix((np.ones(len(doc_id)), (doc_id, place)), shape)
    member.data[:] = 1  # a list may name a label twice
    return Labelled(names, member, known, side, groups)


def _rows(labelled: Labelled, latents: Artifact) -> pa.Table:
    """Of all labels of a column, some at a time."""
    d_sae = len(latents.table("features.parquet", ["latent"]))
    step = max(1, CELLS // d_sae)
    parts = [LABEL_LATENTS.empty()]
    for first in range(0, len(labelled.names), step):
        some = slice(first, first + step)
        sums = [_Sums.of(labelled, some, side, latents, d_sae) for side in (TRAIN, TEST)]
        parts += _ranked(labelled, some, sums, latents)
    return pa.concat_tables(parts)


@dataclass(frozen=True)
class _Sums:
    """Of some labels on one side of the split, [labels, 2] or [labels, 2, d_sae], inside before
    outside.

    n: documents. texts: as how many independent ones they count (Kish 1965). fires: documents in
    which a latent fires. d: Cohen's d, nan where it is not defined. mean: of the pooled activation.
    """

    n: Floats
    texts: Floats
    fires: Floats
    d: Floats
    mean: Floats

    @classmethod
    def of(cls, labelled: Labelled, some: slice, side: int, latents: Artifact, d_sae: int) -> _Sums:
        mine = labelled.known & (labelled.side == side)
        member = labelled.member[:, some].multiply(mine[:, None]).tocsr()
        labels = member.shape[1]
        inside, all_of = (np.zeros((3, labels, d_sae)), np.zeros((3, 1, d_sae)))
        for doc_id, rows in latents_in_blocks(latents):
            own = mine[doc_id]
            pooled, docs = rows[own].astype(np.float64), doc_id[own]
            fires = pooled.copy()
            fires.data[:] = 1
            for place, values in enumerate((fires, pooled, pooled.multiply(pooled).tocsr())):
                inside[place] += (member[docs].T @ values).toarray()
                all_of[place] += np.asarray(values.sum(0))
        outside = np.where(all_of[0] - inside[0] > 0, all_of - inside, 0)
        n, texts = _sizes(labelled, member, mine)
        fires, total, squares = np.stack([inside, outside], 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / n[:, :, None]
            spread = ((squares / n[:, :, None] - mean**2).sum(1) / 2).clip(0) ** 0.5
            d = (mean[:, 0] - mean[:, 1]) / np.where(spread > 0, spread, np.nan)
        d[fires.sum(1) == 0] = np.nan
        return cls(n, texts, fires, d, mean)


def _sizes(labelled: Labelled, member: Matrix, mine: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """How many documents are in and out of each label, [labels, 2], and as how many they count."""
    docs = np.flatnonzero(mine)
    _, group = np.unique(labelled.groups[docs], return_inverse=True)
    count = int(group.max()) + 1 if len(docs) else 0
    of_group = sparse.csr_matrix(
        (np.ones(len(docs)), (group, np.arange(len(docs)))), (count, len(docs))
    )
    inside = (of_group @ member[docs]).tocsr()
    size = np.bincount(group, minlength=count).astype(np.float64)
    n_in = np.asarray(inside.sum(0)).ravel()
    q_in = np.asarray(inside.multiply(inside).sum(0)).ravel()
    q_out = (size**2).sum() - 2 * np.asarray(inside.T @ size).ravel() + q_in
    n = np.stack([n_in, len(docs) - n_in], 1)
    squares = np.stack([q_in, q_out], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return n, n**2 / np.where(squares > 0, squares, np.nan)


def _ranked(
    labelled: Labelled, some: slice, sums: list[_Sums], latents: Artifact
) -> Iterator[pa.Table]:
    """The rows of each of some labels."""
    train, test = sums
    names = labelled.names[some]
    seen = (train.fires + test.fires).sum((0, 1)) > 0
    chosen = []
    for own in train.d:
        strength = np.where(np.isnan(own), -1, np.abs(own))
        order = np.argsort(-strength, kind="stable")
        chosen.append(order[seen[order]][:TOP])
    areas = _areas(labelled, some, chosen, latents)
    half = 1.96 * np.sqrt(
        (1 / test.texts).sum(1)[:, None] + test.d**2 / (2 * test.texts.sum(1)[:, None])
    )
    for place, (name, latent) in enumerate(zip(names, chosen, strict=True)):
        n, d = test.n[place], test.d[place, latent]
        fires = test.fires[place][:, latent]
        ever = fires.sum(0) > 0
        mean = np.nan_to_num(test.mean[place][:, latent])
        difference = np.where(n.min() > 0, mean[0] - mean[1], 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            documents = fires / n[:, None]
        width = half[place, latent]
        columns = (
            train.d[place, latent], d, d - width, d + width,
            np.where(ever, areas[place], np.nan), difference, *mean, *documents,
        )  # fmt: skip
        yield LABEL_LATENTS.of(
            [name] * len(latent),
            latent.astype(np.uint32),
            np.arange(1, len(latent) + 1, dtype=np.uint32),
            *(pa.array(column, pa.float64(), from_pandas=True) for column in columns),
        )


def _areas(labelled: Labelled, some: slice, chosen: list[Ints], latents: Artifact) -> list[Floats]:
    """The area under the ROC curve of each label's latents, over held-out documents: a document of
    the label wins over each other one that is weaker, and half over equals."""
    mine = labelled.known & (labelled.side == TEST)
    wanted = np.unique(np.concatenate([*chosen, np.zeros(0, np.int64)]))
    docs, parts = [], []
    for doc_id, pooled in latents_in_blocks(latents):
        docs.append(doc_id[mine[doc_id]])
        parts.append(pooled[mine[doc_id]][:, wanted].tocsc())  # put together a column at a time
    found = [np.full(len(own), np.nan) for own in chosen]
    if not docs or not mine.any():
        return found
    begins = np.cumsum([0, *map(len, docs)])
    doc_id = np.concatenate(docs)
    member = labelled.member[:, some]
    inside = member[doc_id].toarray() > 0
    n_in = np.asarray(member[mine].sum(0)).ravel()
    n_out = mine.sum() - n_in
    for label, own in enumerate(chosen):
        if n_in[label] == 0 or n_out[label] == 0:
            continue
        for place, column in enumerate(np.searchsorted(wanted, own)):
            those = [slice(*part.indptr[column : column + 2]) for part in parts]
            value = np.concatenate([p.data[own] for p, own in zip(parts, those, strict=True)])
            at = [p.indices[own] + b for p, own, b in zip(parts, those, begins[:-1], strict=True)]
            within = inside[np.concatenate(at), label]
            found[label][place] = auroc_where_fires(value, within, n_in[label], n_out[label])
    return found
