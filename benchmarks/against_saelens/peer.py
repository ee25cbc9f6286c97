"""What SAELens' own evaluation says of a folder of `against_saelens`; run where SAELens is.

    PYTHON benchmarks/against_saelens/peer.py FOLDER

FOLDER: ``config.json`` and ``model.safetensors`` of a GPT-2, ``sae`` as SAELens reads it,
``tokens.safetensors``. Leaves ``saelens.json``: SAELens' metrics, and the metadata that it keeps.
The KL is over the positions that have a next token, as its losses are: SAELens' own mean takes in
the last position too, and stands beside it.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file

METADATA = ("hook_name", "model_name", "training_architecture", "sae_lens_version")


def hooked(folder: Path) -> Any:
    """The GPT-2 as a HookedTransformer, nothing folded and nothing centred."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    c = model.config
    config = HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, d_head=c.n_embd // c.n_head,
        n_heads=c.n_head, d_mlp=4 * c.n_embd, d_vocab=c.vocab_size, act_fn="gelu_new",
        normalization_type="LN", eps=c.layer_norm_epsilon, device="cpu", seed=0,
    )  # fmt: skip
    theirs = HookedTransformer(config)
    theirs.load_and_process_state_dict(
        convert_gpt2_weights(model, config),
        fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False,
    )  # fmt: skip
    return theirs.eval()


def main(folder: Path) -> None:
    """Load, evaluate, write."""
    from sae_lens import SAE
    from sae_lens.evals import (
        get_downstream_reconstruction_metrics,
        get_recons_loss,
        get_sparsity_and_variance_metrics,
    )
    from sae_lens.training.activation_scaler import ActivationScaler

    sae = SAE.load_from_disk(folder / "sae", device="cpu")
    model, scaler = hooked(folder), ActivationScaler()
    tokens = load_file(folder / "tokens.safetensors")["tokens"]
    store: Any = SimpleNamespace(get_batch_tokens=lambda _: tokens)
    with torch.no_grad():
        spliced = get_downstream_reconstruction_metrics(
            sae, model, store, scaler, True, True, 1, len(tokens)
        )
        sparsity, _ = get_sparsity_and_variance_metrics(
            sae, model, store, scaler, n_batches=1, compute_l2_norms=True,
            compute_sparsity_metrics=True, compute_variance_metrics=True,
            compute_featurewise_density_statistics=False, eval_batch_size_prompts=len(tokens),
            model_kwargs={},
        )  # fmt: skip
        each = get_recons_loss(sae, model, scaler, tokens, compute_kl=True, compute_ce_loss=False)
    predicted = {name: float(kl[:, :-1].mean()) for name, kl in each.items()}
    ablated, replaced = predicted["kl_div_with_ablation"], predicted["kl_div_with_sae"]
    predicted["kl_div_score"] = (ablated - replaced) / ablated
    told = sae.cfg.metadata
    found = {
        "versions": {name: metadata.version(name) for name in ("sae-lens", "transformer-lens")},
        "metadata": {name: getattr(told, name, None) for name in METADATA},
        "all_positions": {name: spliced[name] for name in predicted},
        "metrics": {**sparsity, **spliced, **predicted},
    }
    (folder / "saelens.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
