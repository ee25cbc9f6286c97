"""circuit-tracer 0.5: pages of features, and the weights of a transcoder of its transcoder sets.

Pages are as its viewer fetches them from the hub: ``features/layer_N.bin`` is one gzipped JSON
object after another, each after its length in four bytes, least significant first;
``features/index.json.gz`` has each layer's file and the offsets in it. An object is
``frontend/feature_models.py``'s ``Model``.

Weights are ``layer_N.safetensors`` (``SingleLayerTranscoder.to_safetensors``): W_enc [F, d], W_dec
[F, d], b_enc, b_dec, W_skip [d, d] and ``activation_function.threshold`` [F]; ``config.yaml`` says
which sites they join. A set has such a file for each layer from 0 on.
"""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from deconstruct.common.site import Site
from deconstruct.interop.formats.contexts import Context, Latent, latents
from deconstruct.interop.formats.neuronpedia import short
from deconstruct.interop.subject import Subject, slug
from deconstruct.interop.work import Made, Work, python
from deconstruct.sae.autoencoder import SparseAutoencoder

FEATURES, INDEX, CONFIG = "features", "index.json.gz", "config.yaml"
BARS = 50
HOOKS = {"mlp_in": "mlp.hook_in", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}


def check(subject: Subject) -> None:
    """Every run that has latents can be shown."""


def write(work: Work, folder: Path) -> Made:
    """The pages, and the weights of a transcoder that it can hold."""
    subject, layer = work.subject, work.subject.site.layer
    (folder / FEATURES).mkdir()
    _write_pages(work, folder / FEATURES)
    contents = [
        f"`{FEATURES}/`: {subject.d_sae:,} pages of latents, with excerpts of the texts that they "
        "fire on",
    ]
    without = _why_not(subject, work.sae)
    if without:
        return Made(f"These are pages for the viewer of circuit-tracer alone: {without}.", contents)
    _write_weights(subject, work.sae, folder)
    contents += [
        f"`layer_{layer}.safetensors`: the weights of this layer's transcoder",
        f"`{CONFIG}`: which sites it joins",
    ]
    module = "circuit_tracer.transcoder.single_layer_transcoder"
    load = (
        f'transcoder = load_relu_transcoder(f"{{folder}}/layer_{layer}.safetensors", {layer}, '
        "lazy_encoder=False, lazy_decoder=False)"
    )
    loading = python(work, f"from {module} import load_relu_transcoder", load)
    loading += (
        "\n\nTo trace circuits, a set needs such a file for each layer from 0 on: put those of the "
        "other layers' runs beside it."
    )
    return Made(loading, contents)


def _why_not(subject: Subject, sae: SparseAutoencoder) -> str:
    """Why its transcoder sets can't hold the weights; empty if they can."""
    if subject.output_site is None:
        return "its weights are transcoders', and this is an autoencoder"
    if sae.architecture in ("topk", "gated"):
        return f"its transcoders have ReLU or JumpReLU, and this one is {sae.architecture}"
    if subject.site.layer != subject.output_site.layer:
        return "its transcoders read and write one layer, and this one goes to another"
    if sae.d_in != sae.d_out:
        return "its transcoders read and write activations of one width"
    return ""


def _write_weights(subject: Subject, sae: SparseAutoencoder, folder: Path) -> None:
    w = sae.weights()
    tensors = {"W_enc": w["W_enc"].T, **{name: w[name] for name in ("W_dec", "b_enc", "b_dec")}}
    if "threshold" in w:
        tensors["activation_function.threshold"] = w["threshold"]
    if "W_skip" in w:
        tensors["W_skip"] = w["W_skip"]
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / f"layer_{subject.site.layer}.safetensors",
    )
    config = {
        "model_kind": "transcoder_set",
        "model_name": subject.base_model or subject.model,
        "feature_input_hook": _hook(subject.site),
        "feature_output_hook": _hook(subject.output_site or subject.site),
    }
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=False)
    (folder / CONFIG).write_text(text, encoding="ascii")


def _hook(site: Site) -> str:
    """The site's name in TransformerLens, without its layer."""
    return HOOKS.get(site.hook, f"hook_{site.hook}")


def _write_pages(work: Work, folder: Path) -> None:
    """A batch of latents at a time."""
    subject, layer = work.subject, work.subject.site.layer
    name, offsets = f"layer_{layer}.bin", [0]
    scan = work.repository or slug(subject.name)
    with (folder / name).open("wb") as file:
        for batch in latents(work.store, subject.run_id, subject.d_sae):
            for latent in batch:
                page = json.dumps(_page(latent, scan), allow_nan=False).encode("ascii")
                packed = gzip.compress(page, 6, mtime=0)
                file.write(struct.pack("<I", len(packed)) + packed)
                offsets.append(offsets[-1] + 4 + len(packed))
    index = json.dumps({str(layer): {"filename": name, "offsets": offsets}}).encode("ascii")
    (folder / INDEX).write_bytes(gzip.compress(index, 6, mtime=0))


def _page(latent: Latent, scan: str) -> dict[str, Any]:
    """Activations are counted from 0, which they are where the latent is silent."""
    groups = [("Top activations", latent.top)] if latent.top else []
    groups += [
        (f"Activations from {one.low:.4g} to {one.high:.4g} ({one.share:.1%})", one.contexts)
        for one in latent.intervals
    ]
    shown: set[int] = set()
    quantiles = []
    for name, contexts in groups:
        examples = [_example(one, one.token_index in shown) for one in contexts]
        shown |= {one.token_index for one in contexts}
        quantiles.append({"quantile_name": name, "examples": examples})
    return {
        "transcoder_id": scan,
        "index": latent.number,
        "examples_quantiles": quantiles,
        "top_logits": [token for token, _ in latent.promoted],
        "bottom_logits": [token for token, _ in latent.suppressed],
        "act_min": 0.0,
        "act_max": short(latent.strongest),
        "quantile_values": [short(value) for value in latent.percentiles],
        "histogram": latent.histogram(BARS) if latent.n_fires else [],
        "activation_frequency": latent.density,
    }


def _example(context: Context, repeated: bool) -> dict[str, Any]:
    return {
        "tokens": context.tokens,
        "tokens_acts_list": [short(value) for value in context.values],
        "train_token_ind": context.at,
        "is_repeated_datapoint": repeated,
    }
