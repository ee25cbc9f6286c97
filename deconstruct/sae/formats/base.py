"""What a reader of somebody else's dictionaries is, and what all readers share.

A reader gives a `SparseAutoencoder` whose ``encode`` and ``decode`` compute what the peer's own do:
centring (``x - b_dec``) and constant scales are folded into the weights, in float64 and rounded
once; activations stay in the peer's units, so that decoder rows need have no common norm.
"""

from __future__ import annotations

import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deconstruct.common.errors import ConfigError
from deconstruct.common.site import Site
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.autoencoder import SparseAutoencoder

SMALL = (
    "cfg.json",
    "config.json",
    "hyperparams.json",
    "config.yaml",
    "activation_scaler.json",
)
"""Files that say what a folder holds, and are read before its weights are asked for."""


@dataclass(frozen=True)
class Asked:
    """What a run asks of a dictionary: to read ``site`` and, of a transcoder, write ``output``."""

    site: Site
    output: Site | None = None


@dataclass(frozen=True)
class Told:
    """What a dictionary's files, or the names above them, say that it is for; None: nothing.

    model: its name. reads, writes: names of hooks, as they are told. layer: where no hook is told.
    """

    model: str | None = None
    reads: str | None = None
    writes: str | None = None
    layer: int | None = None


@dataclass(frozen=True)
class Dictionary:
    """One that was read."""

    sae: SparseAutoencoder
    told: Told = Told()


@dataclass
class Source:
    """The files that a dictionary may be made of.

    said: what the user wrote, for errors and for what names of folders tell. folder: where the
    files are, by names relative to it. elsewhere: fetches a file that one of these names by a URI
    of the hub; ``fetched`` has those that were.
    """

    said: str
    folder: Path
    names: frozenset[str]
    elsewhere: Callable[[str], Path] | None = None
    fetched: dict[str, Path] = field(default_factory=dict)

    def fault(self, what: str) -> ConfigError:
        """An error about this dictionary."""
        return ConfigError(f"sae.pretrained = {self.said!r}: {what}")

    def path(self, name: str) -> Path:
        """Where a file is. Raises ``ConfigError`` if it is not there."""
        if name.startswith("hf://"):
            if name not in self.fetched:
                if self.elsewhere is None:
                    raise self.fault(f"it names {name!r}, which is not fetched")
                self.fetched[name] = self.elsewhere(name)
            return self.fetched[name]
        if name not in self.names:
            raise self.fault(f"{name} is missing; copy or download the folder again")
        return self.folder / name

    @property
    def trail(self) -> str:
        """All names from which something may be told: what was written, and the folder's own."""
        return f"{self.said}/{self.folder}"

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object. Raises ``ConfigError`` if the file holds none."""
        try:
            found = json.loads(self.path(name).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise self.fault(f"{name} can't be read ({error})") from error
        if not isinstance(found, dict):
            raise self.fault(f"{name} holds no JSON object")
        return found

    def tensors(self, name: str) -> Tensors:
        """Tensors by name, of a safetensors, NumPy or PyTorch file; the last with tensors alone."""
        path = self.path(name)
        suffix = Path(name.partition("?")[0]).suffix
        try:
            if suffix == ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    found = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
            elif suffix == ".safetensors":
                found = load_file(path)
            else:
                found = _unpickled(self, name, path)
        except (
            OSError, ValueError, TypeError, EOFError, SafetensorError, zipfile.BadZipFile,
        ) as error:  # fmt: skip
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise self.fault(f"{name} can't be read ({first}); download it again") from error
        return Tensors(self, name, found)


def _unpickled(source: Source, name: str, path: Path) -> dict[str, Tensor]:
    """Tensors of a file of PyTorch, of which nothing else is loaded; of a checkpoint with an
    optimiser, those of its dictionary."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle can make torch raise anything
        raise source.fault(
            f"{name} is damaged, or a pickle of more than plain tensors, which could run code and "
            "is not loaded; have its state_dict() alone saved, or safetensors"
        ) from error
    if isinstance(found, dict) and isinstance(found.get("ae"), dict):
        found = found["ae"]
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise source.fault(f"{name} holds a {type(found).__name__}, not tensors by name")
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Tensors:
    """Tensors of one file by name."""

    source: Source
    file: str
    found: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """One in float32, or in float64 where it is. Raises ``ConfigError`` for one that is
        missing, or is no array of numbers."""
        if name not in self.found:
            there = ", ".join(sorted(self.found)) or "nothing"
            raise self.source.fault(f"{self.file} has no tensor {name!r}; it has {there}")
        tensor = self.found[name]
        if tensor.is_complex():
            raise self.source.fault(f"{self.file}: {name} holds complex numbers")
        return tensor if tensor.dtype == torch.float64 else tensor.float()

    def get(self, name: str) -> Tensor | None:
        """The same; None if it is not there."""
        return self[name] if name in self else None  # noqa: SIM401

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def matrix(self, name: str) -> Tensor:
        """One of two axes, in float32."""
        tensor = self[name]
        if tensor.dim() != 2:
            raise self.source.fault(f"{self.file}: {name} is {list(tensor.shape)}, no matrix")
        return tensor

    def turned(self, name: str) -> Tensor:
        """The transpose of a matrix, in float32."""
        return self.matrix(name).T.contiguous()


def made(
    source: Source,
    architecture: str,
    weights: Mapping[str, Tensor],
    *,
    k: int | None = None,
    transcoder: bool = False,
    centred: bool = False,
) -> SparseAutoencoder:
    """The autoencoder of ``weights``, named and shaped as ours.

    centred: its encoder takes ``x - b_dec``, which is folded into its biases. Raises
    ``ConfigError`` for weights that don't fit each other or are not all finite.
    """
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise source.fault(f"its {name} has values that are no finite numbers; it is damaged")
    found = dict(weights)
    try:
        sae = SparseAutoencoder(architecture, found, k, transcoder)
        if centred:
            method = ARCHITECTURES[architecture]
            shift = product(found["b_dec"], found["W_enc"])
            own = {name: found[name].double() for name in method.trained}
            moved = method.fold(own, 1.0, shift)
            sae = SparseAutoencoder(architecture, {**found, **moved}, k, transcoder)
    except ConfigError as error:
        raise source.fault(str(error)) from error
    return sae


def product(vector: Tensor, matrix: Tensor) -> Tensor:
    """``vector @ matrix`` in float64: [d] and [d, n] -> [n], a few columns at a time."""
    parts = [vector.double() @ part.double() for part in torch.split(matrix, 8192, dim=1)]
    return torch.cat(parts)


def whole(source: Source, value: Any, what: str) -> int:
    """A count that a file tells. Raises ``ConfigError`` if it is none."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number):
        raise source.fault(f"{what} = {number!r} is no whole number")
    return int(number)


class Format(ABC):
    """A layout that dictionaries are published in, and its reader."""

    name: ClassVar[str]
    """As ``sae.pretrained_format`` has it."""
    files: ClassVar[str]
    """What its folders hold, for errors."""

    @abstractmethod
    def wanted(self, source: Source, asked: Asked) -> tuple[str, ...] | None:
        """Names of the files that it is read from, some of which may be missing; None: the source
        is none of this format. `SMALL` files are there already."""

    @abstractmethod
    def read(self, source: Source, asked: Asked) -> Dictionary:
        """Read it. Raises ``ConfigError`` in one sentence for what can't be read as it is."""
