"""Peers that train TopK SAEs on a GPU, each by its own step: SAELens and sparsify.

Making one raises ImportError where its package is not installed.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from benchmarks.gpu.sizes import DEAD_AFTER, Sizes


class Contender(Protocol):
    """What is timed and judged beside others."""

    def step(self, x: Tensor) -> None:
        """Train on a batch, [batch, d_in]."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """x [n, d_in] as the SAE gives it back, float32."""


class SaeLens:
    """``SAETrainer.step`` of SAELens, bf16 autocast, its defaults. steps: of the whole training."""

    def __init__(self, sizes: Sizes, steps: int, rate: float, device: str = "cuda") -> None:
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(0)
        batch, d_in, d_sae, k = sizes
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, device=device))
        config = SAETrainerConfig(
            total_training_samples=batch * steps,
            train_batch_size_samples=batch,
            lr=rate,
            lr_end=rate,
            device=device,
            autocast=True,
            dead_feature_window=DEAD_AFTER // batch,
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
        sae.to(device)

    def step(self, x: Tensor) -> None:
        self.trainer.maybe_reset_sparsity()
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def reconstruct(self, x: Tensor) -> Tensor:
        found: Tensor = self.trainer.sae(x)
        return found


class Sparsify:
    """``sparsify.trainer.Trainer.fit``'s work between two batches, its language model left out.

    optimizer: signum, its default, or adam.
    """

    def __init__(self, sizes: Sizes, rate: float, optimizer: str, device: str = "cuda") -> None:
        from schedulefree import ScheduleFreeWrapper
        from sparsify.config import SparseCoderConfig
        from sparsify.sign_sgd import SignSGD
        from sparsify.sparse_coder import SparseCoder

        torch.manual_seed(0)
        settings = SparseCoderConfig(num_latents=sizes.d_sae, k=sizes.k)
        self.sae = SparseCoder(sizes.d_in, settings, device=device)
        self.free = optimizer == "signum"
        if self.free:
            groups = [{"params": self.sae.parameters(), "lr": rate}]
            self.optimizer = ScheduleFreeWrapper(SignSGD(groups), momentum=0.95)
            self.optimizer.train()
        else:
            self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=rate)
        self.fired = torch.zeros(sizes.d_sae, dtype=torch.bool, device=device)
        self.since_fired = torch.zeros(sizes.d_sae, dtype=torch.long, device=device)
        self.fvu = 0.0
        self.begun = False
        torch.set_float32_matmul_precision("high")  # as Trainer.fit does

    def step(self, x: Tensor) -> None:
        if not self.begun:
            self.sae.b_dec.data = x.mean(0).to(self.sae.dtype)
            self.begun = True
        self.sae.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        out = self.sae(x=x, y=x, dead_mask=None, total_variance=variance)
        self.fired[out.latent_indices.flatten()] = True
        self.fvu += float(out.fvu.detach())
        out.fvu.backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.since_fired += len(x)
            self.since_fired[self.fired] = 0
            self.fired.zero_()

    def reconstruct(self, x: Tensor) -> Tensor:
        if self.free:
            self.optimizer.eval()
        found: Tensor = self.sae(x).sae_out
        if self.free:
            self.optimizer.train()
        return found
