"""The latents stage against a brute-force reference, on a small real model's activations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.dense_latents import CONSTANT, D_SAE, Reference, sae_of

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import DataError
from deconstruct.config import LatentsConfig, SaeConfig
from deconstruct.latents import stage as latents
from deconstruct.latents import tables
from deconstruct.sae import files, stage


@pytest.fixture
def encoded(
    tmp_path: Path, planted_sae: Artifact, activations_artifact: Artifact, corpus_artifact: Artifact
) -> Artifact:
    return latents.encode(
        DataRoot(tmp_path / "home"),
        LatentsConfig(),
        sae=planted_sae,
        activations=activations_artifact,
        corpus=corpus_artifact,
        device="cpu",
    )


@pytest.fixture
def reference(planted_sae: Artifact, activations_artifact: Artifact) -> Reference:
    return Reference(planted_sae, activations_artifact)


def rows(artifact: Artifact, name: str) -> list[tuple[Any, ...]]:
    """Through DuckDB, as analysts read them."""
    query = f"FROM read_parquet('{artifact.file(name)}', file_row_number = true)"
    columns = f"SELECT * EXCLUDE (file_row_number) {query} ORDER BY file_row_number"
    return duckdb.execute(columns).fetchall()


def test_firings_in_both_orders(encoded: Artifact, reference: Reference) -> None:
    firings = reference.firings()
    assert len({s for _, _, s in firings}) < len(firings)  # there are ties to order
    expected = sorted(firings, key=lambda f: (f[0], -f[2], f[1]))
    assert rows(encoded, "latents.parquet") == expected
    expected = sorted(firings, key=lambda f: (f[1], f[0]))
    assert rows(encoded, "latents_by_token.parquet") == expected
    tokens = len(reference.token_index)
    assert encoded.facts == {
        "rows": len(firings),
        "tokens": tokens,
        "l0": len(firings) / tokens,
        "dead_share": pytest.approx((reference.dense.max(0) == 0).mean()),
    }
    assert encoded.facts["dead_share"] >= 1 / D_SAE
    for name in ("latents.parquet", "latents_by_token.parquet"):
        assert encoded.manifest.files[name].rows == len(firings)
        assert pq.read_schema(encoded.file(name)).equals(tables.LATENTS.arrow)
        pq.read_table(encoded.file(name), page_checksum_verification=True)


def test_documents_are_pooled_over_all_their_recorded_tokens(
    encoded: Artifact, reference: Reference
) -> None:
    expected = []
    for doc_id in np.unique(reference.doc_id):
        own = reference.dense[reference.doc_id == doc_id]
        for latent in np.flatnonzero((own > 0).any(0)):
            column = own[:, latent]
            expected.append((doc_id, latent, (column > 0).sum(), column.mean(), column.max()))
    found = np.array(rows(encoded, "document_latents.parquet"))
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-6)


def test_bytes_depend_on_neither_buckets_nor_a_kill(
    tmp_path: Path,
    encoded: Artifact,
    planted_sae: Artifact,
    activations_artifact: Artifact,
    corpus_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = DataRoot(tmp_path / "other")
    inputs = {"sae": planted_sae, "activations": activations_artifact, "corpus": corpus_artifact}
    monkeypatch.setattr(latents, "BUCKET_TOKENS", 100)
    with monkeypatch.context() as broken:
        broken.setattr(latents._Encoding, "_by_latent", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            latents.encode(root, LatentsConfig(), **inputs, device="cpu")
    key = latents.recipe(LatentsConfig(), **inputs).key
    left = root.path / "latents" / f".{key}.partial"
    assert {path.name for path in left.iterdir()} >= {"latents_by_token.parquet"}
    (left / ".scratch/by-latent").mkdir(parents=True)  # as SIGKILL leaves it
    (left / ".scratch/by-latent/000").write_bytes(b"half a firing")
    again = latents.encode(root, LatentsConfig(), **inputs, device="cpu")
    assert again.digest() == encoded.digest()
    assert again.facts == encoded.facts
    assert not (again.path / ".scratch").exists()


def test_one_latent_is_in_few_row_groups(
    tmp_path: Path,
    planted_sae: Artifact,
    activations_artifact: Artifact,
    corpus_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latents, "GROUP_ROWS", 200)
    made = latents.encode(
        DataRoot(tmp_path),
        LatentsConfig(),
        sae=planted_sae,
        activations=activations_artifact,
        corpus=corpus_artifact,
    )
    metadata = pq.ParquetFile(made.file("latents.parquet")).metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert [g.num_rows for g in groups[:-1]] == [200] * (len(groups) - 1)
    assert len(groups) > 20
    ranges = [g.column(0).statistics for g in groups]
    fires = Counter(row[0] for row in rows(made, "latents.parquet"))
    for latent, count in fires.items():
        assert sum(r.min <= latent <= r.max for r in ranges) <= count // 200 + 2


def test_threshold_is_strict(
    tmp_path: Path,
    reference: Reference,
    planted_sae: Artifact,
    activations_artifact: Artifact,
    corpus_artifact: Artifact,
) -> None:
    inputs = {"sae": planted_sae, "activations": activations_artifact, "corpus": corpus_artifact}
    made = latents.encode(DataRoot(tmp_path), LatentsConfig(threshold=8.0), **inputs)
    expected = sorted(reference.firings(8.0), key=lambda f: (f[1], f[0]))
    assert 0 < len(expected) < len(reference.firings())
    assert rows(made, "latents_by_token.parquet") == expected
    # The constant latent's strength is the threshold itself: nothing is left.
    none = latents.encode(DataRoot(tmp_path), LatentsConfig(threshold=1e9), **inputs)
    assert (none.facts["rows"], none.facts["l0"], none.facts["dead_share"]) == (0, 0, 1)
    assert rows(none, "latents.parquet") == rows(none, "document_latents.parquet") == []
    assert pq.read_table(none.file("features.parquet"))["dead"].to_pylist() == [True] * D_SAE
    exact = latents.encode(DataRoot(tmp_path), LatentsConfig(threshold=50.0), **inputs)
    assert CONSTANT not in {row[0] for row in rows(exact, "latents.parquet")}


def test_saes_that_can_not_be_used(
    tmp_path: Path, activations_artifact: Artifact, corpus_artifact: Artifact
) -> None:
    d_in = ActivationReader(activations_artifact).d_in
    root = DataRoot(tmp_path)
    narrow = sae_of(tmp_path, d_in - 1)
    with pytest.raises(DataError, match=rf"takes activations of width {d_in - 1} .* width {d_in}"):
        latents.encode(
            root,
            LatentsConfig(),
            sae=narrow,
            activations=activations_artifact,
            corpus=corpus_artifact,
        )
    broken = sae_of(tmp_path, d_in, b_enc=torch.full((D_SAE,), torch.nan))
    with pytest.raises(DataError, match=r"not all finite numbers.*learning_rate"):
        latents.encode(
            root,
            LatentsConfig(),
            sae=broken,
            activations=activations_artifact,
            corpus=corpus_artifact,
        )
    assert not list(root.path.glob("latents/[!.]*"))


def test_key_follows_every_input(
    planted_sae: Artifact, activations_artifact: Artifact, corpus_artifact: Artifact
) -> None:
    config = LatentsConfig()
    a, b, c = planted_sae, activations_artifact, corpus_artifact
    keys = {
        latents.recipe(config, sae=x, activations=y, corpus=z).key
        for x, y, z in ((a, b, c), (b, b, c), (a, c, c), (a, b, a))
    }
    keys |= {latents.recipe(LatentsConfig(threshold=1), sae=a, activations=b, corpus=c).key}
    assert len(keys) == 5


def test_a_trained_sae(
    tmp_path: Path, activations_artifact: Artifact, corpus_artifact: Artifact
) -> None:
    root = DataRoot(tmp_path)
    config = SaeConfig(d_sae=64, k=4, tokens=8_000, batch_size=256)
    trained = stage.train(root, config, activations=activations_artifact, device="cpu")
    made = latents.encode(
        root,
        LatentsConfig(),
        sae=trained,
        activations=activations_artifact,
        corpus=corpus_artifact,
        device="cpu",
    )
    facts = activations_artifact.facts
    assert made.facts["tokens"] == facts["train_rows"] + facts["test_rows"]
    assert 3 < made.facts["l0"] <= 4
    sae = files.load(trained.path)
    token, latent, strength = (
        pq.read_table(made.file("latents_by_token.parquet"))[name].to_numpy()
        for name in ("token_index", "latent", "activation")
    )
    # What was recorded reconstructs the activations as well as the SAE itself does.
    for block in ActivationReader(activations_artifact, "test").rows_in_order():
        for row in range(0, len(block), 50):
            own = token == block.token_index[row]
            rebuilt = torch.from_numpy(strength[own]) @ sae.W_dec[latent[own].astype(int)]
            expected = sae(block.activation[row : row + 1])[0]
            torch.testing.assert_close(rebuilt + sae.b_dec, expected, rtol=1e-3, atol=1e-3)
