"""Saved autoencoders: safetensors and JSON, in the names and shapes that SAELens reads.

Layout of SAELens 6 (`SAE.load_from_disk`): ``sae_weights.safetensors`` and ``cfg.json``, with
W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec and what else an architecture has. Ours take
raw activations, so SAELens is told ``normalize_activations: none`` and ``apply_b_dec_to_input:
false``. As SAELens does, BatchTopK and Matryoshka are saved as the JumpReLU that they are once
trained; ``metadata.training_architecture`` keeps the truth. Of transcoders, SAELens knows those
with ReLU and JumpReLU; the names of the others follow its pattern.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from deconstruct.common.errors import ConfigError, StorageError
from deconstruct.sae.architectures.base import Selection
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.autoencoder import SparseAutoencoder

WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"
_THEIR_NAMES = list(dict.fromkeys(one.saelens for one in ARCHITECTURES.values()))


def save_weights(sae: SparseAutoencoder, path: Path) -> None:
    """Write the float32 tensors."""
    save_file({n: w.detach().cpu().contiguous() for n, w in sae.weights().items()}, path)


def config_of(sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into ``cfg.json``. metadata: free facts, such as hook_name and model_name."""
    method = ARCHITECTURES[sae.architecture]
    name = method.saelens
    if sae.transcoder:
        skip = "skip_" if "W_skip" in sae.weights() else ""
        name = f"{skip}transcoder" if name == "standard" else f"{name}_{skip}transcoder"
    config: dict[str, Any] = {
        "architecture": name,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**metadata, "training_architecture": sae.architecture},
    }
    if sae.transcoder:
        config["d_out"] = sae.d_out
    if method.selection is Selection.PER_TOKEN:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    elif method.selection is Selection.PER_BATCH:
        config["metadata"]["k"] = sae.k
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
    theirs = str(config.get("architecture"))
    transcoder = theirs.endswith("transcoder")
    base = theirs.removesuffix("transcoder").rstrip("_").removesuffix("skip").rstrip("_")
    base = base or "standard"
    if base not in _THEIR_NAMES:
        raise StorageError(
            f"{folder / CONFIG}: architecture {theirs!r} is unknown; "
            f"we read {', '.join(_THEIR_NAMES)}, and transcoders of them"
        )
    if config.get("normalize_activations", "none") != "none" or config.get(
        "rescale_acts_by_decoder_norm"
    ):
        raise StorageError(
            f"{folder / CONFIG}: its activations are normalised at run time; fold that into the "
            "weights (SAELens: sae.fold_activation_norm_scaling_factor, fold_W_dec_norm) and save"
        )
    metadata = config.get("metadata") or {}
    architecture = _trained_as(base, metadata.get("training_architecture"))
    k = config.get("k", metadata.get("k"))
    try:
        sae = SparseAutoencoder(architecture, weights, k, transcoder)
    except ConfigError as error:
        raise StorageError(f"{folder} holds no autoencoder that can be read: {error}") from error
    if not config.get("apply_b_dec_to_input"):
        return sae
    w = sae.weights()
    shifted = w | ARCHITECTURES[architecture].fold(w, 1.0, w["b_dec"] @ w["W_enc"])
    return SparseAutoencoder(architecture, shifted, k, transcoder)


def _trained_as(base: str, told: Any) -> str:
    """Which of ours has SAELens' name ``base``: the one that is told, else the first that is itself
    what SAELens calls so, and not only once trained."""
    ours = {n: one for n, one in ARCHITECTURES.items() if one.saelens == base}
    if told in ours:
        return str(told)
    return next(n for n, one in ours.items() if one.selection is not Selection.PER_BATCH)


def tensor_lens_name(layer: int, hook: str) -> str:
    """The site's name in TransformerLens, as other tools write it."""
    names = {"mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}
    return f"blocks.{layer}.{names.get(hook, f'hook_{hook}')}"
