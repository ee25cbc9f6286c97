"""Sets of transcoders for circuit-tracer: config.yaml (``model_kind: transcoder_set``) and a file
for each layer, of which a run reads that of its site.

The files lie beside it as ``layer_3.safetensors``, or the configuration lists them
(``transcoders``) as names or as URIs of the hub (``hf://owner/name/file?revision=...``); those of
Gemma Scope 1 and 2 are in their own layouts.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import yaml
from torch import Tensor

from deconstruct.sae.formats.base import Asked, Dictionary, Format, Source, Tensors, Told, made

CONFIG = "config.yaml"


class CircuitTracer(Format):
    """``W_enc`` [d_sae, d_in], ``W_dec`` [d_sae, d_out], ``b_enc``, ``b_dec`` and, of some,
    ``activation_function.threshold`` [d_sae] (else ReLU) and ``W_skip`` [d_out, d_in]."""

    name = "circuit-tracer"
    files = "config.yaml with layer_{n}.safetensors"

    def wanted(self, source: Source, asked: Asked) -> tuple[str, ...] | None:
        """The configuration and the file of the site's layer."""
        if CONFIG not in source.names:
            return None
        config = _config(source)
        listed = config.get("transcoders")
        if not isinstance(listed, list):
            return (CONFIG, f"layer_{asked.site.layer}.safetensors")
        if asked.site.layer >= len(listed):
            raise source.fault(
                f"{CONFIG} lists {len(listed)} layers, and {asked.site} is in none of them"
            )
        name = str(listed[asked.site.layer])
        if not name.startswith("hf://"):
            parts = PurePosixPath(name).parts
            if ".." in parts or name.startswith("/") or "\\" in name:
                raise source.fault(f"{CONFIG} names {name!r}, which leads out of its folder")
        return (CONFIG, name)

    def read(self, source: Source, asked: Asked) -> Dictionary:
        """The transcoder of the site's layer."""
        _, name = self.wanted(source, asked) or (CONFIG, f"layer_{asked.site.layer}.safetensors")
        config, w = _config(source), source.tensors(name)
        kind = config.get("model_kind")
        if kind != "transcoder_set":
            raise source.fault(
                f"its model_kind is {kind!r}, which is not supported; we read transcoder_set, "
                "whose transcoders write to their own layer"
            )
        reads, writes = (
            f"blocks.{asked.site.layer}.{config[key]}" if isinstance(config.get(key), str) else None
            for key in ("feature_input_hook", "feature_output_hook")
        )
        threshold, weights = _weights(w)
        if threshold is not None:
            weights["threshold"] = threshold
        architecture = "relu" if threshold is None else "jumprelu"
        model = config.get("model_name")
        told = Told(model if isinstance(model, str) else None, reads, writes)
        return Dictionary(made(source, architecture, weights, transcoder=True), told)


def _weights(w: Tensors) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Threshold, None for ReLU, and the other weights, in any of the three layouts."""
    threshold: Tensor | None
    if "w_enc" in w:  # Gemma Scope 2
        found = {"W_enc": w.matrix("w_enc"), "W_dec": w.matrix("w_dec")}
        skip, threshold = ("affine_skip_connection", True), w["threshold"]
    elif "threshold" in w:  # Gemma Scope 1
        found = {"W_enc": w.matrix("W_enc"), "W_dec": w.matrix("W_dec")}
        skip, threshold = ("W_skip", False), w["threshold"]
    else:
        found = {"W_enc": w.turned("W_enc"), "W_dec": w.matrix("W_dec")}
        own = "activation_function.threshold"
        skip, threshold = ("W_skip", False), w.get(own)
    found |= {name: w[name] for name in ("b_enc", "b_dec")}
    if skip[0] in w:
        found["W_skip"] = w.turned(skip[0]) if skip[1] else w.matrix(skip[0])
    return threshold, found


def _config(source: Source) -> dict[str, Any]:
    try:
        found = yaml.safe_load(source.path(CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise source.fault(f"{CONFIG} can't be read ({str(error).splitlines()[0]})") from error
    if not isinstance(found, dict):
        raise source.fault(f"{CONFIG} holds no settings")
    return found
