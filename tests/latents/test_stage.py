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

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.common.errors import DataError
from deconstruct.config import LatentsConfig, SaeConfig
from deconstruct.features import geometry
from deconstruct.features.geometry import Geometry
from deconstruct.features.tables import FEATURES
from deconstruct.latents import stage as latents
from deconstruct.latents import tables
from deconstruct.sae import files, stage
from deconstruct.sae.autoencoder import SparseAutoencoder

D_SAE, K = 48, 6
DEAD, CONSTANT, TWIN = 7, 11, (20, 33)


def sae_of(home: Path, d_in: int, architecture: str = "topk", **changes: torch.Tensor) -> Artifact:
    """An SAE with random weights and planted latents: one dead, one that always fires with
    the same strength, two with the same decoder row."""
    draw = torch.Generator().manual_seed(0)
    weights = {
        "W_enc": torch.randn(d_in, D_SAE, generator=draw),
        "b_enc": torch.randn(D_SAE, generator=draw) * 0.1,
        "W_dec": torch.randn(D_SAE, d_in, generator=draw),
        "b_dec": torch.zeros(d_in),
    }
    weights["W_enc"][:, [DEAD, CONSTANT]] = 0
    weights["b_enc"][[DEAD, CONSTANT]] = torch.tensor([-1.0, 50.0])
    weights["W_dec"][TWIN[1]] = 2 * weights["W_dec"][TWIN[0]]
    weights |= changes
    sae = SparseAutoencoder(architecture, weights, K)

    def write(draft: Draft) -> None:
        with draft.writing(files.WEIGHTS) as path:
            files.save_weights(sae, path)
        draft.write_json(files.CONFIG, files.config_of(sae, {}))

    sums = {name: str(weight.double().sum().item()) for name, weight in weights.items()}
    return DataRoot(home).make(Recipe("sae", 1, {"architecture": architecture}, sums), write)


@pytest.fixture(scope="module", params=["topk", "relu"])
def sae(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    activations_artifact: Artifact,
) -> Artifact:
    d_in = ActivationReader(activations_artifact).d_in
    return sae_of(tmp_path_factory.mktemp("sae"), d_in, request.param)


@pytest.fixture
def encoded(
    tmp_path: Path, sae: Artifact, activations_artifact: Artifact, corpus_artifact: Artifact
) -> Artifact:
    return latents.encode(
        DataRoot(tmp_path / "home"),
        LatentsConfig(),
        sae=sae,
        activations=activations_artifact,
        corpus=corpus_artifact,
        device="cpu",
    )


class Reference:
    """Every recorded token's activations as one dense matrix, ordered by token."""

    def __init__(self, sae: Artifact, activations: Artifact) -> None:
        blocks = [
            block
            for split in ("train", "test")
            for block in ActivationReader(activations, split).rows_in_order()
        ]
        token_index = np.concatenate([block.token_index for block in blocks])
        order = np.argsort(token_index)
        self.token_index = token_index[order].astype(np.int64)
        self.doc_id = np.concatenate([block.doc_id for block in blocks])[order]
        self.token_id = np.concatenate([block.token_id for block in blocks])[order]
        dense = []
        for block in blocks:
            sparse = files.load(sae.path).encode_sparse(block.activation)
            rows = np.zeros((len(block), D_SAE), np.float32)
            for row in range(len(block)):
                at = slice(int(sparse.offsets[row]), int(sparse.offsets[row + 1]))
                rows[row, sparse.latents[at].numpy()] = sparse.activations[at].numpy()
            dense.append(rows)
        self.dense = np.concatenate(dense)[order]

    def firings(self, threshold: float = 0.0) -> list[tuple[int, int, float]]:
        token, latent = np.nonzero(self.dense > threshold)
        strength = self.dense[token, latent].tolist()
        return list(zip(latent.tolist(), self.token_index[token].tolist(), strength, strict=True))


@pytest.fixture
def reference(sae: Artifact, activations_artifact: Artifact) -> Reference:
    return Reference(sae, activations_artifact)


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


def test_features(
    encoded: Artifact, reference: Reference, corpus_artifact: Artifact, sae: Artifact
) -> None:
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


def test_geometry_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    W_enc, W_dec = torch.randn(8, 29, generator=draw), torch.randn(29, 8, generator=draw)
    W_dec[5] = 0
    unit = torch.nn.functional.normalize(W_dec.double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    monkeypatch.setattr(geometry, "BLOCK_COSINES", 29 * 4)
    found = Geometry.of(W_enc, W_dec)
    np.testing.assert_array_equal(found.nearest_latent[:5], cosines.argmax(1)[:5])
    np.testing.assert_allclose(found.nearest_cosine, cosines.amax(1), atol=1e-6)
    aligned = torch.nn.functional.cosine_similarity(W_enc.T.double(), W_dec.double())
    np.testing.assert_allclose(found.encoder_decoder_cosine, aligned, atol=1e-6)
    assert found.nearest_cosine[5] == found.encoder_decoder_cosine[5] == found.decoder_norm[5] == 0
    assert found.nearest_latent[5] != 5


def test_bytes_depend_on_neither_buckets_nor_a_kill(
    tmp_path: Path,
    encoded: Artifact,
    sae: Artifact,
    activations_artifact: Artifact,
    corpus_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = DataRoot(tmp_path / "other")
    inputs = {"sae": sae, "activations": activations_artifact, "corpus": corpus_artifact}
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
    sae: Artifact,
    activations_artifact: Artifact,
    corpus_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latents, "GROUP_ROWS", 200)
    made = latents.encode(
        DataRoot(tmp_path),
        LatentsConfig(),
        sae=sae,
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
    sae: Artifact,
    activations_artifact: Artifact,
    corpus_artifact: Artifact,
) -> None:
    inputs = {"sae": sae, "activations": activations_artifact, "corpus": corpus_artifact}
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
    sae: Artifact, activations_artifact: Artifact, corpus_artifact: Artifact
) -> None:
    config = LatentsConfig()
    a, b, c = sae, activations_artifact, corpus_artifact
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
