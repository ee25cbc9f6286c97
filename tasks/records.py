"""Prefect's records of results: which of them may be read.

Prefect loads a record with whatever serialiser the record itself names, `pickle` among them, and
its JSON makes objects of whatever class or function a result names. So a record of somebody else,
in a data root that was handed over, would decide what code runs. Only those are left for Prefect
to find that hold what our own tasks write: JSON, with no object in it but a `Ref`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem
from prefect.serializers import JSONSerializer

log = logging.getLogger("deconstruct.stages")

OBJECT = {"__class__", "data"}
"""The fields of an object in Prefect's JSON."""


def only_plain(context: TaskRunContext, key: str, kind: type) -> bool:
    """Whether Prefect may read what it has under ``key``, if anything: no objects but ``kind``.

    A record that it may not is removed. Of records that are no files here none is read.
    """
    store = context.result_store.result_storage
    if not isinstance(store, LocalFileSystem):
        return False
    place = Path(store.basepath or "", key)
    if not (place.exists() or place.is_symlink()):
        return True
    try:
        if place.is_symlink() or not place.is_file():
            raise ValueError("no file")
        _check(json.loads(place.read_bytes()), kind)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("Prefect's record %s is not one of ours (%s); it is removed", place, error)
        try:
            place.unlink()
        except OSError:
            return False
    return True


def _check(record: Any, kind: type) -> None:
    """Raise ``ValueError`` unless a record is JSON with no object but ``kind``."""
    named = record["metadata"]["serializer"]
    if named != JSONSerializer().model_dump(mode="json"):
        raise ValueError("it names another serialiser than JSON")
    if not isinstance(record["result"], str):
        raise ValueError("its result is no text")
    name = f"{kind.__module__}.{kind.__qualname__}"

    def plain(fields: Mapping[str, Any]) -> Any:
        special = any(field.startswith("__") for field in fields)
        if special and (fields.keys() != OBJECT or fields["__class__"] != name):
            raise ValueError("it names a class that is not ours")
        return fields

    json.loads(record["result"], object_hook=plain)
