"""How a form shows settings: the JSON schema that pydantic makes of them, made readable.

A form (Prefect's, for a deployment's parameters) has a group for each table of the configuration
and a field for each of its fields, in their order and under the names that TOML and ``--set`` have
for them. One that may be left out is left empty: pydantic's "a number or null" is drawn as two
tabs, of which the one that is open says that the field is of type "None".
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

NOTES = ("in_key", "only_of")
"""What fields say of themselves to this package alone."""
_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "array": "list",
    "null": "none",
}


def readable(schema: dict[str, Any]) -> None:
    """Change the JSON schema of a model in place.

    What stands for null is no value where that is the default, and has a name where it is not.
    """
    for position, (name, field) in enumerate(schema.get("properties", {}).items()):
        field |= {"title": name, "position": position}
        for note in NOTES:
            field.pop(note, None)
        if "anyOf" in field:
            _choose(field)
        if isinstance(field.get("default"), dict):
            field["default"] = without_nulls(field["default"])


def _choose(field: dict[str, Any]) -> None:
    """One kind of value where null is the default; else kinds with names, null the last."""
    kinds = [kind for kind in field["anyOf"] if kind.get("type") != "null"]
    if field.get("default") is None and len(kinds) == 1:
        del field["anyOf"]
        field.pop("default", None)
        field |= {key: value for key, value in kinds[0].items() if key not in field}
        if "enum" in field:  # a choice may be left out, and be sent on as null
            field["enum"] = [*field["enum"], None]
        return
    for kind in field["anyOf"]:
        if "type" in kind:
            kind["title"] = _WORDS.get(kind["type"], kind["type"])


def default_of(settings: BaseModel) -> dict[str, Any]:
    """Settings as a form begins with them: as JSON types, fields that are none left out."""
    return without_nulls(settings.model_dump(mode="json"))


def without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """``values``, and those inside them, without what is None."""
    return {name: _without(value) for name, value in values.items() if value is not None}


def _without(value: Any) -> Any:
    if isinstance(value, list):
        return [_without(one) for one in value]
    return without_nulls(value) if isinstance(value, dict) else value
