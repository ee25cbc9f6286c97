"""Language models: found, and pinned down by content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.common.paths import absolute
from deconstruct.common.site import Site
from deconstruct.config import ModelConfig
from deconstruct.model.embedded import PREFIX, embedded_model
from deconstruct.model.folder import TOKENIZER_FILES, check_folder, digest_of, weights_of
from deconstruct.model.hub import snapshot

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is in a local folder, with digests of what is in it.

    name: as the user wrote it. folder: holds config.json, safetensors and the tokenizer.
    digest: of weights and configuration (a hub commit, an artifact's key, or a SHA-256 over the
    files). tokenizer_digest: of the tokenizer's files alone, so that two models that share a
    tokenizer share a tokenised corpus. dtype: arithmetic of its forward passes, as the user wrote
    it (`pick_dtype`).
    """

    name: str
    folder: Path
    digest: str
    tokenizer_digest: str
    dtype: str = "auto"

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


def resolve(root: DataRoot, config: ModelConfig) -> ResolvedModel:
    """Find the model that ``config`` names: embedded, a local folder, or a hub id.

    Raises ``ConfigError`` if a folder holds no safetensors model, ``SourceUnreachable`` if the
    hub can't serve an id; both within seconds.
    """
    folder = absolute(config.name)
    if config.name.startswith(PREFIX):
        artifact = embedded_model(root, config.name)
        folder, digest = artifact.path, artifact.key
    elif folder.is_dir():
        check_folder(folder, config.name)
        digest = digest_of(folder, ("config.json", *weights_of(folder)))
    elif config.name.startswith(("/", "./", "../", "~")):
        raise ConfigError(
            f"model.name = {config.name!r}: there is no such folder; name a folder that holds "
            "config.json and safetensors, a hub id, or 'embedded:gemma-3-270m'"
        )
    else:
        folder, digest = snapshot(config.name, config.revision)
        check_folder(folder, config.name)
    tokenizer = digest_of(folder, TOKENIZER_FILES)
    return ResolvedModel(config.name, folder, digest, tokenizer, config.dtype)
