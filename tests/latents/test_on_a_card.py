"""What is done on a card, forced on whatever is here, finds what is found on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import current_thread

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.cuda import DEVICE, REASON
from support.dense_latents import D_SAE, sae_of

from deconstruct.activations.reader import ActivationReader, Block
from deconstruct.activations.shards import Rows
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import LatentsConfig
from deconstruct.latents import ahead
from deconstruct.latents import stage as latents
from deconstruct.sae import files
from deconstruct.sae.autoencoder import Sparse, SparseAutoencoder
from deconstruct.sae.engines.encoding import selected
from deconstruct.sae.engines.encoding.banded import Banded
from deconstruct.sae.engines.encoding.choice import encoder_for


def forced(sae: SparseAutoencoder) -> SparseAutoencoder:
    """By the encoder of a card, in the device's memory."""
    sae._for_many = encoder_for(sae._method, sae.weights(), sae.k, sae.transcoder)
    return sae


def banded(sae: SparseAutoencoder) -> SparseAutoencoder:
    sae._for_many = Banded(sae._method, sae.weights(), sae.k)
    return sae


def blocks_of(x: torch.Tensor, rows: int) -> Iterator[Block]:
    for first in range(0, len(x), rows):
        part = x[first : first + rows]
        numbers = np.arange(first, first + len(part))
        u4 = numbers.astype(np.uint32)
        yield Block(Rows(numbers.astype(np.uint64), u4, u4, u4), part)


def joined(found: list[tuple[ahead.Part, Sparse]]) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Tokens, latents and activations of all pairs in order."""
    tokens = [np.repeat(p.column("token_index"), s.offsets.diff().numpy()) for p, s in found]
    pairs = ((s.latents, s.activations) for _, s in found)
    latent, activation = (torch.cat(part) for part in zip(*pairs, strict=True))
    return np.concatenate(tokens), latent, activation


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_parts_come_in_order_while_the_next_ones_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selected, "STEP_ROWS", 1)
    monkeypatch.setattr(ahead, "CARD_ROWS", 2)
    sae = files.load(sae_of(tmp_path, 12).path)
    x = torch.randn(11, 12, generator=torch.Generator().manual_seed(0))
    threads = []
    whole = sae.encode_sparse
    on_it = forced(sae.to(DEVICE))

    def noted(x: torch.Tensor) -> Sparse:
        threads.append(current_thread().name)
        return SparseAutoencoder.encode_sparse(on_it, x)

    monkeypatch.setattr(on_it, "encode_sparse", noted)
    found = list(ahead.on_card(on_it, blocks_of(x, 5)))
    assert [len(sparse) for _, sparse in found] == [2, 2, 1, 2, 2, 1, 1]
    assert all(name.startswith("card") for name in threads)
    token, latent, activation = joined(found)
    wanted = whole(x)
    assert token.tolist() == np.repeat(np.arange(11), wanted.offsets.diff().numpy()).tolist()
    assert torch.equal(latent, wanted.latents)
    torch.testing.assert_close(activation, wanted.activations, rtol=1e-4, atol=1e-4)


def test_what_the_card_raises_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae = files.load(sae_of(tmp_path, 12).path)
    monkeypatch.setattr(ahead, "CARD_ROWS", 2)
    monkeypatch.setattr(sae, "encode_sparse", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(ahead.on_card(sae, blocks_of(torch.zeros(9, 12), 5)))
    assert list(ahead.on_card(sae, ())) == []


def test_the_stage_finds_the_same_firings(
    tmp_path: Path,
    planted_sae: Artifact,
    activations_artifact: Artifact,
    corpus_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(name: str) -> Artifact:
        return latents.encode(
            DataRoot(tmp_path / name), LatentsConfig(), sae=planted_sae,
            activations=activations_artifact, corpus=corpus_artifact, device="cpu",
        )  # fmt: skip

    here = made("cpu")
    monkeypatch.setattr(latents, "encoded", ahead.on_card)
    monkeypatch.setattr(SparseAutoencoder, "for_many_tokens", banded)
    monkeypatch.setattr("deconstruct.sae.engines.encoding.banded.BATCH_BYTES", 64 * D_SAE * 100)
    monkeypatch.setattr(ahead, "CARD_ROWS", 300)
    there = made("card")
    assert there.facts == here.facts
    for name in ("latents_by_token.parquet", "document_latents.parquet", "features.parquet"):
        ours, theirs = (pq.read_table(artifact.file(name)) for artifact in (here, there))
        for column in ours.column_names:
            a, b = (table[column].combine_chunks() for table in (ours, theirs))
            if a.type in ("float", "double"):
                np.testing.assert_allclose(a.to_numpy(False), b.to_numpy(False), 1e-4, 1e-5)
            elif a.type in ("uint32", "uint64"):
                assert a.equals(b), (name, column)
    rows = ActivationReader(activations_artifact).rows
    assert rows > 300  # several parts, of several bands each
