"""Saved autoencoders: safetensors and JSON, in the names and shapes that SAELens reads.

Layout of SAELens 6 (`SAE.load_from_disk`): ``sae_weights.safetensors`` and ``cfg.json``, with
W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec and what else an architecture has. Ours take
raw activations, so SAELens is told ``normalize_activations: none`` and ``apply_b_dec_to_input:
false``. As SAELens does, BatchTopK and Matryoshka are saved as the JumpReLU that they are once
trained; ``metadata.training_architecture`` keeps the truth. Of transcoders, SAELens knows those
with ReLU and JumpReLU; the names of the others follow its pattern.

SAELens takes a file without ``metadata.sae_lens_version`` for one from before 6.0, and drops the
rest of its metadata. `copy_for_sae_lens` adds that in a copy; artifacts keep the bytes they have.

What theirs do at run time by a constant is folded into the weights: a factor on the input
(``expected_average_only_in``) and whitening, which their training checkpoints keep beside the
weights; decoder norms in the choice of latents (``rescale_acts_by_decoder_norm``); factors on
latents after finetuning. ``layer_norm`` and ``constant_norm_rescale`` divide each token by a norm
of its own, which no fixed weights do.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from deconstruct.common.errors import ConfigError, StorageError
from deconstruct.sae.architectures.base import Selection
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.autoencoder import SparseAutoencoder

WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"
_THEIR_NAMES = list(dict.fromkeys(one.saelens for one in ARCHITECTURES.values()))
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
"""Beside the weights of SAELens' training checkpoints: a factor on the input, an affine map."""
_BATCHED = {"batchtopk": "batchtopk", "matryoshka_batchtopk": "matryoshka"}
"""Names in training checkpoints; for inference SAELens saves both as JumpReLU."""
SAE_LENS_VERSION = "6.0.0"
"""The first whose layout this is."""


def save_weights(sae: SparseAutoencoder, path: Path) -> None:
    """Write the float32 tensors."""
    save_file({n: w.detach().cpu().contiguous() for n, w in sae.weights().items()}, path)


