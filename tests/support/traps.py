"""Records of Prefect's results that run code where they are loaded."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

from prefect.serializers import JSONSerializer

OWN = JSONSerializer().model_dump(mode="json")
"""The serialiser that our own records name."""


class Touch:
    """Pickled, it is a file that is made as soon as somebody loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickled(path: Path) -> str:
    return base64.encodebytes(pickle.dumps(Touch(path))).decode()


def record(result: Any, serializer: Any = OWN) -> str:
    metadata = {"serializer": serializer} if serializer is not None else {}
    return json.dumps({"metadata": metadata, "result": result})
