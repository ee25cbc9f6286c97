"""Reading configurations: TOML files and overrides; faults as sentences."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

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

    An override's value is read as TOML, and as plain text where it is none. Raises ``ConfigError``
    with one sentence a fault.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ConfigError(f"config {str(path)!r} can't be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"config {str(path)!r} is not TOML: {error}") from error
    for override in overrides:
        _apply(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(fault, model) for fault in error.errors())) from error


def _apply(values: dict[str, Any], override: str) -> None:
    field, sign, text = override.partition("=")
    if not sign or not field:
        raise ConfigError(f"override {override!r} is not of the form stage.field=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = None if text in ("none", "null") else text
    *parents, last = field.strip().split(".")
    inner = values
    for parent in parents:
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {parent!r} has no fields")
    inner[last] = value


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
    close = difflib.get_close_matches(str(last), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{where}: no such field; {hint}known here: {', '.join(known)}"


def _fields(parents: list[Any], model: Any) -> list[str]:
    for parent in parents:
        model = model.model_fields[parent].annotation
    return list(model.model_fields)
