"""What was computed of the corpus that a grown one begins with.

A grown corpus names the one it grew from among its inputs. So the recipe of any artifact over the
grown one, with that key in the place of its own, is the recipe of the same thing over the earlier
one: if its artifact is there, what is in it need not be computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from deconstruct.artifacts.manifest import Artifact, Recipe
from deconstruct.artifacts.root import DataRoot
from deconstruct.common.errors import StorageError


def recipe_of(artifact: Artifact) -> Recipe:
    """The recipe that an artifact was made by."""
    made = artifact.manifest
    return Recipe(made.stage, made.version, made.config, made.inputs)


def bases(root: DataRoot, corpus: Artifact) -> Iterator[Artifact]:
    """The corpora that ``corpus`` grew from, the last one first, as far back as they are there."""
    while "base" in corpus.manifest.inputs:
        try:
            corpus = root.open("corpus", corpus.manifest.inputs["base"])
        except StorageError:  # deleted since: what grew from it has all its documents
            return
        yield corpus


def earlier(
    root: DataRoot, recipe: Recipe, corpus: Artifact, *upstream: Artifact
) -> tuple[Artifact, Artifact] | None:
    """What ``recipe`` gave over the longest corpus that ``corpus`` grew from, and that corpus.

    upstream: inputs of the recipe that depend on the corpus as well, each before those that
    depend on it. None if nothing is there.
    """
    for base in bases(root, corpus):
        keys = {corpus.key: base.key}
        for artifact in upstream:
            keys[artifact.key] = _with_keys(recipe_of(artifact), keys).key
        found = root.find(_with_keys(recipe, keys))
        if found is not None:
            return found, base
    return None


def _with_keys(recipe: Recipe, keys: Mapping[str, str]) -> Recipe:
    return replace(recipe, inputs={name: keys.get(key, key) for name, key in recipe.inputs.items()})
