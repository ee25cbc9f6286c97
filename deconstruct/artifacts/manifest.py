"""What an artifact is: the recipe that decides it, its manifest, the draft that it grows in.

A stage's result is a folder whose ``manifest.json`` names every file with its size and SHA-256;
`deconstruct.artifacts.root` keeps such folders and finds them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from deconstruct.common.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
UNFINISHED = f".{MANIFEST}.unfinished"
SCRATCH = ".scratch"
RECIPE = "recipe.json"
LARGEST = 2**63 - 1
"""Bytes or rows: what databases count."""
SOFTWARE = ("deconstruct", "torch", "transformers", "datasets", "pyarrow", "duckdb", "scikit-learn")


@dataclass(frozen=True)
class Recipe:
    """All that decides a stage's result.

    stage: the stage's name. version: raised by hand when the stage's results change. config: the
    stage's settings, as JSON types. inputs: name -> key of an upstream artifact, or digest of
    something outside (a file's SHA-256, a hub revision's commit); never a name that can move.
    """

    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits: SHA-256 over the canonical JSON of the four fields, cut."""
        whole = [self.stage, self.version, self.config, self.inputs]
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class FileEntry(BaseModel):
    """One file of an artifact as its manifest lists it."""

    model_config = ConfigDict(frozen=True)

    bytes: int = Field(ge=0, le=LARGEST, strict=True)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    rows: int | None = Field(None, ge=0, le=LARGEST, strict=True)


class Manifest(BaseModel):
    """``manifest.json``: what an artifact is, how it was made, and what its files must be.

    digest: SHA-256 over all the other fields; None in those of earlier releases.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, FileEntry]
    facts: dict[str, Any]
    software: dict[str, str]
    started: AwareDatetime
    finished: AwareDatetime
    digest: str | None = None

    def sealed(self) -> Manifest:
        """The same with its digest."""
        fields = json.loads(self.model_dump_json(exclude={"digest"}))
        return self.model_copy(update={"digest": _digest_of(fields)})

    def check_digest(self, fields: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` if ``fields``, as they were read, are not those it was sealed with.

        Manifests of earlier releases have no digest, and exactly the other fields of this one. A
        later release may have more, which its digest covers.
        """
        others = {name: value for name, value in fields.items() if name != "digest"}
        known = Manifest.model_fields.keys() - {"digest"}
        if self.digest is None and others.keys() != known:
            raise ValueError("a manifest without a digest has other fields")
        if self.digest is not None and self.digest != _digest_of(others):
            raise ValueError("the digest is that of other fields")

    @property
    def recipe(self) -> Recipe:
        """What it was made by."""
        return Recipe(self.stage, self.version, self.config, self.inputs)

    @property
    def seconds(self) -> float:
        """Wall time from start to publishing; counts the last attempt of a resumed stage."""
        return (self.finished - self.started).total_seconds()


def _digest_of(fields: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of a manifest's fields."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A published folder and its manifest.

    made: whether the call that gave it has made it; it may as well have found it, or waited for
    another run that made it.
    """

    path: Path
    manifest: Manifest
    made: bool = field(default=False, compare=False)

    @property
    def stage(self) -> str:
        return self.manifest.stage

    @property
    def key(self) -> str:
        return self.manifest.key

    @property
    def facts(self) -> dict[str, Any]:
        """The few numbers that the stage recorded about its result (counts, sizes, names)."""
        return self.manifest.facts

    def file(self, name: str) -> Path:
        """Path of one of the artifact's files. Raises ``StorageError`` if it lists none such."""
        if name not in self.manifest.files:
            listed = ", ".join(self.manifest.files)
            raise StorageError(f"{self.path} has no file {name!r}; its manifest lists {listed}")
        return self.path / name

    def files(self, pattern: str) -> list[Path]:
        """Paths of the listed files that match a glob such as ``"train-*.parquet"``, sorted."""
        names = [n for n in self.manifest.files if Path(n).match(pattern)]
        return [self.path / n for n in sorted(names)]

    def rows(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of one of its Parquet files, a row group at a time."""
        from deconstruct.common import parquet

        return parquet.rows(self.file(name), columns)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All of them at once."""
        from deconstruct.common import parquet

        with parquet.opened(self.file(name)) as file:
            return file.read(columns=columns)

    def digest(self) -> str:
        """One digest over the files' names and contents: equal results have equal digests."""
        listing = {name: entry.sha256 for name, entry in self.manifest.files.items()}
        return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


def keys_of(**artifacts: Artifact | None) -> dict[str, str]:
    """Name -> key of those that are there: what a `Recipe` has as inputs."""
    return {name: artifact.key for name, artifact in artifacts.items() if artifact is not None}


@dataclass
class Draft:
    """The folder a stage is writing. What was completed in an earlier attempt is still there."""

    path: Path
    rows: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints and notes, kept between attempts, dropped on publishing."""
        scratch = self.path / SCRATCH
        scratch.mkdir(exist_ok=True)
        return scratch

    def has(self, name: str) -> bool:
        """Whether an earlier attempt completed this file."""
        return (self.path / name).is_file()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path to write ``name`` to; it takes its name, after fsync, only if the block ends."""
        target = self.path / name
        unfinished = self.scratch / f"{name}.unfinished"
        if target.parent != self.path:
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        fsync(unfinished)
        if target.is_dir():  # os.replace would not
            shutil.rmtree(target)
        os.replace(unfinished, target)
        fsync(target.parent)

    def adopt(self, artifact: Artifact, name: str) -> None:
        """Take a file of a published artifact as it is: the same bytes under a second name."""
        if self.has(name):
            return
        try:
            os.link(artifact.file(name), self.path / name)
        except OSError:  # another file system, or one without links
            with self.writing(name) as path:
                shutil.copyfile(artifact.file(name), path)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet, and note how many rows it has."""
        from deconstruct.common import parquet

        with self.writing(name) as path:
            parquet.write(path, table)
        self.rows[name] = len(table)

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` as indented JSON with sorted keys."""
        with self.writing(name) as path:
            path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def fsync(path: Path) -> None:
    """Flush a file's contents, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_digests: dict[tuple[int, ...], str] = {}


def sha256_of(path: Path, *, again: bool = False) -> str:
    """Hexadecimal SHA-256 of a file's contents: read once per process, until the file changes.

    again: read it in any case, as a change within a tick of the clock leaves the times as they are.
    """
    with path.open("rb") as handle:
        stat = os.fstat(handle.fileno())
        state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if again or state not in _digests:
            _digests[state] = hashlib.file_digest(handle, "sha256").hexdigest()
        return _digests[state]


def software() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
