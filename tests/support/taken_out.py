"""Runs with real dictionaries, for what is taken out of a store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.planted import fill, filled
from support.store_artifacts import D_IN, D_SAE, Planted, plant

from deconstruct.artifacts import DataRoot, Draft, Recipe
from deconstruct.config import RunConfig
from deconstruct.sae import files
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.tables import TRAINING_LOG
from deconstruct.store import RunRecord, publish

K = 4


def sae_of(
    architecture: str, d_out: int | None = None, skip: bool = False, seed: int = 0
) -> SparseAutoencoder:
    """One of each kind, whose mean is far from zero as that of a residual stream is; a transcoder
    if ``d_out`` is given."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    width = d_out or D_IN
    W_dec = normal(D_SAE, width)
    weights = {
        "W_enc": normal(D_IN, D_SAE),
        "W_dec": W_dec / W_dec.norm(dim=1, keepdim=True),
        "b_dec": 5 + normal(width),
        "b_enc": normal(D_SAE),
        "b_gate": normal(D_SAE),
        "b_mag": normal(D_SAE),
        "r_mag": 0.3 * normal(D_SAE),
    }
    if architecture in ("jumprelu", "matryoshka"):
        weights["threshold"] = 0.5 + torch.rand(D_SAE, generator=draw)
    elif architecture == "batchtopk":  # one of all latents, but for rounding
        weights["threshold"] = 0.7 * (1 + 1e-7 * normal(D_SAE))
    if skip:
        weights["W_skip"] = normal(width, D_IN)
    return SparseAutoencoder(architecture, weights, K, transcoder=d_out is not None)


def published(
    home: Path, sae: SparseAutoencoder, output_site: str | None = None, **config: Any
) -> Planted:
    """A run ``demo`` of the planted store with ``sae`` in the place of its SAE.

    config: fields of the run's configuration, by their names, a stage's as a dict.
    """
    planted = plant(home)
    run = planted.record
    record = RunRecord(
        config=RunConfig.model_validate(run.config.model_dump() | config),
        started=run.started,
        finished=run.finished,
        cached=run.cached,
    )
    facts: dict[str, Any] = {
        "architecture": sae.architecture, "d_in": sae.d_in, "d_sae": sae.d_sae, "k": sae.k,
        "tokens": 1000, "steps": 20, "site": "9.resid_post",
    }  # fmt: skip
    if output_site is not None:
        facts["output_site"] = output_site
    log = filled(TRAINING_LOG, step=[10], fvu=[0.5], loss=[2.0])

    def write(draft: Draft) -> None:
        fill(draft, {TRAINING_LOG: log}, **facts)
        with draft.writing(files.WEIGHTS) as path:
            files.save_weights(sae, path)
        metadata = {"hook_name": "blocks.9", "model_name": record.config.model.name}
        draft.write_json(files.CONFIG, files.config_of(sae, metadata))

    sums = {name: str(weight.double().sum().item()) for name, weight in sae.weights().items()}
    made = DataRoot(home).make(Recipe("sae", 1, facts, sums), write)
    artifacts = planted.artifacts | {"sae": made}
    publish(home, record, artifacts)
    return replace(planted, record=record, artifacts=artifacts)
