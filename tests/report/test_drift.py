"""The report's drift: of each latent a context before and one since."""

from __future__ import annotations

from pathlib import Path

import duckdb
from support.drawn import SPORT_LATENT
from support.store_artifacts import plant

from deconstruct.report.sections.course import drift
from deconstruct.report.sections.look import Look
from deconstruct.store import open_store, publish, run_id_of
from deconstruct.store.rewrite import FILE

KNOWN = 20


def test_a_latent_has_a_context_before_and_one_since(tmp_path: Path) -> None:
    run = plant(tmp_path)
    publish(tmp_path, run.record, run.artifacts)
    with duckdb.connect(tmp_path / FILE) as store:
        facts = f'{{"reference_documents": {KNOWN}, "documents": 10}}'
        store.execute("UPDATE stages SET facts = ? WHERE stage = 'drift'", [facts])
    with open_store(tmp_path, files=False, verify=False) as store:
        moved = dict(drift(Look(store, run_id_of(run.artifacts)))["moved"])
    [row] = [row for row in moved["less often than before"] if row["latent"] == SPORT_LATENT]
    assert [when for when, _ in row["contexts"]] == ["before", "since"]
    strengths = run.activations[:, SPORT_LATENT]
    for part, (_, tokens) in zip(
        (run.doc_of < KNOWN, run.doc_of >= KNOWN), row["contexts"], strict=True
    ):
        [peak] = [token for token in tokens if token.peak]
        assert peak.token == " goal"
        assert abs(peak.activation - strengths[part].max()) < 1e-5
        assert peak.activation <= row["largest"]
