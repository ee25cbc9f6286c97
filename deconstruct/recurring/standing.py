"""The standing run: the newest published run of a name, from which a growing one goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import Growth, RunConfig
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.store import open_store
from deconstruct.store.rewrite import FILE


@dataclass(frozen=True)
class Standing:
    """Artifacts of the standing run at one site."""

    run_id: str
    corpus: Artifact
    sae: Artifact

    def role(
        self, growth: Growth, activations: Artifact
    ) -> tuple[Artifact | None, Artifact | None]:
        """The SAE as the one that is kept, or as the one that training starts from, or neither.

        One that was trained on these very activations is kept rather than trained further: the
        same run again gives the same SAE.
        """
        if growth == "encode":
            return self.sae, None
        if growth != "retrain-warm":
            return None, None
        seen = self.sae.manifest.inputs["activations"] == activations.key
        return (self.sae, None) if seen else (None, self.sae)


def find(root: DataRoot, config: RunConfig) -> dict[str, Standing]:
    """Site -> the newest published run of ``config.name`` with the same settings, if there is one.

    Settings are the same if those of model, corpus (but for where its texts lie), activations and
    sae (but for ``warm_tokens``) are. Raises ``StorageError`` if artifacts of such a run are
    damaged or gone.
    """
    if not (root.path / FILE).exists():
        return {}
    found: dict[str, Standing] = {}
    with open_store(root.path) as connection:
        rows = connection.execute(
            "SELECT run_id, site, config FROM runs WHERE name = ? ORDER BY published DESC",
            [config.name],
        ).fetchall()
        for run_id, site, settings in rows:
            if site in found or site not in config.activations.sites:
                continue
            if _identity(RunConfig.model_validate(json.loads(settings)), site) != _identity(
                config, site
            ):
                continue
            keys = dict(
                connection.execute(
                    "SELECT stage, key FROM stages WHERE run_id = ?", [run_id]
                ).fetchall()
            )
            found[site] = Standing(
                run_id, root.open("corpus", keys["corpus"]), root.open("sae", keys["sae"])
            )
    return found


def base_of(
    root: DataRoot, config: RunConfig, source: ResolvedSource, corpus: Artifact
) -> Artifact | None:
    """What the corpus of ``source`` grows from, where ``corpus`` is that of the standing run.

    If the source has not changed since, that is what ``corpus`` itself grew from: the same corpus
    comes of it. Raises ``ConfigError`` for a corpus that can't grow.
    """
    if config.corpus.limit is not None:
        raise ConfigError(
            f"corpus.limit = {config.corpus.limit} draws other documents whenever the source "
            "grows; leave it out for runs that grow"
        )
    if corpus.manifest.inputs["source"] != source.digest:
        return corpus
    base = corpus.manifest.inputs.get("base")
    return root.open("corpus", base) if base else None


def _identity(config: RunConfig, site: str) -> dict[str, object]:
    """What two runs must share for one to go on from the other, as JSON types."""
    return {
        "model": config.model.model_dump(mode="json"),
        "corpus": config.corpus.key_fields(),
        "activations": config.activations.key_fields() | {"site": site},
        "sae": config.sae.key_fields(),
    }
