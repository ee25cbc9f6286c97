"""The stage matching over two SAEs of one corpus, against dense arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.growing import TRAINED, Home

from deconstruct.activations.shards import ShardFile
from deconstruct.artifacts import Artifact
from deconstruct.common.errors import DataError
from deconstruct.matching import correlation, stage
from deconstruct.sae import stage as sae


def dense(latents: Artifact, tokens: np.ndarray) -> np.ndarray:
    """Activations on some tokens: [tokens, d_sae]."""
    rows = latents.table("latents.parquet")
    found = np.zeros((int(tokens.max()) + 1, TRAINED.d_sae))
    token = rows["token_index"].to_numpy()
    kept = token <= tokens.max()
    found[token[kept], rows["latent"].to_numpy()[kept]] = rows["activation"].to_numpy()[kept]
    return found[tokens]


def test_latents_of_two_seeds(growing: Home, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = growing.read(texts)
    recorded = growing.record(read)
    sides: dict[str, Artifact] = {}
    for seed, side in enumerate(("", "other_")):
        config = TRAINED.model_copy(update={"seed": seed})
        sides[f"{side}sae"] = sae.train(growing.root, config, activations=recorded, device="cpu")
        sides[f"{side}latents"] = growing.encode(sides[f"{side}sae"], recorded, read)
    monkeypatch.setattr(correlation, "TOKENS", 97)  # ranges that end within row groups
    made = stage.match(growing.root, **sides)
    assert made.made
    assert not stage.match(growing.root, **sides).made
    rows = made.table("latent_matches.parquet").to_pydict()
    assert rows["latent"] == list(range(TRAINED.d_sae))
    fires = [
        sides[f"{side}latents"].table("features.parquet")["n_fires"].to_numpy()
        for side in ("", "other_")
    ]
    partners = [p for p in rows["other_latent"] if p is not None]
    assert len(partners) == len(set(partners)) == min((f > 0).sum() for f in fires)
    assert all(fires[1][p] > 0 for p in partners)
    assert made.facts["pairs"] == len(partners)
    assert made.facts["latents"] == (fires[0] > 0).sum()

    shards = [ShardFile(path) for path in recorded.files("test-*.parquet")]
    tokens = np.sort(np.concatenate([s.column(0, "token_index") for s in shards])).astype(int)
    assert made.facts["tokens"] == len(tokens) > 97
    a, b = (dense(sides[f"{side}latents"], tokens) for side in ("", "other_"))
    known = 0
    for latent, partner, found in zip(
        rows["latent"], rows["other_latent"], rows["correlation"], strict=True
    ):
        if partner is None or a[:, latent].std() == 0 or b[:, partner].std() == 0:
            assert found is None
            continue
        known += 1
        assert found == pytest.approx(np.corrcoef(a[:, latent], b[:, partner])[0, 1], abs=1e-9)
    assert known > 20
    metrics = {r["metric"]: r for r in made.table("matching_metrics.parquet").to_pylist()}
    assert metrics["mean_correlation"]["n"] == known
    assert made.facts["mean_correlation"] == metrics["mean_correlation"]["value"]
    said = stage.sentence(made)
    assert f"mean max cosine {made.facts['mean_max_cosine']:.2f} (random " in said
    assert f"calibrated PW-MCC {made.facts['pw_mcc_calibrated']:.2f}" in said


def test_one_run_with_itself_is_refused(growing: Home, texts: Path) -> None:
    read = growing.read(texts)
    recorded = growing.record(read)
    trained = sae.train(growing.root, TRAINED, activations=recorded, device="cpu")
    latents = growing.encode(trained, recorded, read)
    with pytest.raises(DataError, match=r"both sides are the latents .* name runs of two SAEs"):
        stage.match(
            growing.root, sae=trained, latents=latents, other_sae=trained, other_latents=latents
        )
