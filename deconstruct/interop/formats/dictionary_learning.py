"""saprmarks' dictionary_learning 0.1: ``trainer_0/config.json`` and ``ae.pt``.

    TopK, BatchTopK   AutoEncoderTopK, BatchTopKSAE: encoder.weight [F, d], encoder.bias,
                      decoder.weight [d, F], b_dec, k int32, threshold (one number; -1: none)
    JumpReLU          JumpReluAutoEncoder: W_enc [d, F], b_enc, W_dec [F, d], b_dec, threshold [F]
    Gated             GatedAutoEncoder: encoder.weight, decoder.weight, decoder_bias, r_mag,
                      gate_bias, mag_bias
    ReLU              AutoEncoder: encoder.weight, encoder.bias, decoder.weight, bias

All but JumpReluAutoEncoder take b_dec from the activation before they encode. A trained BatchTopK
whose latents have thresholds of their own, and Matryoshka, is the JumpReLU that it computes.
``ae.pt`` holds plain tensors alone, so that PyTorch loads it with ``weights_only``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deconstruct.common.errors import ConfigError
from deconstruct.interop.formats.unfolding import subtracting
from deconstruct.interop.subject import Subject
from deconstruct.interop.work import Made, Work, python, write_json
from deconstruct.sae.autoencoder import SparseAutoencoder

FOLDER, CONFIG, WEIGHTS = "trainer_0", "config.json", "ae.pt"
SAME = 1e-5
"""Share of themselves by which thresholds of a BatchTopK differ that are one, but for rounding."""
TRAINERS = {
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "GatedAutoEncoder": "GatedSAETrainer",
    "AutoEncoder": "StandardTrainer",
}


def check(subject: Subject) -> None:
    """Raise ``ConfigError`` for what it can't hold."""
    if subject.transcoder:
        raise ConfigError(
            f"--format dictionary-learning holds autoencoders alone, and run {subject.run_id} is a "
            "transcoder; saelens can hold it"
            + (", and so can sparsify" if subject.architecture == "topk" else "")
        )


def state_of(sae: SparseAutoencoder) -> tuple[str, dict[str, Tensor]]:
    """The class of theirs that computes what ``sae`` does, and its tensors by their names."""
    if sae.architecture in ("jumprelu", "matryoshka") or (
        sae.architecture == "batchtopk" and _threshold(sae) is None
    ):
        return "JumpReluAutoEncoder", sae.weights()
    w = subtracting(sae)
    pair = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    if sae.architecture == "gated":
        own = {"decoder_bias": w["b_dec"], "r_mag": w["r_mag"]}
        return "GatedAutoEncoder", pair | own | {
            "gate_bias": w["b_gate"], "mag_bias": w["b_mag"]
        }  # fmt: skip
    pair["encoder.bias"] = w["b_enc"]
    if sae.architecture == "relu":
        return "AutoEncoder", pair | {"bias": w["b_dec"]}
    threshold = _threshold(sae)
    of_k = {
        "b_dec": w["b_dec"],
        "k": torch.tensor(sae.k, dtype=torch.int32),
        "threshold": torch.tensor(-1.0 if threshold is None else threshold),
    }
    return ("AutoEncoderTopK" if threshold is None else "BatchTopKSAE"), pair | of_k


def _threshold(sae: SparseAutoencoder) -> float | None:
    """The one threshold of a BatchTopK; None if it has several, or none."""
    threshold = sae.weights().get("threshold")
    if threshold is None:
        return None
    middle = threshold.median()
    same = bool(((threshold - middle).abs() <= SAME * middle.abs()).all())
    return float(middle) if same else None


def write(work: Work, folder: Path) -> Made:
    """Writes the one trainer."""
    subject, sae = work.subject, work.sae
    kind, state = state_of(sae)
    place = folder / FOLDER
    place.mkdir()
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    torch.save(plain, place / WEIGHTS)
    write_json(place / CONFIG, _config(subject, sae, kind))
    load = 'sae, config = load_dictionary(f"{folder}/trainer_0", device="cpu")'
    encoded = "latents = sae.encode(activations)"
    return Made(
        python(work, "from dictionary_learning.utils import load_dictionary", load, encoded),
        (
            f"`{FOLDER}/{WEIGHTS}`: the tensors of `{kind}`",
            f"`{FOLDER}/{CONFIG}`: which class that is, and how it was trained",
        ),
    )


def _config(subject: Subject, sae: SparseAutoencoder, kind: str) -> dict[str, Any]:
    trained = subject.config.get("sae", {})
    trainer = {
        "trainer_class": TRAINERS[kind],
        "dict_class": kind,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "layer": subject.site.layer,
        "lm_name": subject.base_model or subject.model,
        "submodule_name": f"{subject.site.hook}_layer_{subject.site.layer}",
        "seed": trained.get("seed"),
        "device": "cpu",
        "wandb_name": subject.name,
        "trained_by": f"deconstruct, {sae.architecture}",
        "training_tokens": subject.training_tokens,
    }
    if sae.k is not None:
        trainer["k"] = sae.k
    return {"trainer": trainer, "buffer": {"d_submodule": sae.d_in}}
