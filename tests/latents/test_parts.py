"""Firings of a bucket that has very many: ordered part by part, in memory that does not grow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import LatentsConfig
from deconstruct.latents import buckets
from deconstruct.latents import stage as latents
from deconstruct.latents.buckets import FIRING, Buckets
from deconstruct.latents.stage import _weakening


def test_bytes_do_not_depend_on_parts(
    tmp_path: Path,
    planted_sae: Artifact,
    activations_artifact: Artifact,
    corpus_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = {"sae": planted_sae, "activations": activations_artifact, "corpus": corpus_artifact}
    whole = latents.encode(DataRoot(tmp_path / "a"), LatentsConfig(), **inputs, device="cpu")
    taken: list[int] = []
    take = Buckets._take

    def noting(*of: Any) -> Any:
        taken.append(len(found := take(*of)))
        return found

    monkeypatch.setattr(Buckets, "_take", noting)
    for name, size in {"PART": 60, "BLOCK": 25, "SAMPLED": 20}.items():
        monkeypatch.setattr(buckets, name, size)
    parted = latents.encode(DataRoot(tmp_path / "b"), LatentsConfig(), **inputs, device="cpu")
    assert len(taken) > 100
    assert parted.digest() == whole.digest()
    assert parted.facts == whole.facts


def one_latent(count: int) -> NDArray[np.void]:
    """Firings of a single latent, by token; a few thousand strengths, so that many are equal."""
    draw = np.random.default_rng(0)
    firings = np.zeros(count, FIRING)
    firings["token_index"] = np.arange(count)
    firings["latent"] = 7
    firings["activation"] = draw.integers(1, 3000, count).astype(np.float32)
    return firings


def test_a_latent_that_fires_everywhere_is_not_held_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in {"PART": 1 << 13, "BLOCK": 1 << 12, "SAMPLED": 1 << 13}.items():
        monkeypatch.setattr(buckets, name, size)
    peaks = []
    for count in (1 << 15, 1 << 18):
        with Buckets(tmp_path / str(count), 8, 1) as dealt:
            for first in range(0, count, 1 << 12):
                firings = one_latent(count)[first : first + (1 << 12)]
                dealt.add(firings["latent"], firings)
            tracemalloc.start()
            sizes = []
            last = np.uint64(0)
            for firings in dealt.parts(0, _weakening):
                key = np.sort(_weakening(firings))
                assert key[0] > last
                last = key[-1]
                sizes.append(len(firings))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert sum(sizes) == count
    assert peaks[1] < 2 * peaks[0]  # of eight times as many; each part has a file with a buffer


def test_parts_are_the_whole_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    firings = one_latent(5000)
    for name, size in {"PART": 900, "BLOCK": 333, "SAMPLED": 50}.items():
        monkeypatch.setattr(buckets, name, size)
    with Buckets(tmp_path / "dealt", 8, 4) as dealt:
        dealt.add(firings["latent"], firings)
        assert np.array_equal(np.concatenate(list(dealt.blocks(3))), firings)
        parts = [of[np.argsort(_weakening(of), kind="stable")] for of in dealt.parts(3, _weakening)]
        assert len(parts) > 5
        assert list(dealt.parts(3, _weakening)) == list(dealt.parts(0, _weakening)) == []
    expected = firings[np.argsort(_weakening(firings), kind="stable")]
    assert np.array_equal(np.concatenate(parts), expected)


def test_equal_strengths_are_of_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    firings = one_latent(5000)
    firings["activation"] = 1
    monkeypatch.setattr(buckets, "PART", 100)
    with Buckets(tmp_path / "dealt", 8, 1) as dealt:
        dealt.add(firings["latent"], firings)
        [part] = dealt.parts(0, _weakening)
    assert np.array_equal(part, firings)
