"""Language models: found and pinned down by content, then loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from deconstruct.artifact import ArtifactStore, sha256_of
from deconstruct.config import ModelConfig
from deconstruct.embedded import PREFIX, embedded_model
from deconstruct.errors import ConfigError, SourceUnreachable
from deconstruct.hub import reachable
from deconstruct.site import Site

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""What is fetched of a hub model: weights as safetensors alone, never pickled ones."""
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is in a local folder, with digests of what is in it.

    name: as the user wrote it. folder: holds config.json, safetensors and the tokenizer.
    digest: of weights and configuration (a hub commit, an artifact's key, or a SHA-256 over the
    files). tokenizer_digest: of the tokenizer's files alone, so that two models that share a
    tokenizer share a tokenised corpus.
    """

    name: str
    folder: Path
    digest: str
    tokenizer_digest: str

    @property
    def short_name(self) -> str:
        """The name without owner, path or prefix: ``gpt2``, ``gemma-3-270m``."""
        return self.name.rstrip("/").split(":")[-1].split("/")[-1]

    @cached_property
    def layers(self) -> int:
        """Number of transformer blocks, read from config.json alone."""
        return self._setting(_LAYERS, "number of layers")

    @cached_property
    def d_model(self) -> int:
        """Width of the residual stream, read from config.json alone."""
        return self._setting(_WIDTHS, "width")

    def _setting(self, names: Sequence[str], what: str) -> int:
        config = json.loads((self.folder / "config.json").read_text())
        config = config.get("text_config", config)
        for name in names:
            if name in config:
                return int(config[name])
        raise ConfigError(
            f"model.name = {self.name!r}: its config.json gives no {what} ({', '.join(names)}); "
            "it is no decoder-only transformer that we know"
        )

    def check_sites(self, sites: Iterable[Site]) -> None:
        """Raise ``ConfigError`` if a site's layer is not in the model."""
        for site in sites:
            if site.layer >= self.layers:
                raise ConfigError(
                    f"activations.sites: {str(site)!r} is out of range, {self.short_name} has "
                    f"{self.layers} layers; choose a layer from 0 to {self.layers - 1}"
                )


def resolve(store: ArtifactStore, config: ModelConfig) -> ResolvedModel:
    """Find the model that ``config`` names: embedded, a local folder, or a hub id.

    Raises ``ConfigError`` if a folder holds no safetensors model, ``SourceUnreachable`` if the
    hub can't serve an id; both within seconds.
    """
    if config.name.startswith(PREFIX):
        artifact = embedded_model(store, config.name)
        return ResolvedModel(
            config.name, artifact.path, artifact.key, _digest(artifact.path, _TOKENIZER_FILES)
        )
    folder = Path(config.name).expanduser()
    if folder.is_dir():
        folder = folder.absolute()
        _check_folder(folder, config.name)
        digest = _digest(folder, ("config.json", *_weights(folder)))
    elif config.name.startswith(("/", "./", "../", "~")):
        raise ConfigError(
            f"model.name = {config.name!r}: there is no such folder; name a folder that holds "
            "config.json and safetensors, a hub id, or 'embedded:gemma-3-270m'"
        )
    else:
        folder, digest = _hub_snapshot(config.name, config.revision)
        _check_folder(folder, config.name)
    return ResolvedModel(config.name, folder, digest, _digest(folder, _TOKENIZER_FILES))


def load(model: ResolvedModel, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Load the causal language model for inference: evaluation mode, no gradients.

    Attention runs in `torch`'s fused kernel where the architecture allows it. Raises
    ``ConfigError`` if the folder is no such model, or lacks some of its weights.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            loaded, report = AutoModelForCausalLM.from_pretrained(
                model.folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"model.name = {model.name!r} does not load as a causal language model: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # `transformers` would go on with random ones
        raise ConfigError(
            f"model.name = {model.name!r}: its safetensors lack {len(missing)} of the weights that "
            f"its config.json asks for, {missing[0]} among them; take a folder that "
            "save_pretrained wrote"
        )
    language_model: torch.nn.Module = loaded
    return language_model.to(device).eval().requires_grad_(False)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the bars that `transformers` draws for moments of loading; ours tell of stages."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_tokenizer(model: ResolvedModel) -> Any:
    """Load the model's tokenizer, a ``transformers`` fast tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        model.folder, local_files_only=True, trust_remote_code=False
    )


def pick_device(device: str = "auto") -> str:
    """``auto`` is ``cuda`` where there is one, else ``cpu``. Raises ``ConfigError``."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = "unknown"
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device {device!r} is not to be had here; choose auto, cpu or cuda[:N]")
    return device


def pick_dtype(dtype: str = "auto", device: str = "cpu") -> torch.dtype:
    """``auto`` is bfloat16 where its matrix products are fast: GPUs, and CPUs with AVX512-bf16.

    Such a CPU runs GEMMs in bfloat16 almost four times as fast as in float32.
    """
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    if device != "cpu":
        return torch.bfloat16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def _hub_snapshot(name: str, revision: str | None) -> tuple[Path, str]:
    """Local folder and commit hash of a hub model, fetched if need be.

    Offline, whatever the hub's local cache holds of it serves. Raises ``SourceUnreachable`` with
    the remedy if it is not there, does not exist, or asks for a licence to be accepted.
    """
    from httpx import TransportError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    online = reachable()
    try:
        folder = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=HUB_FILES, local_files_only=not online
            )
        )
    except (LocalEntryNotFoundError, TransportError) as error:
        raise SourceUnreachable(_out_of_reach(name, "does not hold this model")) from error
    except GatedRepoError as error:
        raise SourceUnreachable(
            f"model.name = {name!r} is gated; accept its licence on the hub and run `hf auth login`"
        ) from error
    except (HfHubHTTPError, ValueError) as error:
        raise SourceUnreachable(
            f"model.name = {name!r}, revision {revision or 'main'!r}: the hub does not serve it "
            f"({str(error).splitlines()[0]}); check the id, or name a local folder"
        ) from error
    if not online and _lacking(folder):
        raise SourceUnreachable(_out_of_reach(name, f"lacks the {_lacking(folder)} of this model"))
    return folder, folder.name


def _out_of_reach(name: str, what: str) -> str:
    return (
        f"model.name = {name!r}: the Hugging Face hub is out of reach and its local cache {what}; "
        "name a local folder, or run configs/embedded.toml, which needs no hub"
    )


def _check_folder(folder: Path, name: str) -> None:
    lacking = _lacking(folder)
    if lacking is None:
        return
    pickled = lacking == "safetensors weights" and any(folder.glob("*.bin"))
    raise ConfigError(
        f"model.name = {name!r}: the folder holds no {lacking}"
        + (", only pickled ones, which can run code when loaded" if pickled else "")
        + "; name a folder that save_pretrained of model and tokenizer wrote"
    )


def _lacking(folder: Path) -> str | None:
    """What a folder lacks of a model, if anything."""
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    absent = sorted(shards - set(_weights(folder)))
    if not (folder / "config.json").is_file():
        return "config.json"
    if not _weights(folder):
        return "safetensors weights"
    if absent:
        return f"{absent[0]}, which {index.name} lists"
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        return "tokenizer"
    return None


def _weights(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def _digest(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over names and contents of those of the files that are there."""
    listing = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
