"""Model, SAE and tokens, and what our own functions say of them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from deconstruct.common.site import Site
from deconstruct.evaluation.reconstruction import judged
from deconstruct.evaluation.splice import spliced_losses
from deconstruct.reference.passes import Passes, divergence, loss, normaliser
from deconstruct.reference.texts import Text
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.files import (
    CONFIG,
    WEIGHTS,
    config_of,
    copy_for_sae_lens,
    load,
    save_weights,
    tensor_lens_name,
)

SITE = Site(0, "resid_post")
WIDTH, LATENTS, K, VOCABULARY, LENGTH, TEXTS = 16, 32, 6, 50, 24, 32
SAME = {"explained_variance": 1e-4, "l0": 1e-4, "cossim": 1e-4}
CLOSE = dict.fromkeys(
    (
        "ce_loss_without_sae", "ce_loss_with_sae", "ce_loss_with_ablation", "ce_loss_score",
        "kl_div_with_sae", "kl_div_with_ablation", "kl_div_score",
    ),
    1e-3,
)  # fmt: skip
BOUNDS = SAME | CLOSE
"""How far the two may be apart, by SAELens' name."""


def prepare(folder: Path) -> None:
    """Model, SAE and tokens."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_embd=WIDTH, n_head=2, n_positions=LENGTH, vocab_size=VOCABULARY,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.25 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokens = torch.randint(0, VOCABULARY, (TEXTS, 1))
    with torch.no_grad():
        for _ in range(LENGTH - 1):  # its own texts, so that it knows more than an ablated one
            chance = model(input_ids=tokens).logits[:, -1].softmax(-1)
            tokens = torch.cat([tokens, torch.multinomial(chance, 1)], 1)
    save_file({"tokens": tokens}, folder / "tokens.safetensors")
    with torch.no_grad(), Passes(model, SITE).hooked() as passes:
        stream = passes.clean(tokens)[1].reshape(-1, WIDTH)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
    rows = torch.cat([turn, -turn])
    mean = stream.mean(0)
    sae = SparseAutoencoder(
        "topk",
        {"W_enc": rows.T.contiguous(), "b_enc": -rows @ mean, "W_dec": rows, "b_dec": mean},
        K,
    )
    about = {"hook_name": tensor_lens_name(SITE.layer, SITE.hook), "model_name": "tiny-gpt2"}
    with tempfile.TemporaryDirectory() as own:
        save_weights(sae, Path(own) / WEIGHTS)
        (Path(own) / CONFIG).write_text(json.dumps(config_of(sae, about)))
        copy_for_sae_lens(own, folder / "sae")


def ours(folder: Path) -> dict[str, float]:
    """The metrics of a folder under SAELens' names."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sae, tokens = load(folder / "sae"), load_file(folder / "tokens.safetensors")["tokens"]
    texts = [Text(i, ids.numpy(), np.ones(len(ids), bool)) for i, ids in enumerate(tokens)]
    with torch.inference_mode(), Passes(model, SITE).hooked() as passes:
        clean, stream, _ = passes.clean(tokens)
        zero = passes.replaced(tokens, torch.zeros_like)
    log_z, its_log_z = normaliser(clean), normaliser(zero)
    x = stream.reshape(-1, stream.shape[-1])
    losses = spliced_losses(Passes(model, SITE), texts, sae, x.mean(0), lambda _: None)
    predictions = float(losses.predictions.sum())
    found = {
        **_reconstruction(sae, x),
        "ce_loss_without_sae": float(losses.clean.sum()) / predictions,
        "ce_loss_with_sae": float(losses.spliced.sum()) / predictions,
        "ce_loss_with_ablation": float(loss(zero, its_log_z, tokens[:, 1:]).mean()),
        "kl_div_with_sae": float(losses.kl.sum()) / predictions,
        "kl_div_with_ablation": float(divergence(clean, log_z, zero, its_log_z).mean()),
    }
    ablated = found["ce_loss_with_ablation"]
    found["ce_loss_score"] = (ablated - found["ce_loss_with_sae"]) / (
        ablated - found["ce_loss_without_sae"]
    )
    found["kl_div_score"] = 1 - found["kl_div_with_sae"] / found["kl_div_with_ablation"]
    return found


def _reconstruction(sae: SparseAutoencoder, x: Tensor) -> dict[str, float]:
    sums = judged(sae, x, x)
    variance = np.square(x.double().numpy() - x.double().numpy().mean(0)).sum()
    return {
        "explained_variance": 1 - float(sums["error"].sum() / variance),
        "l0": float(sums["fires"].mean()),
        "cossim": float(sums["cosine"].mean()),
    }
