"""One shard of activations as a Parquet file: writing it, reading it back, its moments.

Two storages. ``float32``: a list column that DuckDB and pandas read; BYTE_STREAM_SPLIT and ZSTD
make values that were computed in bfloat16 smaller than raw 16-bit ones (0.70 of their bytes on
residual streams). ``bfloat16``: raw 16-bit blobs, for readers that must outrun a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from deconstruct.errors import StorageError

ROW_GROUP_ROWS = 16_384


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
    """A shard opened for reading. Raises ``StorageError`` that names the file if it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._damaged(error) from error
        kind = self._file.schema_arrow.field("activation").type
        self.raw = pa.types.is_fixed_size_binary(kind)
        self.d_in: int = kind.byte_width // 2 if self.raw else kind.list_size
        metadata = self._file.metadata
        self.group_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def activation(self, group: int) -> Tensor:
        """Activations of one row group: float32 [rows, d_in]."""
        return self._decode(self._read(group, ["activation"]))

    def block(self, group: int) -> tuple[Rows, Tensor]:
        """One row group whole."""
        table = self._read(group, [*SOURCE_COLUMNS, "activation"])
        return Rows(*(table[name].to_numpy() for name in SOURCE_COLUMNS)), self._decode(table)

    def _read(self, group: int, columns: list[str]) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._damaged(error) from error

    def _decode(self, table: pa.Table) -> Tensor:
        column = table["activation"].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
        if self.raw:
            bits = np.frombuffer(column.buffers()[1], np.int16)
            bits = bits[column.offset * self.d_in :][: len(column) * self.d_in]
            return torch.from_numpy(bits.copy()).view(torch.bfloat16).float().view(-1, self.d_in)
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


def moments(paths: Iterable[Path]) -> Moments:
    """Moments over all rows of some shards, merged row group by row group in float64.

    Chan, Golub and LeVeque's pairwise update: no cancellation where the mean is large.
    """
    rows, mean, squares = 0, np.zeros(1), np.zeros(1)
    for block in _groups(paths):
        own = block.double()
        count, own_mean = len(own), own.mean(0)
        own_squares = (own - own_mean).square_().sum(0).numpy()
        shift = own_mean.numpy() - mean
        total = rows + count
        mean = mean + shift * (count / total)
        squares = squares + own_squares + shift**2 * (rows * count / total)
        rows = total
    return Moments(rows, mean, squares / max(rows, 1))


def _groups(paths: Iterable[Path]) -> Iterator[Tensor]:
    for path in paths:
        shard = ShardFile(path)
        yield from (shard.activation(group) for group in range(len(shard.group_rows)))
