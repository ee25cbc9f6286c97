"""What a run would do: its stages are looked up, and none is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from deconstruct.artifacts import Artifact, DataRoot, Manifest, Recipe
from deconstruct.config import TRAINING
from tasks.stage import Call, Stages

NEAREST = "the nearest artifact has"


@dataclass(frozen=True)
class Plan:
    """What is to become of one stage.

    there: its artifact comes from cache. Where it does not, `explained` adds why. nearest: of those
    that are there, the artifact of the stage that differs in the fewest ways, and ``differences``
    says in which; None: there is none. analysis: of which corpus it is.
    """

    recipe: Recipe
    there: bool
    nearest: Artifact | None = None
    differences: tuple[str, ...] = ()
    analysis: str = TRAINING


@dataclass
class Planning(Stages):
    """Stages that are planned instead of run.

    In the place of an artifact that is not there stands one without files, whose key is the one
    that it will have: so whatever is made of it is planned too.
    """

    plans: list[Plan] = field(default_factory=list)

    def begin(self, what: str) -> None:
        pass

    def side_by_side(self, *calls: Call) -> list[Artifact]:
        return [self.run_all(call)[0] for call in calls]

    def run_all(self, call: Call) -> list[Artifact]:
        return [self._planned(recipe) for recipe in call.recipes]

    def keep(self, artifact: Artifact, whose: str) -> Artifact:
        self.plans.append(Plan(artifact.manifest.recipe, there=True))
        return artifact

    def _planned(self, recipe: Recipe) -> Artifact:
        found = self.root.find(recipe)
        self.plans.append(Plan(recipe, there=found is not None))
        return found or _to_come(self.root, recipe)


def explained(root: DataRoot, plans: Iterable[Plan]) -> list[Plan]:
    """The plans, with why a stage is made anew. Reads the manifests of all artifacts like it."""
    told: list[Plan] = []
    coming: set[str] = set()
    for plan in plans:
        if plan.there:
            told.append(plan)
            continue
        near, ways = nearest(root, plan.recipe, coming)
        told.append(replace(plan, nearest=near, differences=ways))
        coming.add(plan.recipe.stage)
    return told


def nearest(
    root: DataRoot, recipe: Recipe, coming: Iterable[str] = ()
) -> tuple[Artifact | None, tuple[str, ...]]:
    """The artifact that is most like the one of ``recipe``, and in what that will differ.

    coming: stages that are made anew before it.
    """
    others = list(root.artifacts(recipe.stage))
    if not others:
        return None, ("there is none yet",)
    differing = [(differences(recipe, one.manifest.recipe, set(coming)), one) for one in others]
    ways, found = min(differing, key=lambda d: (len(d[0]), -d[1].manifest.finished.timestamp()))
    return found, ways or ("its files are damaged",)


def differences(recipe: Recipe, other: Recipe, coming: set[str]) -> tuple[str, ...]:
    """In which fields and inputs a recipe is not ``other``, as phrases for people."""
    ways = []
    if recipe.version != other.version:
        ways.append(f"the stage has version {recipe.version} ({NEAREST} {other.version})")
    for name in _apart(recipe.config, other.config):
        there, now = (one.get(name, "none") for one in (other.config, recipe.config))
        ways.append(f"{recipe.stage}.{name} is {now} ({NEAREST} {there})")
    for name in _apart(recipe.inputs, other.inputs):
        ways.append(f"input {name} is made anew" if name in coming else f"input {name} is another")
    return tuple(ways)


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys([*one, *other])
    return [name for name in names if one.get(name) != other.get(name)]


def _to_come(root: DataRoot, recipe: Recipe) -> Artifact:
    now = datetime.now(UTC)
    manifest = Manifest(
        stage=recipe.stage,
        key=recipe.key,
        version=recipe.version,
        config=recipe.config,
        inputs=recipe.inputs,
        files={},
        facts={name: recipe.config[name] for name in ("site",) if name in recipe.config},
        software={},
        started=now,
        finished=now,
    )
    return Artifact(root.folder(recipe.stage, recipe.key), manifest)
