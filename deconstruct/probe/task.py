"""What is to be told of which documents: a column of labels, and the documents that have one.

A class, or each of a list of labels, is told from all others by a probe of its own; a number is
told as it is. At most `ProbeConfig.max_documents` documents are trained on, and as many tested on:
those whose text has the smallest digest, whatever their order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.corpus.alike.groups import group_ids
from deconstruct.corpus.tables import DOCUMENT_LABELS
from deconstruct.probe.shuffled import shuffled
from deconstruct.probe.vectors import Floats, Ints

FOLDS = 3
MIN_TRAIN = 2
"""Train documents that a label needs: with fewer, one fold would know nothing of it."""
MOST_TARGETS = 100
"""Labels that are probed, the most frequent ones: each has some 40 probes of all documents."""


@dataclass(frozen=True)
class Sample:
    """The documents that are read. documents: how many the corpus has. train, test: doc_ids of what
    is read, ascending. groups: [documents], equal where texts are alike, or hang together."""

    documents: int
    train: Ints
    test: Ints
    groups: Ints

    @classmethod
    def of(cls, corpus: Artifact, most: int) -> Sample:
        """Of the documents with a label (all, where none has one) so many of each split."""
        digest, train, labelled = [], [], []
        for block in corpus.rows("documents.parquet", ["doc_key", "split", "label"]):
            keys = block["doc_key"].to_pylist()
            digest.append(np.array([int(key[:16], 16) for key in keys], np.uint64))
            train.append(pc.equal(block["split"], "train").to_numpy(zero_copy_only=False))
            labelled.append(block["label"].is_valid().to_numpy(zero_copy_only=False))
        order, in_train = np.concatenate(digest), np.concatenate(train)
        known = np.concatenate(labelled)
        if "tasks" in corpus.facts:
            for rows in corpus.rows(DOCUMENT_LABELS.file, ["doc_id"]):
                known[rows["doc_id"].to_numpy()] = True
        if not known.any():
            known[:] = True
        sides = (np.flatnonzero(known & side) for side in (in_train, ~in_train))
        own, held_out = (np.sort(s[np.argsort(order[s], kind="stable")[:most]]) for s in sides)
        return cls(len(order), own, held_out, group_ids(corpus))


@dataclass(frozen=True)
class Task:
    """One column of labels.

    kind: class, multilabel or number. targets: labels that have a probe, sorted; of a number one,
    None. train, test: doc_ids. train_truth, test_truth: float64 [documents, targets]: 0 or 1, or
    the number. train_groups, test_groups: equal for documents that hang together. left_out: labels
    with too few train documents. reason: why there is nothing to probe.
    """

    kind: str
    targets: list[str | None]
    train: Ints
    test: Ints
    train_truth: Floats
    test_truth: Floats
    train_groups: Ints
    test_groups: Ints
    left_out: list[str]
    reason: str | None

    @classmethod
    def of(cls, kind: str, labels: dict[int, list[str]], sample: Sample) -> Task:
        """labels: what each document of the sample has of them that has, or may have, any."""
        train, test = (
            np.array([doc for doc in side.tolist() if doc in labels], np.int64)
            for side in (sample.train, sample.test)
        )
        if kind == "number":
            truths = [np.array([[float(labels[d][0])] for d in s]) for s in (train, test)]
            return cls._made(kind, [None], [train, test], truths, sample, [])
        names = sorted({name for own in labels.values() for name in own})
        place = {name: number for number, name in enumerate(names)}
        truths = []
        for side in (train, test):
            truth = np.zeros((len(side), len(names)))
            for row, doc in enumerate(side.tolist()):
                truth[row, [place[name] for name in labels[doc]]] = 1
            truths.append(truth)
        count = truths[0].sum(0)
        keep = np.flatnonzero(count >= MIN_TRAIN)
        if kind == "multilabel":  # what every document has can't be told from its absence
            keep = keep[count[keep] <= len(train) - MIN_TRAIN]
        keep = np.sort(keep[np.argsort(-count[keep], kind="stable")[:MOST_TARGETS]])
        sides = [train, test]
        if kind == "class":  # a document of a class that is left out is none of the others either
            known = [truth[:, keep].any(1) for truth in truths]
            sides = [side[one] for side, one in zip(sides, known, strict=True)]
            truths = [truth[one] for truth, one in zip(truths, known, strict=True)]
        kept = [names[number] for number in keep]
        left_out = [name for name in names if name not in kept]
        truths = [truth[:, keep] for truth in truths]
        return cls._made(kind, list(kept), sides, truths, sample, left_out)

    @classmethod
    def _made(
        cls, kind: str, targets: list[str | None], sides: list[Ints], truths: list[Floats],
        sample: Sample, left_out: list[str],
    ) -> Task:  # fmt: skip
        reason = None
        if not targets and not left_out and kind != "number":
            reason = "the corpus has no labels (corpus.label_column)"
        elif kind == "class" and len(targets) < 2:
            count = f"{len(targets)} class" + ("" if len(targets) == 1 else "es")
            reason = f"the train documents have {count} to learn, a probe needs two"
        elif kind == "multilabel" and not targets:
            reason = "no label is on some train documents and not on others"
        elif kind == "number" and len(np.unique(truths[0])) < 2:
            reason = "the train documents have no two different numbers"
        elif len(sides[1]) == 0:
            reason = "no held-out document has a label that the train documents have"
        own, held_out = (np.unique(sample.groups[s], return_inverse=True)[1] for s in sides)
        return cls(kind, targets, sides[0], sides[1], truths[0], truths[1], own, held_out, left_out,
                   reason)  # fmt: skip

    def dealt(self, seed: int) -> Task:
        """The same with the labels of other documents of their split (`shuffled`)."""
        return replace(
            self,
            train_truth=shuffled(self.train_truth, seed),
            test_truth=shuffled(self.test_truth, seed),
        )

    @property
    def fitted(self) -> NDArray[np.int64]:
        """Columns that have a model of their own: of two classes one speaks for both."""
        both = self.kind == "class" and len(self.targets) == 2
        return np.array([1]) if both else np.arange(len(self.targets))

    def spread(self, fitted: Floats) -> Floats:
        """Of what the models say (last axis: `fitted`) what is said of each target."""
        return fitted if fitted.shape[-1] == len(self.targets) else np.concatenate(
            [-fitted, fitted], -1
        )  # fmt: skip

    def folds(self, seed: int) -> list[tuple[Ints, Ints]]:
        """Train rows in turn to fit on and to judge by; documents of a group are on one side.

        Each class is dealt out evenly, beginning where its first document falls, so that nothing
        depends on what classes are called. None, where there are no two groups.
        """
        _, first = np.unique(self.train_groups, return_index=True)
        draw = np.random.default_rng(seed)
        first = first[draw.permutation(len(first))]
        count = min(FOLDS, len(first))
        own_class = (
            self.train_truth[first].argmax(1) if self.kind == "class" else np.zeros(len(first))
        )
        fold = np.zeros(int(self.train_groups.max()) + 1, np.int64)
        for number in np.unique(own_class):
            places = np.flatnonzero(own_class == number)
            dealt = (places[0] + np.arange(len(places))) % count
            fold[self.train_groups[first[places]]] = dealt
        own = fold[self.train_groups]
        if count < 2:
            return []
        return [(np.flatnonzero(own != one), np.flatnonzero(own == one)) for one in range(count)]


def tasks_of(corpus: Artifact, sample: Sample) -> dict[str, Task]:
    """Column -> its task: those of classes first, as the first of them is the run's own."""
    wanted = np.zeros(sample.documents, np.bool_)
    wanted[sample.train], wanted[sample.test] = True, True
    if "tasks" not in corpus.facts:
        column = str(corpus.manifest.config.get("label_column"))
        table = corpus.table("documents.parquet", ["doc_id", "label"])
        rows = table.filter(pc.is_valid(table["label"]))
        return {column: Task.of("class", _by_document([rows], "label", wanted), sample)}
    found = {}
    told = corpus.facts["tasks"]
    for one in sorted(told, key=lambda one: one["kind"] != "class"):
        name = str(one["task"])
        rows = (
            rows.filter(pc.equal(rows["task"], name))
            for rows in corpus.rows(DOCUMENT_LABELS.file, ["doc_id", "task", "value"])
        )
        found[name] = Task.of(str(one["kind"]), _by_document(rows, "value", wanted), sample)
    return found


def _by_document(tables: Any, column: str, wanted: NDArray[np.bool_]) -> dict[int, list[str]]:
    """Labels of each wanted document that has any, or is known to have none of a list."""
    found: dict[int, list[str]] = {}
    for rows in tables:
        doc_id = rows["doc_id"].to_numpy()
        mine = np.flatnonzero(wanted[doc_id])
        values = rows[column].take(mine).to_pylist()
        for doc, value in zip(doc_id[mine].tolist(), values, strict=True):
            own = found.setdefault(doc, [])
            if value is not None:
                own.append(value)
    return found
