"""What is counted of each latent, against its column of the dense activations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.dense_latents import CONSTANT, D_SAE, DEAD, TWIN, Reference

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import LatentsConfig
from deconstruct.features.tables import FEATURES
from deconstruct.latents import stage as latents


def test_features(
    tmp_path: Path, planted_sae: Artifact, activations_artifact: Artifact, corpus_artifact: Artifact
) -> None:
    inputs = {"sae": planted_sae, "activations": activations_artifact, "corpus": corpus_artifact}
    encoded = latents.encode(DataRoot(tmp_path), LatentsConfig(), **inputs, device="cpu")
    reference = Reference(planted_sae, activations_artifact)
    table = pq.read_table(encoded.file("features.parquet"))
    assert table.schema.equals(FEATURES.arrow)
    found = table.to_pylist()
    assert [row["latent"] for row in found] == list(range(D_SAE))
    tokens = pq.read_table(corpus_artifact.file("tokens.parquet")).to_pydict()
    text = dict(zip(tokens["token_id"], tokens["token"], strict=True))
    for row, column in zip(found, reference.dense.T, strict=True):
        fires = column > 0
        assert row["n_fires"] == fires.sum()
        assert row["density"] == fires.mean()
        assert row["n_documents"] == len(set(reference.doc_id[fires]))
        assert row["dead"] == (not fires.any())
        if row["dead"]:
            assert row["mean_activation"] is row["max_activation"] is row["top_token"] is None
            continue
        assert row["mean_activation"] == pytest.approx(column[fires].mean(), rel=1e-5)
        assert row["max_activation"] == column.max()
        counts = Counter(reference.token_id[fires].tolist())
        top, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        assert row["top_token"] == text[top]
        assert row["top_token_share"] == pytest.approx(count / fires.sum())
    assert found[DEAD]["dead"]
    assert found[CONSTANT]["density"] == 1
    assert found[CONSTANT]["mean_activation"] == found[CONSTANT]["max_activation"] == 50
    assert found[TWIN[0]]["nearest_latent"] == TWIN[1]
    assert found[TWIN[1]]["nearest_latent"] == TWIN[0]
    assert found[TWIN[1]]["nearest_cosine"] == pytest.approx(1)
    assert found[TWIN[1]]["decoder_norm"] == pytest.approx(2 * found[TWIN[0]]["decoder_norm"])
