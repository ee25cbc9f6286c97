"""Qwen-Scope (arXiv 2605.11887): layer5.sae.pt, top-k dictionaries of residual streams.

The file holds tensors alone. Model and k are in the name of its repository, as in
``Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50``, and the layer is in the file's own.
"""

from __future__ import annotations

import re

from deconstruct.sae.formats.base import Asked, Dictionary, Format, Source, Told, made


class QwenScope(Format):
    """``W_enc`` [d_sae, d_in], ``W_dec`` [d_in, d_sae], ``b_enc``, ``b_dec``; no centring."""

    name = "qwen-scope"
    files = "layer{n}.sae.pt"

    def wanted(self, source: Source, asked: Asked) -> tuple[str, ...] | None:
        """Of a folder with all layers, the one that the site is in."""
        layers = sorted(name for name in source.names if re.fullmatch(r"layer\d+\.sae\.pt", name))
        if not layers:
            return None
        return (layers[0],) if len(layers) == 1 else (f"layer{asked.site.layer}.sae.pt",)

    def read(self, source: Source, asked: Asked) -> Dictionary:
        """k comes from the names above the file."""
        [name] = self.wanted(source, asked) or (f"layer{asked.site.layer}.sae.pt",)
        k = re.search(r"L0_(\d+)", source.trail)
        if k is None:
            raise source.fault(
                "Qwen-Scope tells k in the name of its repository alone, as in "
                "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50; keep that name in the path"
            )
        w = source.tensors(name)
        weights = {
            "W_enc": w.turned("W_enc"),
            "W_dec": w.turned("W_dec"),
            "b_enc": w["b_enc"],
            "b_dec": w["b_dec"],
        }
        model = re.search(r"SAE-Res-(.+?)-W\d+K-L0_", source.trail)
        layer = re.search(r"layer(\d+)", name)
        assert layer is not None
        told = Told(f"Qwen/{model[1]}" if model else None, f"blocks.{layer[1]}.hook_resid_post")
        return Dictionary(made(source, "topk", weights, k=int(k[1])), told)