def config_of(sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into ``cfg.json``. metadata: free facts, such as hook_name and model_name."""
    method = ARCHITECTURES[sae.architecture]
    name = method.saelens
    if sae.transcoder:
        skip = "skip_" if "W_skip" in sae.weights() else ""
        name = f"{skip}transcoder" if name == "standard" else f"{name}_{skip}transcoder"
    config: dict[str, Any] = {
        "architecture": name,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**metadata, "training_architecture": sae.architecture},
    }
    if sae.transcoder:
        config["d_out"] = sae.d_out
    if method.selection is Selection.PER_TOKEN:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    elif method.selection is Selection.PER_BATCH:
        config["metadata"]["k"] = sae.k
    return config


def load(folder: Path | str) -> SparseAutoencoder:
    """Read an autoencoder that `save_weights` and `config_of` describe, or one of SAELens, also as
    it wrote them before 6.0.

    Raises ``StorageError`` if a file is missing or damaged, or holds an architecture, an activation
    function or an input transformation that we don't have, or weights of other shapes.
    """
    folder = Path(folder)
    try:
        config = _of_today(json.loads((folder / CONFIG).read_text()))
        weights = load_file(folder / WEIGHTS)
        config, weights = _as_inferred(config, weights)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise StorageError(f"{folder} holds no autoencoder that can be read: {error}") from error
    _check_function(config, folder)
    theirs = str(config["architecture"])
    transcoder = theirs.endswith("transcoder")
    base = theirs.removesuffix("transcoder").rstrip("_").removesuffix("skip").rstrip("_")
    base = base or "standard"
    if base not in _THEIR_NAMES:
        raise StorageError(
            f"{folder / CONFIG}: architecture {theirs!r} is unknown; "
            f"we read {', '.join(_THEIR_NAMES)}, and transcoders of them"
        )
    try:
        weights = _folded(config, weights, folder)
    except KeyError as error:
        raise StorageError(f"{folder / WEIGHTS} has no tensor {error}") from error
    metadata = config.get("metadata") or {}
    architecture = _trained_as(base, metadata.get("training_architecture"))
    k = config.get("k", metadata.get("k"))
    try:
        sae = SparseAutoencoder(architecture, weights, k, transcoder)
    except ConfigError as error:
        raise StorageError(f"{folder} holds no autoencoder that can be read: {error}") from error
    if not config.get("apply_b_dec_to_input", not transcoder):
        return sae
    w = sae.weights()
    own = {name: w[name].double() for name in ARCHITECTURES[architecture].trained}
    shift = w["b_dec"].double() @ w["W_enc"].double()
    shifted = w | ARCHITECTURES[architecture].fold(own, 1.0, shift)
    return SparseAutoencoder(architecture, shifted, k, transcoder)


def _as_inferred(
    config: dict[str, Any], weights: dict[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A training checkpoint of batch top-k as the JumpReLU that it is for inference."""
    trained = _BATCHED.get(str(config["architecture"]))
    if trained is None or "topk_threshold" not in weights:
        return config, weights
    found = dict(weights)
    found["threshold"] = found.pop("topk_threshold").expand(len(found["b_enc"])).clone()
    metadata = {"training_architecture": trained, "k": config.get("k")}
    metadata |= config.get("metadata") or {}
    return {**config, "architecture": "jumprelu", "metadata": metadata}, found


def _folded(
    config: Mapping[str, Any], weights: dict[str, torch.Tensor], folder: Path
) -> dict[str, torch.Tensor]:
    """The weights with what is done at run time by a constant; in SAELens' order.

    Raises ``StorageError`` for what each token is divided by, or for a factor that is not told.
    """
    how = config["normalize_activations"]
    w = dict(weights)
    by_norm = bool(config.get("rescale_acts_by_decoder_norm"))
    if how in ("layer_norm", "constant_norm_rescale"):
        raise StorageError(
            f"{folder / CONFIG}: it divides each token's activations by a norm of their own "
            f"(normalize_activations = {how!r}), which no fixed weights do, so it can't be folded"
        )
    if how == "expected_average_only_in":
        factor = _factor(folder)
        w["W_enc"] = w["W_enc"].double() * factor
        w |= {name: w[name].double() / factor for name in ("W_dec", "b_dec")}
        if by_norm and "threshold" in w:
            w["threshold"] = w["threshold"].double() / factor
    elif how not in ("none", "covariance_whitening"):
        raise StorageError(f"{folder / CONFIG}: normalize_activations = {how!r} is not supported")
    if by_norm:
        norm = w["W_dec"].double().norm(dim=1)
        w |= {name: w[name].double() * norm for name in ("W_enc", "b_enc")}
        w["W_dec"] = w["W_dec"].double() / norm.clamp(min=1e-30)[:, None]
    if how == "covariance_whitening":
        w = _whitened(w, bool(config.get("apply_b_dec_to_input", True)), folder)
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in w:
            w["W_dec"] = w["W_dec"].double() * w.pop(name).double()[:, None]
    return w


def _factor(folder: Path) -> float:
    """What the input is multiplied with, as a training checkpoint tells it."""
    try:
        return float(json.loads((folder / SCALER).read_text())["scaling_factor"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{folder / CONFIG}: its input is multiplied with a factor at run time "
            f"(expected_average_only_in), which no {SCALER} tells; fold it "
            "(SAELens: sae.fold_activation_norm_scaling_factor) and save"
        ) from error


def _whitened(
    weights: dict[str, torch.Tensor], centred: bool, folder: Path
) -> dict[str, torch.Tensor]:
    """With z = (x - mean) @ M on the input and its inverse on the output."""
    try:
        map_ = load_file(folder / WHITENING)
        mean, matrix, inverse = (map_[n].double() for n in ("mean", "matrix", "inverse_matrix"))
    except (OSError, KeyError, SafetensorError) as error:
        raise StorageError(
            f"{folder / CONFIG}: its input is whitened at run time, and no {WHITENING} says how; "
            "fold that (SAELens: sae.fold_activation_whitening) and save"
        ) from error
    w = dict(weights)
    w["W_enc"] = matrix @ w["W_enc"].double()
    if not centred:
        shift = mean @ w["W_enc"]
        if "r_mag" in w:
            w["b_gate"] = w["b_gate"].double() - shift
            w["b_mag"] = w["b_mag"].double() - w["r_mag"].double().exp() * shift
        else:
            w["b_enc"] = w["b_enc"].double() - shift
    w["W_dec"] = w["W_dec"].double() @ inverse
    w["b_dec"] = w["b_dec"].double() @ inverse + mean
    return w


def _trained_as(base: str, told: Any) -> str:
    """Which of ours has SAELens' name ``base``: the one that is told, else the first that is itself
    what SAELens calls so, and not only once trained."""
    ours = {n: one for n, one in ARCHITECTURES.items() if one.saelens == base}
    if told in ours:
        return str(told)
    return next(n for n, one in ours.items() if one.selection is not Selection.PER_BATCH)


def copy_for_sae_lens(folder: Path | str, target: Path | str) -> Path:
    """Copy a saved autoencoder, such as the artifact of stage ``sae``, to the folder ``target``, so
    that SAELens keeps its metadata too (``hook_name``, ``model_name``, ``training_architecture``).

    Returns ``target``. Raises ``StorageError`` if ``folder`` holds none that `load` reads.
    """
    folder, target = Path(folder), Path(target)
    load(folder)
    config = json.loads((folder / CONFIG).read_text())
    known = {"sae_lens_version": SAE_LENS_VERSION, **(config.get("metadata") or {})}
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / WEIGHTS, target / WEIGHTS)
    whole = json.dumps(config | {"metadata": known}, indent=1, sort_keys=True)
    (target / CONFIG).write_text(whole + "\n")
    return target


def _of_today(config: dict[str, Any]) -> dict[str, Any]:
    """``cfg.json`` in today's terms. Before 6.0, SAELens named the activation function and called
    a TopK SAE a standard one (``handle_pre_6_0_config`` in its ``pretrained_sae_loaders``)."""
    config = {"activation_fn_str" if k == "activation_fn" else k: v for k, v in config.items()}
    config.setdefault("architecture", "standard")
    told = config.get("normalize_activations")
    if told is None or isinstance(told, bool):
        config["normalize_activations"] = "expected_average_only_in" if told else "none"
    if config.get("activation_fn_str") == "topk" and config["architecture"] in ("standard", "topk"):
        asked = (config.get("activation_fn_kwargs") or {}).get("k")
        config |= {"architecture": "topk", "k": config.get("k", asked)}
    return config


def _check_function(config: Mapping[str, Any], folder: Path) -> None:
    """Raise ``StorageError`` for what would be left out of the function that the SAE is."""
    function = config.get("activation_fn_str") or "relu"
    if function != "relu" and (function != "topk" or config["architecture"] != "topk"):
        raise StorageError(
            f"{folder / CONFIG}: activation function {function!r} of a {config['architecture']} "
            "SAE is not supported; we read relu, and topk of a standard one"
        )


def tensor_lens_name(layer: int, hook: str) -> str:
    """The site's name in TransformerLens, as other tools write it."""
    names = {"mlp_in": "mlp.hook_in"}
    return f"blocks.{layer}.{names.get(hook, f'hook_{hook}')}"
