"""A finished run, opened to try something on its language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.common.hardware import pick_device
from deconstruct.common.site import Site
from deconstruct.config import RunConfig
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel, resolve
from deconstruct.reference.texts import Text, held_out_texts
from deconstruct.store import data_root, open_store, resolve_run
from deconstruct.store.query import executed, stage_keys

NEEDED = ("corpus", "activations", "sae", "latents")


@dataclass(frozen=True)
class Subject:
    """A run of the store, its configuration, and the artifacts of `NEEDED`, verified."""

    root: DataRoot
    run_id: str
    config: RunConfig
    corpus: Artifact
    activations: Artifact
    sae: Artifact
    latents: Artifact

    @property
    def source(self) -> Site:
        """The site that its SAE reads."""
        return Site.parse(str(self.activations.facts["site"]))

    @property
    def site(self) -> Site:
        """The site that its SAE reconstructs: of a transcoder, another one."""
        output = self.sae.facts.get("output_site")
        return Site.parse(str(output)) if output else self.source

    def held_out(self) -> list[Text]:
        """Its held-out texts, all of them, with the tokens that were recorded."""
        skip = int(self.activations.manifest.config["skip_positions"])
        return held_out_texts(self.corpus, None, skip)

    def resolved(self) -> ResolvedModel:
        """Its language model, found again, in the arithmetic that its activations were recorded in.

        Raises ``ConfigError`` or ``SourceUnreachable`` if it is not there, or not the same any
        more.
        """
        found = resolve(self.root, self.config.model)
        known = self.activations.facts.get("model_digest")
        if known is not None and known != found.digest:
            raise ConfigError(
                f"model.name = {found.name!r} is not the model any more that run {self.run_id} "
                "took apart; run it again"
            )
        return replace(found, dtype=str(self.activations.facts["dtype"]))

    def language_model(self, device: str = "auto") -> torch.nn.Module:
        """The same, loaded. Raises what `resolved` does."""
        return load(self.resolved(), pick_device(device))


def subject_of(home: Path | str | None, run: str) -> Subject:
    """The run that ``run`` means. Raises ``QueryError`` for an unknown one, ``StorageError`` for
    artifacts that are gone."""
    root = DataRoot(data_root(home))
    with open_store(home, files=False, verify=False) as store:
        run_id = resolve_run(store, run)
        keys = stage_keys(store, run_id)
    config, _ = executed(home, run_id)
    return Subject(root, run_id, config, *(root.open(stage, keys[stage]) for stage in NEEDED))
