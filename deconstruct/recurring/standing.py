"""The standing run of a name: the one that a growing run goes on from."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError, StorageError
from deconstruct.config import TRAINING, CorpusConfig, Growth, RunConfig
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae.stage import trained_on
from deconstruct.store import open_store, resolve_run
from deconstruct.store.rewrite import FILE

log = logging.getLogger("deconstruct.stages")

EXECUTED = """
SELECT e.run_id, r.site, e.config, r.model_digest, e.training_corpus, e.analysis, s.key
FROM executions AS e JOIN runs AS r ON r.run_id = e.run_id
JOIN stages AS s ON s.run_id = e.run_id AND s.stage = ?
WHERE e.name = ? AND e.stands
ORDER BY coalesce(e.growth = 'anew', false), e.execution DESC
"""


@dataclass(frozen=True)
class Standing:
    """Artifacts of the standing run at one site.

    corpus: what [corpus] had come to; None: it was not read, as where others trained the SAE, or
    is gone. given:
    the run was named, so that its SAE is kept whatever the growth.
    """

    run_id: str
    corpus: Artifact | None
    sae: Artifact
    given: bool = False

    def stays(self, growth: Growth) -> bool:
        """Whether the SAE is kept, whatever came since."""
        return self.given or growth == "encode"

    def role(
        self, growth: Growth, activations: Artifact | None
    ) -> tuple[Artifact | None, Artifact | None]:
        """The SAE as the one that is kept, or as the one that training starts from, or neither.

        One that was trained on these very activations is kept rather than trained further: the
        same run again gives the same SAE. activations: None where nothing is trained.
        """
        if self.stays(growth):
            return self.sae, None
        if growth != "retrain-warm" or activations is None:
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
        for run_id, site, settings, digest, training, _, sae in connection.execute(
            EXECUTED, ["sae", config.name]
        ).fetchall():
            if site in found or site not in config.activations.sites:
                continue
            own = RunConfig.model_validate(json.loads(settings))
            if _identity(own, site) != _identity(config, site):
                continue
            corpus = root.open("corpus", training) if training else None
            if _read_by(model, digest, corpus):
                found[site] = Standing(run_id, corpus, root.open("sae", sae))
            else:
                changed.setdefault(site, run_id)
    for site, run_id in changed.items():
        if site not in found:
            log.warning(
                "the files of model %r have changed since run %s was made (%s): nothing of that "
                "run is taken over", config.model.name, run_id, site,
            )  # fmt: skip
    return found


def analysed(root: DataRoot, config: RunConfig, model: ResolvedModel) -> dict[str, Artifact]:
    """The corpora of ``config``'s analyses as the name's last executions had them, by analysis.

    What `find` says of settings holds for those of the analysis. One with a limit draws other
    documents whenever its source grows, and is in none.
    """
    found: dict[str, Artifact] = {}
    if not (root.path / FILE).exists():
        return found
    wanted = {
        name: of.key_fields()
        for name, of in config.analysed().items()
        if name != TRAINING and of.limit is None
    }
    with open_store(root.path, files=False, verify=False) as connection:
        executed = connection.execute(EXECUTED, ["corpus", config.name]).fetchall()
    for _, _, settings, digest, _, name, key in executed:
        if name not in wanted or name in found:
            continue
        own = RunConfig.model_validate(json.loads(settings)).analysed()
        if name in own and own[name].key_fields() == wanted[name]:
            corpus = root.open("corpus", key)
            if _read_by(model, digest, corpus):
                found[name] = corpus
    return found


def named(root: DataRoot, run: str, model: ResolvedModel) -> dict[str, Standing]:
    """The run that ``run`` means (`deconstruct.store.resolve_run`), by its site, to be gone on from
    whatever its name and settings.

    Raises ``QueryError`` if there is none, ``ConfigError`` if ``model``'s files are no more those
    that its SAE was made for, ``StorageError`` if that is damaged or gone.
    """
    with open_store(root.path, files=False, verify=False) as connection:
        run_id = resolve_run(connection, run)
        [(site, digest, key)] = connection.execute(
            "SELECT r.site, r.model_digest, s.key FROM runs AS r JOIN stages AS s "
            "ON s.run_id = r.run_id AND s.stage = 'sae' WHERE r.run_id = ?",
            [run_id],
        ).fetchall()
    sae = root.open("sae", key)
    try:
        corpus = trained_on(root, sae)
    except StorageError:  # of no use but to say which documents it has
        corpus = None
    if not _read_by(model, digest, corpus):
        raise ConfigError(
            f"the files of model {model.name!r} have changed since run {run_id} was made, so its "
            "SAE is of another model; run its configuration anew"
        )
    return {site: Standing(run_id, corpus, sae, given=True)}


def _read_by(model: ResolvedModel, digest: str, corpus: Artifact | None) -> bool:
    """Whether a run of a model of ``digest`` over ``corpus`` is of these files of the model."""
    tokenizer = corpus.manifest.inputs["tokenizer"] if corpus else model.tokenizer_digest
    return (digest, tokenizer) == (model.digest, model.tokenizer_digest)


def base_of(
    root: DataRoot, config: CorpusConfig, source: ResolvedSource, corpus: Artifact
) -> Artifact | None:
    """What the corpus of ``source`` grows from, where ``corpus`` is that of the standing run.

    If the source has not changed since, that is what ``corpus`` itself grew from: the same corpus
    comes of it. Raises ``ConfigError`` for a corpus that can't grow.
    """
    if config.limit is not None:
        raise ConfigError(
            f"corpus.limit = {config.limit} draws other documents whenever the source "
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
