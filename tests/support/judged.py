"""SAEs of known worth, evaluated on the small model's activations."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.common.site import Site
from deconstruct.config import EvaluationConfig, LatentsConfig
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.evaluation import stage as evaluate
from deconstruct.evaluation import tables
from deconstruct.latents import stage as latents
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference import stage as reference
from deconstruct.sae import files
from deconstruct.sae.autoencoder import SparseAutoencoder

SITE = Site(1, "resid_post")


def identity(d_in: int) -> SparseAutoencoder:
    """x = relu(x) - relu(-x)."""
    eye = torch.eye(d_in)
    weights = {
        "W_enc": torch.cat([eye, -eye], 1),
        "b_enc": torch.zeros(2 * d_in),
        "W_dec": torch.cat([eye, -eye]),
        "b_dec": torch.zeros(d_in),
    }
    return SparseAutoencoder("relu", weights, None)


def constant(value: Tensor) -> SparseAutoencoder:
    """Gives ``value`` whatever it is given; one latent out of three ever fires."""
    weights = {
        "W_enc": torch.zeros(len(value), 3),
        "b_enc": torch.tensor([1.0, -1.0, -1.0]),
        "W_dec": torch.zeros(3, len(value)),
        "b_dec": value,
    }
    return SparseAutoencoder("relu", weights, None)


def rough(d_in: int, seed: int = 0) -> SparseAutoencoder:
    """TopK with random weights, tied."""
    W_dec = torch.randn(4 * d_in, d_in, generator=torch.Generator().manual_seed(seed))
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    weights = {
        "W_enc": W_dec.T.contiguous(),
        "b_enc": torch.zeros(4 * d_in),
        "W_dec": W_dec * 0.5,
        "b_dec": torch.zeros(d_in),
    }
    return SparseAutoencoder("topk", weights, 8)


class Bench:
    """Evaluates SAEs on the small model's activations."""

    def __init__(
        self, home: Path, model: ResolvedModel, corpus: Artifact, recorded: Artifact
    ) -> None:
        self.root = DataRoot(home)
        for given in (corpus, recorded):  # stages open what they were made from in their own root
            there = self.root.folder(given.stage, given.key)
            if not there.exists():
                shutil.copytree(given.path, there)
        self.model, self.corpus, self.recorded = model, corpus, recorded

    def __call__(self, sae: SparseAutoencoder, **fields: Any) -> Artifact:
        return self.judge(sae, (), **fields)

    def judge(
        self, sae: SparseAutoencoder, sources: Sequence[ResolvedSource], **fields: Any
    ) -> Artifact:
        """The evaluation. sources: those of the setting ``other``; fields: other settings."""

        def write(draft: Draft) -> None:
            with draft.writing(files.WEIGHTS) as path:
                files.save_weights(sae, path)
            draft.write_json(files.CONFIG, files.config_of(sae, {}))

        weights = {n: str(w.double().norm().item()) for n, w in sae.weights().items()}
        made = self.root.make(Recipe("sae", 1, {"k": sae.k}, weights), write)
        firings = latents.encode(
            self.root,
            LatentsConfig(),
            sae=made,
            activations=self.recorded,
            corpus=self.corpus,
            device="cpu",
        )
        config = EvaluationConfig.model_validate({"max_documents": 12, **fields})
        return evaluate.evaluate(
            self.root, config, model=self.model, reference=self.alone(config), sae=made,
            latents=firings, other=sources, device="cpu",
        )  # fmt: skip

    def alone(self, config: EvaluationConfig) -> Artifact:
        """The losses without an SAE."""
        return reference.measure(
            self.root, config, model=self.model, corpus=self.corpus, activations=self.recorded,
            device="cpu",
        )  # fmt: skip


def metrics(evaluation: Artifact, text: str = tables.OWN) -> dict[str, dict[str, Any]]:
    table = pq.read_table(evaluation.file("metrics.parquet"), page_checksum_verification=True)
    assert table.schema.equals(tables.SAE_METRICS.arrow)
    return {row["metric"]: row for row in table.to_pylist() if row["text"] == text}


def values(evaluation: Artifact, text: str = tables.OWN) -> dict[str, float]:
    return {name: row["value"] for name, row in metrics(evaluation, text).items()}
