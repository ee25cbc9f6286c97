"""A planted massive activation is found and named; what is loud everywhere is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.planted_map import (
    LENGTH,
    MASSIVE_LATENTS,
    QUICK,
    QUOTE,
    WIDE,
    Planted,
    plant,
)

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import MapConfig


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, Artifact]:
    root = DataRoot(tmp_path_factory.mktemp("massive"))
    planted = plant(root)
    return planted, planted.made(root)


def test_the_token_is_named(made: tuple[Planted, Artifact]) -> None:
    planted, artifact = made
    [token] = artifact.table("massive_tokens.parquet").to_pylist()
    held, tokens = int(planted.holds.sum()), len(planted.dense)
    assert (token["token_id"], token["token"]) == (QUOTE, "'")
    assert (token["n"], token["n_documents"]) == (held, held)
    assert token["n_tokens"] == len(planted.group)
    assert token["share"] == pytest.approx(held / tokens)
    assert token["variance_share"] > 0.9
    assert token["max_ratio"] > 1000
    facts = artifact.facts
    assert facts["massive_tokens"] == facts["massive_documents"] == held
    assert facts["massive_share"] == pytest.approx(held / tokens)
    assert facts["massive_variance_share"] == pytest.approx(token["variance_share"])


def test_the_latents_are_named_with_what_they_do_elsewhere(
    made: tuple[Planted, Artifact],
) -> None:
    planted, artifact = made
    rows = artifact.table("massive_latents.parquet").to_pylist()
    found = {row["latent"]: row for row in rows}
    assert (
        set(found)
        == {*MASSIVE_LATENTS, WIDE}
        == {row["latent"] for row in rows[: len(MASSIVE_LATENTS) + 1]}
    )
    massive = np.flatnonzero(planted.dense[:, MASSIVE_LATENTS[0]] > 1000)
    for latent, row in found.items():
        strength = planted.dense[:, latent].astype(np.float32).astype(float)
        on, off = strength[massive], np.delete(strength, massive)
        off = off[off > 0]
        by_document = strength.reshape(-1, LENGTH).max(1)
        fires = by_document > 0
        assert (row["n_massive"], row["n_typical"]) == (len(massive), len(off))
        assert row["mean_massive"] == pytest.approx(on.mean())
        assert row["mean_typical"] == pytest.approx(off.mean())
        assert (row["max_massive"], row["max_typical"]) == (on.max(), off.max())
        assert row["share_of_sum"] == pytest.approx(on.sum() / strength.sum())
        assert row["share_of_document_maxima"] == pytest.approx(planted.holds.sum() / fires.sum())
        assert row["token"] == "'"
    pooled = planted.dense.reshape(-1, LENGTH, planted.dense.shape[1]).mean(1)[planted.holds]
    shares = np.square(pooled) / np.square(pooled).sum(1, keepdims=True)
    for latent, row in found.items():
        assert row["share_of_pooled"] == pytest.approx(shares[:, latent].mean(), rel=1e-4)
    order = [row["share_of_pooled"] for row in rows]
    assert order == sorted(order, reverse=True)
    assert artifact.facts["massive_latents"] == len(found)
    assert artifact.facts["massive_pooled_share"] == pytest.approx(sum(order))
    assert artifact.facts["massive_pooled_share"] > 0.99


def test_without_any_there_are_no_rows(tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    planted = plant(root)
    found = planted.made(root, MapConfig(**QUICK.model_dump() | {"massive_multiple": 1e9}))
    assert found.facts["massive_tokens"] == found.facts["massive_latents"] == 0
    assert found.facts["massive_pooled_share"] == found.facts["massive_variance_share"] == 0
    for name in ("massive_tokens", "massive_latents"):
        assert len(found.table(f"{name}.parquet")) == 0
    assert found.table("document_map.parquet")["massive"].to_pylist() == [0] * len(planted.group)
