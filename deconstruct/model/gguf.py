"""Reads a GGUF file (version 3): its settings, and its tensors dequantised.

`gguf.GGUFReader` does this too, but makes an array of each of a vocabulary's strings, which takes
a quarter of a minute for 262,144 tokens. The format: https://github.com/ggml-org/ggml, docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconstruct.common.errors import DataError

_MAGIC = 0x46554747  # "GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


class GgufFile:
    """A mapped GGUF file.

    settings: the scalars of its header, by key (arrays, such as the vocabulary, are left out).
    """

    def __init__(self, path: Path) -> None:
        """Read the header. Raises ``DataError`` if the file is no GGUF of version 3."""
        with path.open("rb") as handle:
            self._map = mmap(handle.fileno(), 0, access=ACCESS_READ)
        self._at = 0
        magic, version, tensors, settings = (self._scalar(kind) for kind in "IIQQ")
        if magic != _MAGIC or version != 3:
            raise DataError(f"{path} is no GGUF file of version 3")
        found = ((self._string(), self._value(self._scalar("I"))) for _ in range(settings))
        self.settings: dict[str, Any] = {key: value for key, value in found if value is not None}
        self._tensors = [self._tensor() for _ in range(tensors)]
        alignment = self.settings.get("general.alignment", 32)
        self._data = -(-self._at // alignment) * alignment

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, float32, shaped as `torch` has them (rows first)."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize, quant_shape_to_byte_shape

        for name, shape, kind, offset in self._tensors:
            quantised = GGMLQuantizationType(kind)
            stored = quant_shape_to_byte_shape(shape, quantised)
            count = int(np.prod(stored))
            data = np.frombuffer(self._map, np.uint8, count, self._data + offset).reshape(stored)
            if quantised is GGMLQuantizationType.F32:
                data = data.view(np.float32)
            # Copied: what is dequantised may be a view of the read-only file.
            yield name, torch.from_numpy(np.array(dequantize(data, quantised), np.float32))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        # The fastest dimension comes first in the file.
        shape = tuple(self._scalar("Q") for _ in range(self._scalar("I")))[::-1]
        return name, shape, self._scalar("I"), self._scalar("Q")

    def _scalar(self, kind: str) -> Any:
        (value,) = struct.unpack_from("<" + kind, self._map, self._at)
        self._at += struct.calcsize("<" + kind)
        return value

    def _string(self) -> str:
        length = self._scalar("Q")
        self._at += length
        return self._map[self._at - length : self._at].decode()

    def _value(self, kind: int) -> Any:
        """A header's value; None for an array, which is stepped over."""
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        of, count = self._scalar("I"), self._scalar("Q")
        if of == _STRING:
            for _ in range(count):
                self._at += 8 + struct.unpack_from("<Q", self._map, self._at)[0]
        else:
            self._at += count * struct.calcsize("<" + _SCALARS[of])
        return None
