"""An SAE with planted latents, and every token's activations by it as one dense matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.sae import files
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
