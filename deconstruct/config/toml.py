"""Reading configurations: TOML files and overrides; faults as sentences."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from deconstruct.common.errors import ConfigError
from deconstruct.config.run import RunConfig

Run = TypeVar("Run", bound=RunConfig)


def load(path: Path | str | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file (none: all defaults), then apply overrides such as ``"sae.k=64"``.

    See `load_as`.
    """
    return load_as(RunConfig, path, overrides)


def load_as(model: type[Run], path: Path | str | None = None, overrides: Iterable[str] = ()) -> Run:
    """The same for a configuration that has more stages than `RunConfig`.

    An override's value is read as TOML, and as plain text where it is none; where a list is due,
    one value, or several with commas between them, are that list. Raises ``ConfigError`` with one
    sentence a fault.
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
    for override in overrides:
        _apply(values, override, model)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(fault, model) for fault in error.errors())) from error


def _without_none(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """A file's values, of which "none" is no value where a field may have none: TOML has no null.

    A column of that name is still to be had: ``--set 'corpus.label_column="none"'``.
    """
    found = dict(values)
    for name, value in values.items():
        annotation = getattr(model.model_fields.get(name), "annotation", None)
        if isinstance(value, dict) and isinstance(annotation, type):
            if issubclass(annotation, BaseModel):
                found[name] = _without_none(value, annotation)
        elif value == "none" and type(None) in get_args(annotation):
            found[name] = None
    return found


def _apply(values: dict[str, Any], override: str, model: type[RunConfig]) -> None:
    field, sign, text = override.partition("=")
    if not sign or not field:
        raise ConfigError(f"override {override!r} is not of the form stage.field=value")
    *parents, last = field.strip().split(".")
    value = _value(text)
    if not isinstance(value, list) and _is_list(model, [*parents, last]):
        listed = text.strip()
        if listed.startswith("[") and listed.endswith("]"):
            listed = listed[1:-1]
        value = [_value(part.strip()) for part in listed.split(",")]
    inner = values
    for parent in parents:
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {parent!r} has no fields")
    inner[last] = value


def _value(text: str) -> Any:
    """A value as TOML has it; plain text where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text in ("none", "null") else text


def _is_list(model: type[BaseModel], path: list[str]) -> bool:
    """Whether the field at ``path`` is there and holds several values."""
    annotation: Any = model
    for name in path:
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return False
        if name not in annotation.model_fields:
            return False
        annotation = annotation.model_fields[name].annotation
    return get_origin(annotation) is tuple


def _sentence(fault: Any, model: type[RunConfig]) -> str:
    """One of pydantic's faults as a sentence that names field, value and remedy."""
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        value = fault["input"]
        return f"{where or 'config'}: {message}" + (
            "" if isinstance(value, dict | BaseModel) else f" (found {value!r})"
        )
    *parents, last = fault["loc"]
    known = _fields(parents, model)
    by_lower = {name.lower(): name for name in known}  # K is no letter like k to difflib
    close = difflib.get_close_matches(str(last).lower(), by_lower, n=1)
    hint = f"did you mean {by_lower[close[0]]!r}? " if close else ""
    return f"{where}: no such field; {hint}known here: {', '.join(known)}"


def _fields(parents: list[Any], model: Any) -> list[str]:
    for parent in parents:
        model = model.model_fields[parent].annotation
    return list(model.model_fields)
