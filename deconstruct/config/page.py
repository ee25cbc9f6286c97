"""The configuration as a table, made from the models themselves: what ``docs/config.md`` holds."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from deconstruct.config.analysis import AnalysisConfig
from deconstruct.config.base import Settings
from deconstruct.config.run import RunConfig

HEAD = """\
# Configuration

A configuration is a TOML file with one table per stage. `deconstruct init SOURCE` writes one for
your own texts, and `deconstruct run FILE --set stage.field=value` changes single fields. A field
that is left out has the default below; an unknown field is an error. A field that may be none takes
`"none"`, as in `label_column = "none"`. Every field is part of its stage's key: if it changes, that
stage and the stages after it run again, and no others. This page is made by `deconstruct config`.
"""


def page() -> str:
    """Markdown: one section per stage, one row per field, with type, default and meaning."""
    parts = [HEAD]
    loose = []
    for name, field in RunConfig.model_fields.items():
        stage = field.annotation
        if isinstance(stage, type) and issubclass(stage, Settings):
            title = (stage.__doc__ or "").strip().splitlines()[0]
            parts.append(f"\n## `[{name}]`\n\n{title}\n\n{_table(stage.model_fields.items())}")
        else:
            loose.append((name, field))
        if name == "analysis":
            parts.append(_analysis())
    return "".join([parts[0], "\n", _table(loose), *parts[1:]])


def _analysis() -> str:
    """The section of the one table that there may be several of."""
    own = [(name, AnalysisConfig.model_fields[name]) for name in ("name", "source")]
    told = (
        f"{AnalysisConfig.__doc__} There may be several such tables. Beside these fields they have "
        "all others of `[corpus]`, with the same defaults."
    )
    return f"\n## `[[analysis]]`\n\n{told}\n\n{_table(own)}"


def _table(fields: Any) -> str:
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields:
        meaning = (field.description or "").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(field: Any) -> str:
    return "must be given" if field.is_required() else f"`{default_of(field)}`"


def default_of(field: Any) -> str:
    """A field's default as TOML writes it; none where it has no value."""
    value = field.default if field.default is not PydanticUndefined else field.get_default()
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:,}".replace(",", "_") if isinstance(value, int) else f"{value:.6g}"


def _type(annotation: Any) -> str:
    """The annotation in words; constraints are left to the error messages."""
    return " or ".join(_types(annotation))


def _types(annotation: Any) -> Iterator[str]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for part in inner:
            yield from _types(part)
    elif origin is Literal:
        yield from (f"`{_toml(value)}`" for value in inner)
    elif origin is tuple:
        yield f"list of {_type(inner[0])}"
    elif annotation is type(None):
        yield "none"
    else:
        yield {
            "str": "text",
            "int": "whole number",
            "float": "number",
            "bool": "true or false",
            "AnalysisConfig": "tables",
        }.get(getattr(annotation, "__name__", ""), str(annotation))
