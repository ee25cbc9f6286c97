"""SAELens 6: cfg.json and sae_weights.safetensors, which is our own layout too.

What SAELens does at run time by a constant (a factor on its input, whitening, decoder norms in the
choice of latents) is folded by `deconstruct.sae.files`; what depends on each token is refused.
"""

from __future__ import annotations

from pathlib import Path

from deconstruct.common.errors import StorageError
from deconstruct.sae import files
from deconstruct.sae.formats.base import Asked, Dictionary, Format, Source, Told, made


class SAELens(Format):
    """``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_in], ``b_enc``, ``b_dec`` and what else its
    architecture has."""

    name = "saelens"
    files = "cfg.json with sae_weights.safetensors"

    def wanted(self, source: Source, asked: Asked) -> tuple[str, ...] | None:
        """Those of the folder itself, or of the one below it with the hook's name."""
        for folder in ("", f"{files.tensor_lens_name(asked.site.layer, asked.site.hook)}/"):
            if f"{folder}{files.WEIGHTS}" in source.names:
                beside = (files.SCALER, files.WHITENING)
                more = [f"{folder}{name}" for name in beside if f"{folder}{name}" in source.names]
                return (f"{folder}{files.CONFIG}", f"{folder}{files.WEIGHTS}", *more)
        return None

    def read(self, source: Source, asked: Asked) -> Dictionary:
        """By `deconstruct.sae.files.load`; metadata also as it was before 6.0."""
        config_name, weights_name, *_ = self.wanted(source, asked) or (files.CONFIG, files.WEIGHTS)
        config = source.json(config_name)
        source.path(weights_name)
        metadata = config.get("metadata")
        told = metadata if isinstance(metadata, dict) else config
        hook = told.get("hook_name") or told.get("hook_point")
        if told.get("hook_head_index") is not None:
            raise source.fault("it reads a single head of attention, which is no site of ours")
        if config.get("reshape_activations", "none") != "none":
            raise source.fault(
                f"it reads {hook!r} of all heads as one (reshape_activations), which is no site of "
                "ours"
            )
        try:
            sae = files.load(Path(source.folder, config_name).parent)
        except StorageError as error:
            raise source.fault(str(error)) from error
        sae = made(source, sae.architecture, sae.weights(), k=sae.k, transcoder=sae.transcoder)
        return Dictionary(
            sae,
            Told(
                _text(told.get("model_name")),
                _text(told.get("hf_hook_name")) or _text(hook),
                _text(told.get("hf_hook_name_out")) or _text(told.get("hook_name_out")),
            ),
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
