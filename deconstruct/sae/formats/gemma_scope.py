"""Gemma Scope 1 (params.npz) and 2 (config.json with params.safetensors): JumpReLU dictionaries.

Lieberum et al. 2024 (arXiv 2408.05147). Of the first, names of folders alone tell model, layer and
site: ``google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71``.
"""

from __future__ import annotations

import re

from deconstruct.sae.formats.base import SMALL, Asked, Dictionary, Format, Source, Told, made

_HOOKS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


class GemmaScope1(Format):
    """``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_out], ``b_enc``, ``b_dec``, ``threshold``. It is
    a transcoder where names say so, or where the run asks for an output."""

    name = "gemma-scope"
    files = "params.npz"

    def wanted(self, source: Source, asked: Asked) -> tuple[str, ...] | None:
        """The one file; named alone, it may have another name."""
        arrays = sorted(name for name in source.names if name.endswith(".npz") and "/" not in name)
        if "params.npz" in arrays:
            return ("params.npz",)
        alone = len(arrays) == 1 and source.names <= {arrays[0], *SMALL}
        return (arrays[0],) if alone else None

    def read(self, source: Source, asked: Asked) -> Dictionary:
        """Raw activations in, and no centring."""
        [name] = self.wanted(source, asked) or ("params.npz",)
        told = _told(source.trail)
        w = source.tensors(name)
        lower = "w_enc" in w
        weights = {
            "W_enc": w.matrix("w_enc" if lower else "W_enc"),
            "W_dec": w.matrix("w_dec" if lower else "W_dec"),
            **{name: w[name] for name in ("b_enc", "b_dec", "threshold")},
        }
        if "embedding" in source.trail:
            raise source.fault("it reads the token embedding, which is no site of ours")
        transcoder = told.writes is not None or (told.reads is None and asked.output is not None)
        return Dictionary(made(source, "jumprelu", weights, transcoder=transcoder), told)


def _told(trail: str) -> Told:
    release = re.search(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)", trail)
    layer = re.search(r"layer_(\d+)", trail)
    number = int(layer[1]) if layer else None
    if release is None or number is None:
        return Told(layer=number)
    model = f"google/gemma-2-{release[1]}" + ("-it" if release[2] == "it" else "")
    if release[3] == "transcoders":
        block = f"blocks.{number}"
        return Told(model, f"{block}.ln2.hook_normalized", f"{block}.hook_mlp_out")
    return Told(model, f"blocks.{number}.{_HOOKS[release[3]]}")


class GemmaScope2(Format):
    """``w_enc`` [d_in, d_sae], ``w_dec`` [d_sae, d_out], ``b_enc``, ``b_dec``, ``threshold`` and,
    of some transcoders, ``affine_skip_connection`` [d_in, d_out]."""

    name = "gemma-scope-2"
    files = "config.json with params.safetensors"

    def wanted(self, source: Source, asked: Asked) -> tuple[str, ...] | None:
        """Some repositories lack config.json; names of folders stand in for it."""
        if "params.safetensors" not in source.names:
            return None
        config = ("config.json",) if "config.json" in source.names else ()
        return (*config, "params.safetensors")

    def read(self, source: Source, asked: Asked) -> Dictionary:
        """Hooks are told as modules of `transformers`."""
        config = source.json("config.json") if "config.json" in source.names else {}
        kind = config.get("architecture", "jump_relu")
        if kind != "jump_relu":
            raise source.fault(f"its architecture is {kind!r}, which is not supported")
        told = _of_config(config, source.trail)
        w = source.tensors("params.safetensors")
        if "w_dec" in w and w["w_dec"].dim() == 3:
            raise source.fault("it writes to several layers, which is not supported")
        weights = {
            "W_enc": w.matrix("w_enc"),
            "W_dec": w.matrix("w_dec"),
            **{name: w[name] for name in ("b_enc", "b_dec", "threshold")},
        }
        skips = "affine_skip_connection" in w
        if skips:
            weights["W_skip"] = w.turned("affine_skip_connection")
        transcoder = skips or told.writes is not None
        if not transcoder and told.reads is None:
            transcoder = asked.output is not None
        return Dictionary(made(source, "jumprelu", weights, transcoder=transcoder), told)


def _of_config(config: dict[str, object], trail: str) -> Told:
    model, reads, writes = (
        str(value) if isinstance(value := config.get(name), str) and value else None
        for name in ("model_name", "hf_hook_point_in", "hf_hook_point_out")
    )
    release = re.search(r"gemma-scope-2-([\w.]+)-(pt|it)", trail)
    if model is None and release:
        model = f"google/gemma-3-{release[1]}-{release[2]}"
    layer = re.search(r"layer_(\d+)", trail)
    if reads is None and layer:
        block = f"model.layers.{layer[1]}"
        if "transcoder" in trail:
            normed = (f"{block}.pre_feedforward_layernorm.output", "post_feedforward_layernorm")
            reads, writes = normed[0], f"{block}.{normed[1]}.output"
        elif "resid_post" in trail:
            reads = f"{block}.output"
        elif "mlp_out" in trail:
            reads = f"{block}.post_feedforward_layernorm.output"
        elif "attn_out" in trail:
            reads = f"{block}.self_attn.o_proj.input"
    if writes == reads:
        writes = None
    number = int(layer[1]) if layer else None
    return Told(model.replace("-v3", "-3") if model else None, reads, writes, number)
