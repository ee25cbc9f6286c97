"""EleutherAI's sparsify 1.3: ``<hookpoint>/cfg.json`` and ``sae.safetensors``.

Its `SparseCoder` is TopK alone; ``encoder.weight`` is W_enc turned, ``W_dec`` is as ours. An
autoencoder's input has b_dec taken off before it is encoded, a transcoder's has not.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from deconstruct.common.errors import ConfigError
from deconstruct.common.site import Site
from deconstruct.interop.formats.unfolding import subtracting
from deconstruct.interop.subject import Subject
from deconstruct.interop.work import Made, Work, python, write_json

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
MODULES = {"mlp_in": "layers.{}.mlp", "mlp_out": "layers.{}.mlp", "attn_out": "layers.{}.self_attn"}


def check(subject: Subject) -> None:
    """Raise ``ConfigError`` for what it can't hold."""
    if subject.architecture != "topk":
        others = "saelens" if subject.transcoder else "saelens and dictionary-learning"
        raise ConfigError(
            f"--format sparsify holds TopK alone, and run {subject.run_id} is "
            f"{subject.architecture}; {others} can hold it"
        )


def hookpoint(site: Site) -> str:
    """The module that gives the site's activations, by the names that most families have."""
    if site.hook in MODULES:
        return MODULES[site.hook].format(site.layer)
    layer = site.layer - (site.hook == "resid_pre")
    return "embed_tokens" if layer < 0 else f"layers.{layer}"


def write(work: Work, folder: Path) -> Made:
    """Raises ``ConfigError`` for a transcoder between sites of different widths, which their
    b_dec and W_skip can't have."""
    subject, sae = work.subject, work.sae
    if sae.d_out != sae.d_in:
        raise ConfigError(
            f"--format sparsify holds transcoders of one width, and run {subject.run_id} goes from "
            f"{sae.d_in} to {sae.d_out}; saelens can hold it"
        )
    weights = sae.weights() if sae.transcoder else subtracting(sae)
    tensors = {
        "encoder.weight": weights["W_enc"].T,
        "encoder.bias": weights["b_enc"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    } | ({"W_skip": weights["W_skip"]} if "W_skip" in weights else {})
    name = hookpoint(subject.output_site or subject.site)
    place = folder / name
    place.mkdir()
    save_file({n: w.contiguous() for n, w in tensors.items()}, place / WEIGHTS)
    norms = weights["W_dec"].norm(dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, round(sae.d_sae / sae.d_in)),
        "normalize_decoder": bool(torch.allclose(norms, torch.ones(()), atol=1e-4)),
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": "W_skip" in weights,
        "transcode": sae.transcoder,
        "d_in": sae.d_in,
        "site": str(subject.site),
        "output_site": str(subject.output_site or subject.site),
        "model_name": subject.model,
    }
    write_json(place / CONFIG, config)
    load = f'sae = SparseCoder.load_from_disk(f"{{folder}}/{name}")'
    encoded = "values, latents, _ = sae.encode(activations)  # the k largest of each token"
    return Made(
        python(work, "from sparsify import SparseCoder", load, encoded),
        (
            f"`{name}/{WEIGHTS}`: the weights, of what `{subject.site}` is in the table above",
            f"`{name}/{CONFIG}`: what they are",
        ),
    )
