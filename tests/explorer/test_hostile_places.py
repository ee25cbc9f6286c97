"""Tokens and labels of any kind, where documents are told apart by them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
from support.drawn import TOKEN_IDS, Drawn
from support.store_artifacts import plant

from deconstruct.report.reading.corpus.marks import marks
from deconstruct.report.reading.corpus.places import documents
from deconstruct.store import open_store, publish, run_id_of

TEXTS = ("a", "a\0", "\0", "", "x" * 1_000_000)
LONG = "y" * 1_000_000


def test_each_is_itself_and_takes_its_own_room(tmp_path: Path) -> None:
    def change(drawn: Drawn) -> None:
        for place in np.flatnonzero(~drawn.special)[: 2 * len(TEXTS)]:
            drawn.tokens[place] = TEXTS[place % len(TEXTS)]
            TOKEN_IDS.setdefault(drawn.tokens[place], 99)

    names = ("b", "b\0", LONG)
    run = plant(tmp_path, documents=30, names=names, change=change)
    publish(tmp_path, run.record, run.artifacts)
    run_id = run_id_of(run.artifacts)
    with open_store(tmp_path, files=False) as store:
        tracemalloc.start()
        try:
            found = marks(store, run_id, [0, 1])
            there = documents(store, run_id)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found.n == 2
    assert set(there.groups["label"].names) == set(names)
    assert most < 50_000_000
