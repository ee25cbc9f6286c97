"""saprmarks' dictionary_learning: config.json and ae.pt, of each of its trainers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.formats.base import (
    Asked,
    Dictionary,
    Format,
    Source,
    Tensors,
    Told,
    made,
    whole,
)

WEIGHTS, CONFIG = "ae.pt", "config.json"


class DictionaryLearning(Format):
    """The dictionary's class is told by config.json, or by its tensors where that is not there.

    Of AutoEncoderTopK, ``encode`` takes the k largest (its default), not its threshold; BatchTopK
    and Matryoshka take their threshold. An AutoEncoder whose decoder rows are not of unit norm is
    brought to it, as the peer's own ``load_dictionary`` does.
    """

    name = "dictionary-learning"
    files = "config.json with ae.pt"

    def wanted(self, source: Source, asked: Asked) -> tuple[str, ...] | None:
        """config.json may be missing where the tensors alone tell the class."""
        if WEIGHTS not in source.names:
            return None
        return (CONFIG, WEIGHTS) if CONFIG in source.names else (WEIGHTS,)

    def read(self, source: Source, asked: Asked) -> Dictionary:
        """By the class that the trainer's configuration names."""
        config = source.json(CONFIG) if CONFIG in source.names else {}
        trainer = config.get("trainer")
        trainer = trainer if isinstance(trainer, dict) else {}
        tensors = source.tensors(WEIGHTS)
        kind = str(trainer.get("dict_class") or _kind(tensors))
        if kind not in _READERS:
            raise source.fault(
                f"its class {kind!r} is not supported; we read {', '.join(sorted(_READERS))}"
            )
        return Dictionary(_READERS[kind](tensors, trainer), _told(trainer))


def _kind(w: Tensors) -> str:
    """The class that has these tensors."""
    if "gate_bias" in w:
        return "GatedAutoEncoder"
    if "group_sizes" in w:
        return "MatryoshkaBatchTopKSAE"
    if "W_enc" in w:
        return "JumpReluAutoEncoder"
    if "k" in w:
        # Top-k and batch top-k have the same tensors; only their configuration tells them apart.
        raise w.source.fault(
            f"{CONFIG} is missing, without which a top-k and a batch top-k dictionary look alike"
        )
    return "AutoEncoderNew" if "decoder.bias" in w else "AutoEncoder"


def _linear(w: Tensors, b_dec: str, b_enc: str | None = "encoder.bias") -> dict[str, torch.Tensor]:
    """Weights of two ``nn.Linear``: [d_sae, d_in] and [d_in, d_sae]."""
    found = {
        "W_enc": w.turned("encoder.weight"),
        "W_dec": w.turned("decoder.weight"),
        "b_dec": w[b_dec],
    }
    return found | ({"b_enc": w[b_enc]} if b_enc else {})


def _k(w: Tensors, trainer: Mapping[str, Any]) -> int:
    told = trainer.get("k", w.get("k"))
    return whole(w.source, told, f"{CONFIG}: trainer.k")


def _standard(w: Tensors, trainer: Mapping[str, Any]) -> SparseAutoencoder:
    weights = _linear(w, "bias")
    norm = weights["W_dec"].norm(dim=1)
    if norm.shape == weights["b_enc"].shape and not torch.allclose(norm, torch.ones_like(norm)):
        weights["W_dec"] = weights["W_dec"] / norm[:, None]
        weights |= {name: weights[name] * norm for name in ("W_enc", "b_enc")}
    return made(w.source, "relu", weights, centred=True)


def _new(w: Tensors, trainer: Mapping[str, Any]) -> SparseAutoencoder:
    return made(w.source, "relu", _linear(w, "decoder.bias"))


def _topk(w: Tensors, trainer: Mapping[str, Any]) -> SparseAutoencoder:
    return made(w.source, "topk", _linear(w, "b_dec"), k=_k(w, trainer), centred=True)


def _batchtopk(w: Tensors, trainer: Mapping[str, Any]) -> SparseAutoencoder:
    weights = _thresholded(w, _linear(w, "b_dec"))
    return made(w.source, "batchtopk", weights, k=_k(w, trainer), centred=True)


def _matryoshka(w: Tensors, trainer: Mapping[str, Any]) -> SparseAutoencoder:
    weights = _thresholded(w, _plain(w))
    return made(w.source, "matryoshka", weights, k=_k(w, trainer), centred=True)


def _jumprelu(w: Tensors, trainer: Mapping[str, Any]) -> SparseAutoencoder:
    return made(w.source, "jumprelu", _plain(w) | {"threshold": w["threshold"]})


def _gated(w: Tensors, trainer: Mapping[str, Any]) -> SparseAutoencoder:
    weights = _linear(w, "decoder_bias", None)
    weights |= {"r_mag": w["r_mag"], "b_gate": w["gate_bias"], "b_mag": w["mag_bias"]}
    return made(w.source, "gated", weights, centred=True)


def _plain(w: Tensors) -> dict[str, torch.Tensor]:
    return {name: w[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


def _thresholded(w: Tensors, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the one threshold of all latents; below zero, as before training, it is none."""
    threshold = w["threshold"]
    if threshold.numel() != 1:
        raise w.source.fault(f"threshold is {list(threshold.shape)}, not one number")
    return weights | {"threshold": threshold.reshape(()).expand(len(weights["b_enc"])).clone()}


_READERS: Mapping[str, Callable[[Tensors, Mapping[str, Any]], SparseAutoencoder]] = {
    "AutoEncoder": _standard,
    "AutoEncoderNew": _new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batchtopk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jumprelu,
}


def _told(trainer: Mapping[str, Any]) -> Told:
    """``submodule_name`` as in ``resid_post_layer_8``; where it says nothing, the layer alone."""
    model, layer = trainer.get("lm_name"), trainer.get("layer")
    layer = layer if isinstance(layer, int) and layer >= 0 else None
    model = model if isinstance(model, str) and model else None
    name = str(trainer.get("submodule_name") or "")
    hook = re.match(r"(resid_post|resid_pre|mlp_out|attn_out)", name)
    if hook is None or layer is None:
        return Told(model, layer=layer)
    return Told(model, f"blocks.{layer}.hook_{hook[1]}")
