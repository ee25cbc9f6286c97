"""Saved autoencoders: safetensors and JSON, in the names and shapes that SAELens reads.

Layout of SAELens 6 (`SAE.load_from_disk`): ``sae_weights.safetensors`` and ``cfg.json``, with
W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec and what else an architecture has. Ours take
raw activations, so SAELens is told ``normalize_activations: none`` and ``apply_b_dec_to_input:
false``. As SAELens does, BatchTopK and Matryoshka are saved as the JumpReLU that they are once
trained; ``metadata.training_architecture`` keeps the truth. Of transcoders, SAELens knows those
with ReLU and JumpReLU; the names of the others follow its pattern.

SAELens takes a file without ``metadata.sae_lens_version`` for one from before 6.0, and drops the
rest of its metadata. `copy_for_sae_lens` adds that in a copy; artifacts keep the bytes they have.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from deconstruct.common.errors import ConfigError, StorageError
from deconstruct.sae.architectures.base import Selection
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.autoencoder import SparseAutoencoder

WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"
_THEIR_NAMES = list(dict.fromkeys(one.saelens for one in ARCHITECTURES.values()))
SAE_LENS_VERSION = "6.0.0"
"""The first whose layout this is."""


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
    """Read an autoencoder that `save_weights` and `config_of` describe, or one of SAELens, also as
    it wrote them before 6.0.

    Raises ``StorageError`` if a file is missing or damaged, or holds an architecture, an activation
    function or an input transformation that we don't have, or weights of other shapes.
    """
    folder = Path(folder)
    try:
        config = _of_today(json.loads((folder / CONFIG).read_text()))
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise StorageError(f"{folder} holds no autoencoder that can be read: {error}") from error
    _check_function(config, weights, folder)
    theirs = str(config["architecture"])
    transcoder = theirs.endswith("transcoder")
    base = theirs.removesuffix("transcoder").rstrip("_").removesuffix("skip").rstrip("_")
    base = base or "standard"
    if base not in _THEIR_NAMES:
        raise StorageError(
            f"{folder / CONFIG}: architecture {theirs!r} is unknown; "
            f"we read {', '.join(_THEIR_NAMES)}, and transcoders of them"
        )
    if config["normalize_activations"] != "none" or config.get("rescale_acts_by_decoder_norm"):
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
    if not config.get("apply_b_dec_to_input", not transcoder):
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


def copy_for_sae_lens(folder: Path | str, target: Path | str) -> Path:
    """Copy a saved autoencoder, such as the artifact of stage ``sae``, to the folder ``target``, so
    that SAELens keeps its metadata too (``hook_name``, ``model_name``, ``training_architecture``).

    Returns ``target``. Raises ``StorageError`` if ``folder`` holds none that `load` reads.
    """
    folder, target = Path(folder), Path(target)
    load(folder)
    config = json.loads((folder / CONFIG).read_text())
    known = {"sae_lens_version": SAE_LENS_VERSION, **(config.get("metadata") or {})}
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / WEIGHTS, target / WEIGHTS)
    whole = json.dumps(config | {"metadata": known}, indent=1, sort_keys=True)
    (target / CONFIG).write_text(whole + "\n")
    return target


def _of_today(config: dict[str, Any]) -> dict[str, Any]:
    """``cfg.json`` in today's terms. Before 6.0, SAELens named the activation function and called
    a TopK SAE a standard one (``handle_pre_6_0_config`` in its ``pretrained_sae_loaders``)."""
    config = {"activation_fn_str" if k == "activation_fn" else k: v for k, v in config.items()}
    config.setdefault("architecture", "standard")
    if config.get("normalize_activations") in (None, False):
        config["normalize_activations"] = "none"
    if config.get("activation_fn_str") == "topk" and config["architecture"] in ("standard", "topk"):
        asked = (config.get("activation_fn_kwargs") or {}).get("k")
        config |= {"architecture": "topk", "k": config.get("k", asked)}
    return config


def _check_function(
    config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], folder: Path
) -> None:
    """Raise ``StorageError`` for what would be left out of the function that the SAE is."""
    function = config.get("activation_fn_str") or "relu"
    if function != "relu" and (function != "topk" or config["architecture"] != "topk"):
        raise StorageError(
            f"{folder / CONFIG}: activation function {function!r} of a {config['architecture']} "
            "SAE is not supported; we read relu, and topk of a standard one"
        )
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in weights and not torch.allclose(weights[name], torch.ones_like(weights[name])):
            raise StorageError(
                f"{folder / WEIGHTS}: its latents are scaled after finetuning ({name}), which is "
                "not supported; multiply the rows of W_dec with it, take it out, and save"
            )


def tensor_lens_name(layer: int, hook: str) -> str:
    """The site's name in TransformerLens, as other tools write it."""
    names = {"mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}
    return f"blocks.{layer}.{names.get(hook, f'hook_{hook}')}"
