"""Llama Scope, and others of Language-Model-SAEs of its time: hyperparams.json with a checkpoint.

He et al. 2024 (arXiv 2410.20526). Training scaled the input to a norm of sqrt(d_in) on average over
a data set (``norm_activation`` "dataset-wise"). As the peer's own inference does
(``standardize_parameters_of_dataset_norm``), that is taken out of biases and decoder, and
activations and thresholds are in units of the site.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.formats.base import (
    Asked,
    Dictionary,
    Format,
    Source,
    Told,
    made,
    product,
    whole,
)

CONFIG = "hyperparams.json"
WEIGHTS = (
    "checkpoints/final.safetensors",
    "checkpoints/pruned.safetensors",
    "sae_weights.safetensors",
    "final.safetensors",
)


class LlamaScope(Format):
    """``encoder.weight`` [d_sae, d_in], ``encoder.bias``, ``decoder.weight`` [d_in, d_sae] and
    ``decoder.bias``, with one threshold of all latents in hyperparams.json, or a top-k."""

    name = "llama-scope"
    files = "hyperparams.json with checkpoints/final.safetensors"

    def wanted(self, source: Source, asked: Asked) -> tuple[str, ...] | None:
        """The checkpoint under any of the names that its versions gave it."""
        if CONFIG not in source.names:
            return None
        there = [name for name in WEIGHTS if name in source.names]
        return (CONFIG, there[0] if there else WEIGHTS[0])

    def read(self, source: Source, asked: Asked) -> Dictionary:
        """Refuses what depends on each token or batch, and gated linear encoders."""
        names = self.wanted(source, asked) or (CONFIG, WEIGHTS[0])
        config, w = source.json(CONFIG), source.tensors(names[1])
        if config.get("use_glu_encoder"):
            raise source.fault("its encoder has a gated linear unit, which is not supported")
        into, out = _factors(source, config)
        centre = w["decoder.bias"] if "decoder.bias" in w else torch.zeros(
            w.matrix("decoder.weight").shape[0]
        )  # fmt: skip
        weights = {
            "W_enc": w.turned("encoder.weight"),
            "W_dec": (w.turned("decoder.weight").double() * (into / out)).float(),
            "b_enc": w["encoder.bias"].double() / into,
            "b_dec": (centre.double() / out).float(),
        }
        if config.get("apply_decoder_bias_to_pre_encoder"):
            weights["b_enc"] -= product(centre / into, weights["W_enc"])
        weights["b_enc"] = weights["b_enc"].float()
        reads, writes = (
            str(value) if isinstance(value := config.get(name), str) and value else None
            for name in ("hook_point_in", "hook_point_out")
        )
        transcoder = writes is not None and writes != reads
        sae = _activated(source, config, weights, transcoder)
        model = "meta-llama/Llama-3.1-8B" if "Llama3_1-8B-Base" in source.trail else None
        return Dictionary(sae, Told(model, reads, writes if transcoder else None))


def _factors(source: Source, config: dict[str, Any]) -> tuple[float, float]:
    """What input and output were multiplied with in training."""
    how = config.get("norm_activation", "dataset-wise")
    if how == "inference":
        return 1.0, 1.0
    if how != "dataset-wise":
        raise source.fault(
            f"its input is scaled {how} (norm_activation), each by its own norm, which no fixed "
            "weights do; it can't be folded"
        )
    norms = config.get("dataset_average_activation_norm")
    width = config.get("d_model")
    try:
        assert isinstance(norms, dict)
        into, out = (float(norms[side]) for side in ("in", "out"))
        root = math.sqrt(float(width))  # type: ignore[arg-type]
        return root / into, root / out
    except (AssertionError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise source.fault(
            f"{CONFIG} has no dataset_average_activation_norm with numbers 'in' and 'out', so that "
            "the scale of its input is not known"
        ) from error


def _activated(
    source: Source, config: dict[str, Any], weights: dict[str, Tensor], transcoder: bool
) -> SparseAutoencoder:
    """With its activation function; where latents are chosen by activation times decoder norm, a
    threshold is divided by that norm, and a top-k counts activations in units of unit rows."""
    function = str(config.get("act_fn", "")).lower()
    by_norm = bool(config.get("sparsity_include_decoder_norm"))
    norm = weights["W_dec"].norm(dim=1).clamp(min=1e-30)
    if function == "relu":
        return made(source, "relu", weights, transcoder=transcoder)
    if function == "jumprelu":
        told = config.get("jump_relu_threshold")
        if isinstance(told, bool) or not isinstance(told, int | float):
            raise source.fault(f"{CONFIG}: jump_relu_threshold = {told!r} is no number")
        threshold = torch.full_like(weights["b_enc"], float(told))
        weights = weights | {"threshold": threshold / norm if by_norm else threshold}
        return made(source, "jumprelu", weights, transcoder=transcoder)
    if function == "topk":
        if by_norm:
            weights = weights | {
                "W_enc": weights["W_enc"] * norm,
                "b_enc": weights["b_enc"] * norm,
                "W_dec": weights["W_dec"] / norm[:, None],
            }
        k = whole(source, config.get("top_k"), f"{CONFIG}: top_k")
        return made(source, "topk", weights, k=k, transcoder=transcoder)
    raise source.fault(
        f"its activation function is {function!r} (act_fn), which is not supported; we read relu, "
        "jumprelu and topk"
    )
