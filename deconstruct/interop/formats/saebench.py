"""SAEBench 0.6: the figures of its evaluation ``core``, in the layout of ``CoreEvalOutput``.

A figure stands under SAEBench's name only where it is what that name says. Null are those that its
code works out in another way than it says (`WRONG`) and those that we don't measure (`UNMEASURED`);
why stands in ``eval_result_unstructured``. SAEBench writes -1 there, and can't read a null back.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconstruct.features.geometry import nearest
from deconstruct.interop.subject import Subject
from deconstruct.interop.work import Made, Work, write_json
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.files import tensor_lens_name

FILE = "core_eval_results.json"
WRONG = {
    "explained_variance": "SAEBench 0.6.0 takes the mean of squares for the mean (core/main.py: "
    "mean_act_per_dimension), so its values are of something else; 1 - fvu is in 'deconstruct'",
    "explained_variance_legacy": "a mean of ratios per token about the mean of a batch, which "
    "depends on the batch; nmse_median is in 'deconstruct'",
    "mse": "SAEBench divides by the number of tokens in a batch, so it depends on the batch; mse "
    "per element is in 'deconstruct'",
}
UNMEASURED = {
    "l2_norm_in": "only the lengths of single tokens are kept, in the table token_errors",
    "l2_norm_out": "lengths of reconstructions are not kept",
    "l2_ratio": "lengths of reconstructions are not kept",
}
READS = {
    "what": "kl, losses, cosine and l0 are over held-out tokens, all figures of single latents, l1 "
    "and frac_alive over all recorded tokens of the corpus, train and test; leading positions and "
    "special tokens are in neither"
}
_FEATURES = """
SELECT latent, density, n_fires, n_documents, mean_activation, encoder_decoder_cosine,
    nearest_cosine
FROM features WHERE run_id = ? ORDER BY latent
"""


def check(subject: Subject) -> None:
    """Every run that was judged has figures."""


def write(work: Work, folder: Path) -> Made:
    """One JSON file."""
    subject = work.subject
    latents = _latents(work)
    write_json(folder / FILE, _output(work, latents))
    loading = (
        "Put the file among the results of SAEBench 0.6 of this SAE. What is null there, and why, "
        "stands in its `eval_result_unstructured`."
    )
    contents = (
        f"`{FILE}`: the figures of SAEBench's evaluation `core`, of {subject.d_sae:,} latents, as "
        "measured by Deconstruct on its own texts",
    )
    return Made(loading, contents)


def _output(work: Work, latents: dict[str, np.ndarray]) -> dict[str, Any]:
    subject = work.subject
    identity = f"{subject.run_id} saebench core"
    return {
        "eval_type_id": "core",
        "eval_config": _config(subject),
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, identity)),
        "datetime_epoch_millis": int(subject.finished.timestamp() * 1000),
        "eval_result_metrics": _metrics(work, latents),
        "eval_result_details": [
            {"index": index, **{name: _number(of[index]) for name, of in _details(latents)}}
            for index in range(subject.d_sae)
        ],
        "eval_result_unstructured": {
            "null": WRONG | UNMEASURED,
            "read": READS["what"],
            "deconstruct": {
                one.name: {"value": _number(one.value), "ci": [_number(one.low), _number(one.high)]}
                for one in subject.metrics
            },
        },
        "sae_bench_commit_hash": "",
        "sae_lens_id": f"{subject.name}/{subject.site}",
        "sae_lens_release_id": subject.run_id,
        "sae_lens_version": f"deconstruct {version('deconstruct')}",
        "sae_cfg_dict": {
            "architecture": subject.architecture,
            "d_in": subject.d_in,
            "d_sae": subject.d_sae,
            "k": subject.k,
            "hook_name": tensor_lens_name(subject.site.layer, subject.site.hook),
            "hook_layer": subject.site.layer,
            "model_name": subject.base_model or subject.model,
        },
    }


def _config(subject: Subject) -> dict[str, Any]:
    """SAEBench's settings as far as they have a meaning here."""
    return {
        "model_name": subject.base_model or subject.model,
        "dataset": subject.dataset or subject.source,
        "context_size": int(subject.config.get("corpus", {}).get("max_tokens", 0)),
        "compute_kl": True,
        "compute_ce_loss": True,
        "compute_l2_norms": True,
        "compute_sparsity_metrics": True,
        "compute_variance_metrics": True,
        "compute_featurewise_density_statistics": True,
        "compute_featurewise_weight_based_metrics": True,
        "exclude_special_tokens_from_reconstruction": True,
    }


