"""The standing run of a name: the one that a growing run goes on from."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import Growth, RunConfig
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.model.resolve import ResolvedModel
from deconstruct.store import open_store
from deconstruct.store.rewrite import FILE

log = logging.getLogger("deconstruct.stages")

EXECUTED = """
SELECT e.run_id, r.site, e.config, r.model_digest
FROM executions AS e JOIN runs AS r ON r.run_id = e.run_id
WHERE e.name = ? ORDER BY coalesce(e.growth = 'anew', false), e.execution DESC
"""


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
        seen = self.sae.manifest.inputs.get("activations") == activations.key
        return (self.sae, None) if seen else (None, self.sae)


def find(root: DataRoot, config: RunConfig, model: ResolvedModel) -> dict[str, Standing]:
    """Site -> the run of ``config.name`` with the same settings that was executed last.

    One that took no notice of what was there (growth "anew") comes after all that did: so trying
    something out under the name does not end the series. Settings are the same if those of model,
    corpus (but for where its texts lie), activations and sae (but for ``warm_tokens``) are, and the
    files of the model and of its tokenizer too. Raises ``StorageError`` if artifacts of such a run
    are damaged or gone.
    """
    if not (root.path / FILE).exists():
        return {}
    found: dict[str, Standing] = {}
    changed: dict[str, str] = {}
    with open_store(root.path, files=False, verify=False) as connection:
        for run_id, site, settings, digest in connection.execute(
            EXECUTED, [config.name]
        ).fetchall():
            if site in found or site not in config.activations.sites:
                continue
            own = RunConfig.model_validate(json.loads(settings))
            if _identity(own, site) != _identity(config, site):
                continue
            keys = dict(
                connection.execute(
                    "SELECT stage, key FROM stages WHERE run_id = ?", [run_id]
                ).fetchall()
            )
            corpus = root.open("corpus", keys["corpus"])
            if (digest, corpus.manifest.inputs["tokenizer"]) == (
                model.digest,
                model.tokenizer_digest,
            ):
                found[site] = Standing(run_id, corpus, root.open("sae", keys["sae"]))
            else:
                changed.setdefault(site, run_id)
    for site, run_id in changed.items():
        if site not in found:
            log.warning(
                "the files of model %r have changed since run %s was made (%s): nothing of that "
                "run is taken over", config.model.name, run_id, site,
            )  # fmt: skip
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
