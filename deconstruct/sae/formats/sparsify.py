"""EleutherAI's sparsify: cfg.json and sae.safetensors, in a folder named after the hook."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from deconstruct.sae.formats.base import Asked, Dictionary, Format, Source, Told, made, whole
from deconstruct.sae.formats.sites import module_input

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"
PARTS = {"mlp_out": ("mlp",), "mlp_in": ("mlp",), "attn_out": ("self_attn", "attn", "attention")}


class Sparsify(Format):
    """``encoder.weight`` [d_sae, d_in], ``encoder.bias``, ``W_dec`` [d_sae, d_in], ``b_dec`` and,
    of some transcoders, ``W_skip`` [d_in, d_in]. Autoencoders centre their input, transcoders do
    not; all choose the k largest."""

    name = "sparsify"
    files = "cfg.json with sae.safetensors"

    def wanted(self, source: Source, asked: Asked) -> tuple[str, ...] | None:
        """Those of the folder itself, or of the one below it with the site's name."""
        for folder in ("", *_folders(asked)):
            if f"{folder}{WEIGHTS}" in source.names:
                return (f"{folder}{CONFIG}", f"{folder}{WEIGHTS}")
        return None

    def read(self, source: Source, asked: Asked) -> Dictionary:
        """One of the activation "topk"."""
        config_name, weights_name = self.wanted(source, asked) or (CONFIG, WEIGHTS)
        config, w = source.json(config_name), source.tensors(weights_name)
        function = config.get("activation", "topk")
        if function != "topk" or config.get("signed"):
            raise source.fault(
                f"its activation function is {'signed ' if config.get('signed') else ''}"
                f"{function}, which is not supported; we read topk"
            )
        transcoder = bool(config.get("transcode"))
        weights = {
            "W_enc": w.turned("encoder.weight"),
            "b_enc": w["encoder.bias"],
            "W_dec": w.matrix("W_dec"),
            "b_dec": w["b_dec"],
        }
        if "W_skip" in w:
            if not transcoder:
                raise source.fault(
                    "it is an autoencoder with a skip connection, which is not supported"
                )
            weights["W_skip"] = w.matrix("W_skip")
        k = whole(source, config.get("k"), f"{config_name}: k")
        sae = made(source, "topk", weights, k=k, transcoder=transcoder, centred=not transcoder)
        folder = str(PurePosixPath(config_name).parent)
        hook = _hook(folder if folder != "." else source.trail)
        if transcoder and hook is not None:
            return Dictionary(sae, Told(None, module_input(hook), hook))
        return Dictionary(sae, Told(None, hook))


def _folders(asked: Asked) -> list[str]:
    """Names that a folder of all hooks may have for the one that is asked for."""
    site = asked.output if asked.output is not None else asked.site
    parts = [f".{part}" for part in PARTS.get(site.hook, ())] or [""]
    return [f"{stem}.{site.layer}{part}/" for stem in ("layers", "h") for part in parts]


def _hook(trail: str) -> str | None:
    """The last hook that a path names."""
    found = re.findall(r"(?:^|/)((?:[a-z_]+\.)*(?:layers|h)\.\d+(?:\.[a-z_.]+)?)(?=/|@|$)", trail)
    return str(found[-1]) if found else None
