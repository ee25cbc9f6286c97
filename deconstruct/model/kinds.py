"""Which kinds of model `transformers` has, without importing it: that takes seconds.

Its tables of names lie in source files as plain lists; they are read, and nothing is run.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from deconstruct.common.errors import ConfigError
from deconstruct.model.resolve import TESTED, ResolvedModel

_KINDS = "CONFIG_MAPPING_NAMES"
_CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
_FILES = {
    _KINDS: ("auto_mappings.py", "configuration_auto.py"),
    _CAUSAL: ("modeling_auto.py",),
}


def check_kind(model: ResolvedModel) -> None:
    """Raise ``ConfigError`` for a kind (``model_type``) that is no causal language model of
    `transformers`, by its tables alone; one that they don't settle passes."""
    if model.family in TESTED:
        return
    kind, known, causal = str(model.settings.get("model_type", "")), named(_KINDS), named(_CAUSAL)
    if kind in causal or not known or not causal:
        return
    if kind in known:
        why = f"a {kind!r} model is no causal language model that transformers {_version()} has"
    elif "auto_map" in model.settings:
        why = f"a {kind!r} model runs code of its own (auto_map in config.json), and we run none"
    else:
        why = f"config.json's model_type {kind!r} is none that transformers {_version()} knows"
    raise ConfigError(
        f"model.name = {model.name!r}: {why}; choose a model of a family that README names"
    )


@cache
def named(table: str) -> frozenset[str]:
    """The names in a table of `transformers`; none where its source says them in another way."""
    spec = find_spec("transformers")
    folder = Path(spec.origin).parent / "models" / "auto" if spec and spec.origin else Path()
    found: set[str] = set()
    for file in _FILES[table]:
        path = folder / file
        if not path.is_file():
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            if table in _changed(node):
                found |= _keys(node)
    return frozenset(found)


def _changed(statement: ast.stmt) -> list[str]:
    """The names that a statement binds, or adds to by ``name.update(...)``."""
    places: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        places = statement.targets
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        method = statement.value.func
        places = [method.value] if isinstance(method, ast.Attribute) else []
    return [place.id for place in places if isinstance(place, ast.Name)]


def _keys(statement: ast.stmt) -> set[str]:
    """First members of the pairs, and keys of the dictionaries, that a statement is made of."""
    keys: set[str] = set()
    for node in ast.walk(statement):
        first = [*node.elts[:1]] if isinstance(node, ast.Tuple) else []
        if isinstance(node, ast.Dict):
            first = [key for key in node.keys if key is not None]
        keys |= {
            one.value
            for one in first
            if isinstance(one, ast.Constant) and isinstance(one.value, str)
        }
    return keys


def _version() -> str:
    return metadata.version("transformers")