def _metrics(work: Work, latents: Mapping[str, np.ndarray]) -> dict[str, Any]:
    subject = work.subject
    known = {one.name: one for one in subject.metrics}

    def of(name: str) -> float | None:
        return _number(known[name].value) if name in known else None

    kl, score = of("kl"), of("kl_score")
    ablated = None if kl is None or score is None or score == 1 else kl / (1 - score)
    density = latents["density"]
    total = float(density.sum())
    judged = known["fvu"].n if "fvu" in known else 0
    return {
        "model_behavior_preservation": {
            "kl_div_score": score, "kl_div_with_ablation": ablated, "kl_div_with_sae": kl,
        },
        "model_performance_preservation": {
            "ce_loss_score": of("ce_loss_score"), "ce_loss_with_ablation": of("loss_zero"),
            "ce_loss_with_sae": of("loss_spliced"), "ce_loss_without_sae": of("loss_clean"),
        },
        "reconstruction_quality": dict.fromkeys(WRONG) | {"cossim": of("cosine")},
        "shrinkage": {
            **dict.fromkeys(UNMEASURED),
            "relative_reconstruction_bias": of("relative_reconstruction_bias"),
        },
        "sparsity": {
            "l0": of("l0"), "l1": _number(float((density * latents["mean_activation"]).sum())),
        },
        "token_stats": {
            "total_tokens_eval_reconstruction": int(judged or 0),
            "total_tokens_eval_sparsity_variance": subject.tokens,
        },
        "misc_metrics": {
            "freq_over_1_percent": float((density > 0.01).mean()),
            "freq_over_10_percent": float((density > 0.1).mean()),
            "normalized_freq_over_1_percent": _share(density[density > 0.01].sum(), total),
            "normalized_freq_over_10_percent": _share(density[density > 0.1].sum(), total),
            "average_max_encoder_cosine_sim": _number(latents["encoder"].mean()),
            "average_max_decoder_cosine_sim": _number(latents["nearest_cosine"].mean()),
            "frac_alive": float((density > 0).mean()),
        },
    }  # fmt: skip


def _latents(work: Work) -> dict[str, np.ndarray]:
    """Of each latent what the store has of it, and what its weights say."""
    found = work.store.execute(_FEATURES, [work.subject.run_id]).fetchnumpy()
    latents = {name: np.ma.filled(of.astype(np.float64), np.nan) for name, of in found.items()}
    latents["mean_activation"] = np.nan_to_num(latents["mean_activation"])
    W_enc = work.sae.W_enc.detach().float().T
    latents["encoder_norm"] = W_enc.norm(dim=1).double().numpy()
    latents["encoder_bias"] = _bias(work.sae)
    unit = torch.nn.functional.normalize(W_enc, dim=1)
    latents["encoder"] = nearest(unit)[1].astype(np.float64)
    return latents


def _details(latents: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        consistent = latents["n_fires"] / latents["n_documents"]
    return [
        ("feature_density", latents["density"]),
        ("consistent_activation_heuristic", consistent),
        ("encoder_bias", latents["encoder_bias"]),
        ("encoder_norm", latents["encoder_norm"]),
        ("encoder_decoder_cosine_sim", latents["encoder_decoder_cosine"]),
        ("max_decoder_cosine_sim", latents["nearest_cosine"]),
        ("max_encoder_cosine_sim", latents["encoder"]),
    ]


def _bias(sae: SparseAutoencoder) -> np.ndarray:
    """What decides whether a latent fires, of a gated one the gate's."""
    weights = sae.weights()
    bias = weights.get("b_enc", weights.get("b_gate"))
    return np.full(sae.d_sae, np.nan) if bias is None else bias.double().numpy()


def _share(part: float, whole: float) -> float:
    return float(part) / whole if whole else 0.0


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
