"""Saved autoencoders: safetensors and JSON, in the names and shapes that SAELens reads.

Layout of SAELens 6 (`SAE.load_from_disk`): ``sae_weights.safetensors`` with W_enc [d_in, d_sae],
b_enc, W_dec [d_sae, d_in], b_dec, and ``cfg.json``. Ours take raw activations, so SAELens is told
``normalize_activations: none`` and ``apply_b_dec_to_input: false``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from deconstruct.errors import StorageError
from deconstruct.sae.model import SparseAutoencoder

WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"
_THEIR_NAMES = {"topk": "topk", "relu": "standard"}
_OUR_NAMES = {theirs: ours for ours, theirs in _THEIR_NAMES.items()}


def save_weights(sae: SparseAutoencoder, path: Path) -> None:
    """Write the four float32 tensors."""
    save_file({n: w.detach().cpu().contiguous() for n, w in sae.weights().items()}, path)


def config_of(sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into ``cfg.json``. metadata: free facts, such as hook_name and model_name."""
    config: dict[str, Any] = {
        "architecture": _THEIR_NAMES[sae.architecture],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": dict(metadata),
    }
    if sae.k is not None:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    return config


def load(folder: Path | str) -> SparseAutoencoder:
    """Read an autoencoder that `save_weights` and `config_of` describe.

    Raises ``StorageError`` if a file is missing or damaged, or holds an architecture or an input
    transformation that we don't have.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text())
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise StorageError(f"{folder} holds no autoencoder that can be read: {error}") from error
    theirs = config.get("architecture")
    if theirs not in _OUR_NAMES:
        raise StorageError(
            f"{folder / CONFIG}: architecture {theirs!r} is unknown; "
            f"we read {', '.join(_OUR_NAMES)}"
        )
    if config.get("normalize_activations", "none") != "none" or config.get(
        "rescale_acts_by_decoder_norm"
    ):
        raise StorageError(
            f"{folder / CONFIG}: its activations are normalised at run time; fold that into the "
            "weights (SAELens: sae.fold_activation_norm_scaling_factor, fold_W_dec_norm) and save"
        )
    if config.get("apply_b_dec_to_input"):
        weights["b_enc"] = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
    return SparseAutoencoder(_OUR_NAMES[theirs], weights, config.get("k"))
