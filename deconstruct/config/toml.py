"""Reading configurations: TOML files and overrides; faults as sentences."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from deconstruct.common.errors import ConfigError
from deconstruct.config.run import RunConfig

Run = TypeVar("Run", bound=RunConfig)

SECRET = ("explanation", "endpoint")
"""A field whose value may have a key in it, and is not repeated."""


def load(path: Path | str | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file (none: all defaults), then apply overrides such as ``"sae.k=64"``.

    See `load_as`.
    """
    return load_as(RunConfig, path, overrides)


def load_as(model: type[Run], path: Path | str | None = None, overrides: Iterable[str] = ()) -> Run:
    """The same for a configuration that has more stages than `RunConfig`.

    An override's value is read as TOML, and as plain text where it is none; where a list is due,
    one value, or several with commas between them, are that list. Of a list of tables, one is named
    by its name, as in ``analysis.reviews.limit=100``; it is added if it is not there. Raises
    ``ConfigError`` with one sentence a fault.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ConfigError(
                f"config {str(path)!r} can't be read: {error.strerror}; name a TOML file, "
                "for example one that 'deconstruct init' writes"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"config {str(path)!r} is not TOML: {error}") from error
        values = _without_none(values, model)
    return _overridden(values, overrides, model)


def changed(config: RunConfig, tables: Mapping[str, Any], overrides: Iterable[str]) -> RunConfig:
    """A configuration with other tables in the place of some, then overrides; see `load_as`."""
    return _overridden({**config.model_dump(mode="json"), **tables}, overrides, RunConfig)


def _overridden(values: dict[str, Any], overrides: Iterable[str], model: type[Run]) -> Run:
    for override in overrides:
        _apply(values, override, model)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = (_sentence(fault, values, model) for fault in error.errors())
        raise ConfigError("; ".join(told)) from error


def _without_none(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """A file's values, of which "none" is no value where a field may have none: TOML has no null.

    A column of that name is still to be had: ``--set 'corpus.label_column="none"'``.
    """
    found = dict(values)
    for name, value in values.items():
        annotation = getattr(model.model_fields.get(name), "annotation", None)
        table = _table(annotation)
        if isinstance(value, dict) and table is not None:
            found[name] = _without_none(value, table)
        elif isinstance(value, list) and table is not None:
            found[name] = [
                _without_none(one, table) if isinstance(one, dict) else one for one in value
            ]
        elif value == "none" and type(None) in get_args(annotation):
            found[name] = None
    return found


def _table(annotation: Any) -> type[BaseModel] | None:
    """The settings that a field holds, once or as a list; None: it holds a value."""
    of = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    return of if isinstance(of, type) and issubclass(of, BaseModel) else None


def _apply(values: dict[str, Any], override: str, model: type[RunConfig]) -> None:
    field, sign, text = override.partition("=")
    if not sign or not field:
        raise ConfigError(f"override {override!r} is not of the form stage.field=value")
    *parents, last = field.strip().split(".")
    value = _value(text)
    if value is None and "none" in get_args(_annotation(model, [*parents, last])):
        value = "none"  # a choice that is called so, as of sae.frozen
    if not isinstance(value, list) and _is_list(model, [*parents, last]):
        several = text.strip()
        if several.startswith("[") and several.endswith("]"):
            several = several[1:-1]
        value = [_value(part.strip()) for part in several.split(",")]
    inner: Any = values
    for place, parent in enumerate(parents, 1):
        if isinstance(inner, list):
            inner = _named(inner, parent)
            continue
        holds = _annotation(model, parents[:place])
        listed = get_origin(holds) is tuple and _table(holds) is not None
        inner = inner.setdefault(parent, [] if listed else {})
        if not isinstance(inner, list if listed else dict):
            raise ConfigError(f"override {override!r}: {parent!r} has no fields")
    if isinstance(inner, list):
        raise ConfigError(
            f"override {override!r}: {last!r} is a table; name a field of it, as in "
            f"{'.'.join([*parents, last])}.limit=100"
        )
    inner[last] = value


def _named(tables: list[Any], name: str) -> Any:
    """The table of that name; one that has nothing else yet if there is none."""
    for table in tables:
        if isinstance(table, dict) and table.get("name") == name:
            return table
    tables.append({"name": name})
    return tables[-1]


def _value(text: str) -> Any:
    """A value as TOML has it; plain text where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text in ("none", "null") else text


def _is_list(model: type[BaseModel], path: list[str]) -> bool:
    """Whether the field at ``path`` is there and holds several values."""
    return get_origin(_annotation(model, path)) is tuple


def _annotation(model: type[BaseModel], path: list[str]) -> Any:
    """What the field at ``path`` holds; None if there is none."""
    annotation: Any = model
    for name in path:
        table = _table(annotation)
        if table is None:
            return None
        if get_origin(annotation) is tuple:  # the name is that of one of its tables
            annotation = table
        elif name in table.model_fields:
            annotation = table.model_fields[name].annotation
        else:
            return None
    return annotation


def _sentence(fault: Any, values: Any, model: type[RunConfig]) -> str:
    """One of pydantic's faults as a sentence that names field, value and remedy."""
    where = _where(fault["loc"], values)
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        value = fault["input"]
        unsaid = isinstance(value, dict | BaseModel) or fault["loc"] == SECRET
        return f"{where or 'config'}: {message}" + ("" if unsaid else f" (found {value!r})")
    *parents, last = fault["loc"]
    known = _fields(parents, model)
    by_lower = {name.lower(): name for name in known}  # K is no letter like k to difflib
    close = difflib.get_close_matches(str(last).lower(), by_lower, n=1)
    hint = f"did you mean {by_lower[close[0]]!r}? " if close else ""
    return f"{where}: no such field; {hint}known here: {', '.join(known)}"


def _where(loc: Iterable[Any], values: Any) -> str:
    """A field as ``--set`` names it: one of several tables by its name, if it has one."""
    parts = []
    for part in loc:
        try:
            values = values[part]
        except (LookupError, TypeError):
            values = None
        named = isinstance(part, int) and isinstance(values, dict) and values.get("name")
        parts.append(str(named or part))
    return ".".join(parts)


def _fields(parents: list[Any], model: Any) -> list[str]:
    for parent in parents:
        if not isinstance(parent, int):
            model = _table(model.model_fields[parent].annotation)
    return list(model.model_fields)
