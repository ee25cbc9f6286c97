"""One shard of activations as a Parquet file: writing it, reading it back, its moments.

Two storages. ``float32``: a list column that DuckDB and pandas read; BYTE_STREAM_SPLIT and ZSTD
make values that were computed in bfloat16 smaller than raw 16-bit ones (0.70 of their bytes on
residual streams). ``bfloat16``: raw 16-bit blobs, for readers that must outrun a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from deconstruct.common.errors import StorageError

ROW_GROUP_ROWS = 16_384
_MOMENTS_ROWS = 512  # so few that they stay in a core's cache


@dataclass(frozen=True)
class Rows:
    """Where rows come from; arrays [rows]: uint64 global token index, uint32 the rest."""

    token_index: NDArray[np.uint64]
    doc_id: NDArray[np.uint32]
    position: NDArray[np.uint32]
    token_id: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.token_index)


SOURCE_COLUMNS = tuple(field.name for field in fields(Rows))


def write(path: Path, rows: Rows, activation: Tensor, storage: str) -> None:
    """Write a shard. activation: [rows, d_in], bfloat16 or float32, on the CPU."""
    d_in = activation.shape[1]
    if storage == "bfloat16":
        blob = activation.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
        buffers = [None, pa.py_buffer(blob)]
        column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * d_in), len(rows), buffers)
        encoding = {"activation": "PLAIN"}
        compression = dict.fromkeys(SOURCE_COLUMNS, "zstd") | {"activation": "none"}
    else:
        flat = pa.array(activation.float().contiguous().view(-1).numpy())
        column = pa.FixedSizeListArray.from_arrays(flat, d_in)
        encoding = {"activation.list.element": "BYTE_STREAM_SPLIT"}
        compression = dict.fromkeys((*SOURCE_COLUMNS, "activation.list.element"), "zstd")
    arrays = [pa.array(getattr(rows, name)) for name in SOURCE_COLUMNS]
    table = pa.table([*arrays, column], names=[*SOURCE_COLUMNS, "activation"])
    pq.write_table(
        table,
        path,
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=False,
        column_encoding=encoding | dict.fromkeys(SOURCE_COLUMNS, "DELTA_BINARY_PACKED"),
        compression=compression,
        write_page_checksum=True,
        write_statistics=list(SOURCE_COLUMNS),
    )


class ShardFile:
    """A shard to read from; the file is open only while it is read, as a store has thousands.

    Raises ``StorageError`` that names the file if it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            kind = file.schema_arrow.field("activation").type
            metadata = file.metadata
        self.raw = pa.types.is_fixed_size_binary(kind)
        self.d_in: int = kind.byte_width // 2 if self.raw else kind.list_size
        self.group_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def activations(self) -> Iterator[Tensor]:
        """Activations of one row group after another."""
        return (self.activation(group) for group in range(len(self.group_rows)))

    def activation(self, group: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Activations of one row group: [rows, d_in]."""
        return self._decode(self._read(group, ["activation"])).to(dtype)

    def column(self, group: int, name: str) -> NDArray[Any]:
        """One of `SOURCE_COLUMNS` of one row group: [rows]."""
        values: NDArray[Any] = self._read(group, [name])[name].to_numpy()
        return values

    def block(self, group: int) -> tuple[Rows, Tensor]:
        """One row group whole."""
        table = self._read(group, [*SOURCE_COLUMNS, "activation"])
        return Rows(*(table[name].to_numpy() for name in SOURCE_COLUMNS)), self._decode(
            table
        ).float()

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                yield file
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise self._damaged(error) from error

    def _read(self, group: int, columns: list[str]) -> pa.Table:
        with self._open() as file:
            return file.read_row_group(group, columns=columns, use_threads=False)

    def _decode(self, table: pa.Table) -> Tensor:
        """In the precision that they are stored in."""
        column = table["activation"].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
        if self.raw:
            bits = np.frombuffer(column.buffers()[1], np.int16)
            bits = bits[column.offset * self.d_in :][: len(column) * self.d_in]
            return torch.from_numpy(bits.copy()).view(torch.bfloat16).view(-1, self.d_in)
        values = column.flatten().to_numpy(zero_copy_only=True)
        return torch.from_numpy(values.reshape(-1, self.d_in).copy())

    def _damaged(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self.path} can't be read ({str(error).splitlines()[0]}); delete it and run the "
            "pipeline again: it alone is made anew"
        )


@dataclass(frozen=True)
class Moments:
    """First two moments of activations; float64 [d_in]. ``variance`` is about ``mean``."""

    rows: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Write them as safetensors."""
        save_file({"mean": self.mean, "variance": self.variance}, path)

    @classmethod
    def load(cls, path: Path, rows: int) -> Moments:
        """Read what `save` wrote."""
        tensors = load_file(path)
        return cls(rows, tensors["mean"], tensors["variance"])

    @classmethod
    def merge(cls, parts: Iterable[Moments]) -> Moments:
        """Moments of all the parts' rows, merged one after another.

        Chan, Golub and LeVeque's update: no cancellation where the mean is large.
        """
        rows, mean, squares = 0, np.zeros(1), np.zeros(1)
        for part in parts:
            shift = part.mean - mean
            total = rows + part.rows
            mean = mean + shift * (part.rows / total)
            squares = squares + part.variance * part.rows
            squares += shift**2 * (rows * part.rows / total)
            rows = total
        return cls(rows, mean, squares / max(rows, 1))


def moments(blocks: Iterable[Tensor]) -> Moments:
    """Moments over the rows of all ``blocks`` (float32 [rows, d_in]), taken in float64."""
    pieces = (piece.numpy() for block in blocks for piece in torch.split(block, _MOMENTS_ROWS))
    return Moments.merge(
        Moments(len(piece), mean, np.square(piece - mean).mean(0))
        for piece, mean in ((piece, piece.mean(0, np.float64)) for piece in pieces)
    )


def stored(activation: Tensor, storage: str) -> Iterator[Tensor]:
    """What a reader of a shard of ``activation`` gets of one row group after another, float32."""
    for group in torch.split(activation, ROW_GROUP_ROWS):
        yield (group.to(torch.bfloat16) if storage == "bfloat16" else group).float()
