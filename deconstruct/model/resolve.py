"""Language models: found, and pinned down by content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.common.paths import absolute
from deconstruct.common.site import Site
from deconstruct.config import ModelConfig
from deconstruct.config.redrawn import RANDOM, digest_of_redrawn, named
from deconstruct.model.embedded import PREFIX, SIZES, embedded_model, unpacked
from deconstruct.model.folder import (
    check_folder,
    digest_of,
    embedding_of,
    tokenizer_files,
    weights_of,
)
from deconstruct.model.hub import snapshot

TESTED = frozenset(
    "gpt2 gpt_neox llama qwen2 qwen3 gemma gemma2 gemma3_text olmo2 glm4 opt".split()
)
"""Families (``model_type``) that our tests read at every site: known to work, nothing to try."""
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
_VOCABULARY = ("vocab_size",)


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is in a local folder, with digests of what is in it.

    name: as the user wrote it. folder: holds config.json, safetensors and the tokenizer.
    digest: of weights and configuration (a hub commit, an artifact's key, or a SHA-256 over the
    files). tokenizer_digest: of the tokenizer's files alone, so that two models that share a
    tokenizer share a tokenised corpus. dtype: arithmetic of its forward passes, as the user wrote
    it (`pick_dtype`). own: whether the folder is the user's own, whose files may change under our
    hands; those of a hub commit or an artifact do not. redrawn: the seed that weights are drawn
    anew by once they are loaded, which the digest says too; None: they are as the folder has them.
    """

    name: str
    folder: Path
    digest: str
    tokenizer_digest: str
    dtype: str = "auto"
    own: bool = False
    redrawn: int | None = None

    @property
    def short_name(self) -> str:
        """The name without owner, path or prefix: ``gpt2``, ``gemma-3-270m``."""
        return self.name.rstrip("/").split(":")[-1].split("/")[-1]

    @property
    def unpacked(self) -> bool:
        """Whether there is a folder: not of an embedded model that `glimpse` found first."""
        return self.folder != Path()

    @property
    def wanted(self) -> ModelConfig:
        """What `resolve` finds this very model by, in another process or on another machine: a
        folder by its path, a hub model with its commit."""
        itself, commit = named(self.name).itself, None
        if self.own:
            itself = str(self.folder)
        elif not itself.startswith(PREFIX):
            commit = self.digest.removeprefix(digest_of_redrawn("", self.redrawn))
        name = itself if self.redrawn is None else f"{RANDOM}{self.redrawn}:{itself}"
        return ModelConfig.model_validate({"name": name, "revision": commit, "dtype": self.dtype})

    @cached_property
    def layers(self) -> int:
        """Number of transformer blocks, read from config.json alone."""
        return self._setting(_LAYERS, "number of layers")

    @cached_property
    def d_model(self) -> int:
        """Width of the residual stream, read from config.json alone."""
        return self._setting(_WIDTHS, "width")

    @cached_property
    def positions(self) -> int | None:
        """Tokens that a text may have, read from config.json; None if it sets no limit."""
        return self._found(_POSITIONS)

    @cached_property
    def vocabulary(self) -> int | None:
        """Rows of the embedding, read from config.json; None if it does not say."""
        return self._found(_VOCABULARY)

    @cached_property
    def family(self) -> str:
        """``model_type`` of config.json (of its text model, where it has several), or ``""``."""
        return str(self._config.get("model_type", ""))

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """config.json as it is."""
        if not self.unpacked:
            return SIZES[named(self.name).itself.removeprefix(PREFIX)]
        found: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return found

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        inner = self.settings.get("text_config")
        return inner if isinstance(inner, dict) else self.settings

    def _found(self, names: Sequence[str]) -> int | None:
        found = (self._config.get(name) for name in names)
        return next((n for n in found if isinstance(n, int) and n > 0), None)

    def _setting(self, names: Sequence[str], what: str) -> int:
        found = self._found(names)
        if found is not None:
            return found
        raise ConfigError(
            f"model.name = {self.name!r}: its config.json gives no {what} ({', '.join(names)}); "
            "it is no decoder-only transformer that we know"
        )

    def check_weights(self) -> None:
        """Raise ``ConfigError`` if the weights' embedding is not as config.json says."""
        found, rows = embedding_of(self.folder), self.vocabulary
        if found is None:
            return
        width = self._found(("word_embed_proj_dim",)) or self.d_model  # OPT projects its own
        if found != [rows or found[0], width]:
            raise ConfigError(
                f"model.name = {self.name!r}: its weights embed {found[0]} tokens in {found[1]} "
                f"dimensions, but its config.json says {rows} in {width}; take config.json and "
                "weights from one place"
            )

    def check_unchanged(self) -> None:
        """Raise ``ConfigError`` if the user's folder no longer holds what was digested.

        To be asked after reading: what was made of other files must not be kept under the key of
        these. Files are hashed again only if their size or a time of theirs is another.
        """
        if not self.own:
            return
        weights, tokenizer = _digests(self.folder)
        there = (digest_of_redrawn(weights, self.redrawn), tokenizer)
        if there != (self.digest, self.tokenizer_digest):
            raise ConfigError(
                f"model.name = {self.name!r}: the folder's files have changed since the run began; "
                "run it again when nobody writes to them"
            )

    def check_length(self, max_tokens: int) -> None:
        """Raise ``ConfigError`` if documents may be longer than the model has positions."""
        if self.positions is not None and max_tokens > self.positions:
            raise ConfigError(
                f"corpus.max_tokens = {max_tokens} is more than the {self.positions} positions of "
                f"{self.short_name}; set it to {self.positions} or less"
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
    """Find the model that ``config`` names: embedded, a local folder, or a hub id; any of them also
    with its weights drawn anew.

    Raises ``ConfigError`` if a folder holds no safetensors model, ``SourceUnreachable`` if the
    hub can't serve an id; both within seconds.
    """
    if config.redrawn is not None:
        found = resolve(root, config.model_copy(update={"name": config.itself}))
        digest = digest_of_redrawn(found.digest, config.redrawn)
        return replace(found, name=config.name, digest=digest, redrawn=config.redrawn)
    if config.name.startswith(PREFIX):
        artifact = embedded_model(root, config.name)
        folder, digest = artifact.path, artifact.key
    elif (local := _local(config)) is not None:
        own = ResolvedModel(config.name, local, *_digests(local), config.dtype, own=True)
        own.check_weights()
        return own
    else:
        folder, digest = snapshot(config.name, config.revision)
        check_folder(folder, config.name)
    return ResolvedModel(config.name, folder, digest, _tokenizer(folder), config.dtype)


def glimpse(root: DataRoot | None, config: ModelConfig) -> ResolvedModel:
    """The model that ``config`` names as far as is known at once: without digests, and without the
    weights of one that has not been fetched or unpacked yet.

    root: where an embedded one is, if it is anywhere. Raises what `resolve` raises.
    """
    if config.redrawn is not None:
        found = glimpse(root, config.model_copy(update={"name": config.itself}))
        return replace(found, name=config.name, redrawn=config.redrawn)
    if config.name.startswith(PREFIX):
        artifact = unpacked(root, config.name)
        return ResolvedModel(config.name, artifact.path if artifact else Path(), "", "")
    folder = _local(config)
    if folder is None:
        folder, _ = snapshot(config.name, config.revision, weights=False)
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"model.name = {config.name!r}: the hub has no config.json of it; name a model "
                "that `transformers` loads"
            )
    found = ResolvedModel(config.name, folder, "", "")
    found.check_weights()
    return found


def _local(config: ModelConfig) -> Path | None:
    """The folder that ``config`` names, which holds a model; None if it is a hub id."""
    folder = absolute(config.name)
    if folder.is_dir():
        if config.revision is not None:
            raise ConfigError(
                f"model.revision = {config.revision!r} is for hub ids, and model.name = "
                f"{config.name!r} is a folder; leave it out"
            )
        check_folder(folder, config.name)
        return folder
    if config.name.startswith(("/", "./", "../", "~")):
        raise ConfigError(
            f"model.name = {config.name!r}: there is no such folder; name a folder that holds "
            "config.json and safetensors, a hub id, or 'embedded:gemma-3-270m'"
        )
    return None


def _digests(folder: Path) -> tuple[str, str]:
    """Of weights and configuration, and of the tokenizer."""
    weights = digest_of(folder, ("config.json", *weights_of(folder)))
    return weights, _tokenizer(folder)


def _tokenizer(folder: Path) -> str:
    return digest_of(folder, tokenizer_files(folder))
