"""What another process is to make, by name: settings, and inputs that it finds for itself.

An order is JSON, the parameter of a flow run: artifacts go as `Ref`s, a model and texts by where
they are, with the digests that must be found there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from deconstruct.activations.stage import STAGE as ACTIVATIONS
from deconstruct.activations.window import Stream
from deconstruct.artifacts import Artifact, DataRoot, Recipe, Stage
from deconstruct.common.errors import ConfigError, DeconstructError
from deconstruct.config import (
    ActivationsConfig,
    EvaluationConfig,
    LatentsConfig,
    ModelConfig,
    SaeConfig,
)
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.drift.stage import STAGE as DRIFT
from deconstruct.evaluation.stage import STAGE as EVALUATION
from deconstruct.latents.stage import STAGE as LATENTS
from deconstruct.model.resolve import ResolvedModel, resolve
from deconstruct.reference.stage import STAGE as REFERENCE
from deconstruct.sae.stage import STAGE as SAE
from deconstruct.sae.stage import train_all
from tasks.spread import Spread
from tasks.stage import Inputs, Ref

ORDERED: dict[str, tuple[Stage, type[BaseModel]]] = {
    stage.name: (stage, settings)
    for stage, settings in (
        (ACTIVATIONS, ActivationsConfig),
        (REFERENCE, EvaluationConfig),
        (SAE, SaeConfig),
        (LATENTS, LatentsConfig),
        (EVALUATION, EvaluationConfig),
        (DRIFT, EvaluationConfig),
    )
}
"""The stages that a GPU is worth a way for, and what their settings are."""


class NotThere(DeconstructError):
    """A model or texts that the process which is to read them does not have."""


class Named(BaseModel):
    """What is part of an order."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NamedModel(Named):
    """A language model. name: as the run's configuration has it, which artifacts repeat."""

    name: str
    wanted: ModelConfig
    digest: str

    @classmethod
    def of(cls, model: ResolvedModel, dtype: str) -> NamedModel:
        """dtype: what ``auto`` comes to here, where a key says so: it may be another there."""
        pinned = replace(model, dtype=dtype)
        return cls(name=model.name, wanted=pinned.wanted, digest=model.digest)

    def found(self, root: DataRoot) -> ResolvedModel:
        """The model on this machine. Raises `NotThere`."""
        try:
            found = resolve(root, self.wanted)
        except DeconstructError as error:
            raise NotThere(str(error)) from error
        if found.digest != self.digest:
            raise NotThere(f"model {self.wanted.name!r} is another there than where the run is")
        return replace(found, name=self.name)


class NamedStream(Named):
    """Activations that are computed while they are trained on."""

    config: ActivationsConfig
    site: str
    model: NamedModel
    corpus: Ref

    @classmethod
    def of(cls, stream: Stream) -> NamedStream:
        dtype = str(stream.key_fields["activations.dtype"])
        return cls(
            config=stream.config,
            site=stream.site,
            model=NamedModel.of(stream.model, dtype),
            corpus=Ref.of(stream.corpus),
        )

    def found(self, root: DataRoot) -> Stream:
        """Raises `NotThere`, or ``StorageError`` if the corpus is missing."""
        return Stream(self.config, self.site, self.model.found(root), self.corpus.open(root))


class NamedSources(Named):
    """Texts outside of the data root, where they lie; their reader checks their digests."""

    sources: tuple[ResolvedSource, ...]

    def found(self) -> tuple[ResolvedSource, ...]:
        """Raises `NotThere`."""
        for source in self.sources:
            for path in (*source.files, *([source.path] if source.path else [])):
                if not path.exists():
                    raise NotThere(f"there is no {str(path)!r}")
        return self.sources


class Order(Named):
    """Artifacts of one stage that are to be made together.

    version: of the stage; keys: of the artifacts: who makes them must come to the same. settings:
    as JSON, one for all artifacts, or, of several SAEs, one for each. inputs: without those that
    are none.
    """

    stage: str
    version: int
    keys: tuple[str, ...]
    settings: tuple[dict[str, Any], ...]
    inputs: dict[str, Ref | NamedModel | NamedStream | NamedSources]

    @classmethod
    def of(cls, recipes: Sequence[Recipe], config: Any, inputs: Inputs) -> Order | None:
        """inputs: those of a task. None: they say that it is made here, by a device or an engine
        that somebody has chosen, or by a dictionary that others trained, whose files are here."""
        first, named = recipes[0], dict[str, Ref | NamedModel | NamedStream | NamedSources]()
        dtype = first.config.get("dtype")
        for name, one in inputs.items():
            match one:
                case None | () | Spread(workers=1, address=None):
                    continue
                case "auto" if name == "device":
                    continue
                case Ref():
                    named[name] = one
                case ResolvedModel():
                    named[name] = NamedModel.of(one, dtype or one.dtype)
                case Stream():
                    named[name] = NamedStream.of(one)
                case tuple():
                    named[name] = NamedSources(sources=one)
                case _:
                    return None
        configs = config if isinstance(config, Sequence) else [config]
        return cls(
            stage=first.stage,
            version=first.version,
            keys=tuple(recipe.key for recipe in recipes),
            settings=tuple(one.model_dump(mode="json") for one in configs),
            inputs=named,
        )

    def make(self, root: DataRoot) -> list[Artifact]:
        """The artifacts, found or made in this process.

        Raises ``ConfigError`` before any work if this release would make others, `NotThere` if
        a model or texts are not here, ``StorageError`` if an artifact is not, and what the stage
        raises.
        """
        if self.stage not in ORDERED:
            raise ConfigError(f"this release makes no stage {self.stage!r} for others; update it")
        stage, kind = ORDERED[self.stage]
        try:
            settings = [kind.model_validate(one) for one in self.settings]
        except ValidationError as error:
            raise ConfigError(
                f"this release does not know these settings of stage {self.stage!r}; let both "
                f"machines have the same release ({error.errors()[0]['msg']})"
            ) from error
        inputs = {name: self._found(root, one) for name, one in self.inputs.items()}
        self._check(stage, settings, inputs)
        if stage is SAE:
            return train_all(root, settings, **inputs)  # type: ignore[arg-type]
        made = stage.make(root, settings[0], **inputs)
        return list(made.values()) if stage is ACTIVATIONS else [made]

    def _found(self, root: DataRoot, one: Ref | NamedModel | NamedStream | NamedSources) -> Any:
        match one:
            case Ref():
                return one.open(root)
            case NamedSources():
                return one.found()
            case _:
                return one.found(root)

    def _check(self, stage: Stage, settings: Sequence[BaseModel], inputs: Inputs) -> None:
        """Raise ``ConfigError`` if this release would make other artifacts."""
        found = [stage.recipe(one, **inputs) for one in settings]
        recipes: list[Recipe] = found[0] if stage is ACTIVATIONS else found
        made = f"this worker makes stage {stage.name!r}"
        there = "as it is where the run is; let both machines have the same release"
        version = recipes[0].version
        if version != self.version:
            raise ConfigError(f"{made} in version {version}, and asked is {self.version}, {there}")
        keys = tuple(recipe.key for recipe in recipes)
        if keys != self.keys:
            raise ConfigError(
                f"{made} as {keys[0][:12]}, and asked is {self.keys[0][:12]}, {there}"
            )
