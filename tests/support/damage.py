"""A data root with every kind of file, ways to damage one, and everyone who reads it."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from typer.testing import CliRunner

from deconstruct.activations import stage as activations
from deconstruct.artifacts import MANIFEST, Artifact, DataRoot
from deconstruct.cli import app
from deconstruct.cluster import stage as cluster
from deconstruct.common.errors import DeconstructError
from deconstruct.config import RunConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.evaluation import stage as evaluation
from deconstruct.interpretation import stage as interpretation
from deconstruct.latents import stage as latents
from deconstruct.map import stage as maps
from deconstruct.model.resolve import resolve
from deconstruct.probe import stage as probe
from deconstruct.reference import stage as reference
from deconstruct.sae import stage as sae
from deconstruct.store import RunRecord, publish
from deconstruct.store.schema import RELATIONS

IN_PLACE = [relation.name for relation in RELATIONS if relation.in_place]


def run(home: Path, config: RunConfig) -> dict[str, Artifact]:
    """What the command does, in this process and without Prefect."""
    root, started = DataRoot(home), datetime.now(UTC)
    model, source = resolve(root, config.model), sources.resolve(config.corpus)
    made = {}
    made["corpus"] = corpus.tokenise(root, config.corpus, source=source, model=model)
    texts = made["corpus"]
    (made["activations"],) = activations.extract(
        root, config.activations, model=model, corpus=texts, device="cpu"
    ).values()
    made["reference"] = reference.measure(
        root, config.evaluation, model=model, corpus=texts, activations=made["activations"],
        device="cpu",
    )  # fmt: skip
    made["sae"] = sae.train(root, config.sae, activations=made["activations"], device="cpu")
    known = {"corpus": texts, "activations": made["activations"]}
    made["latents"] = latents.encode(root, config.latents, sae=made["sae"], **known, device="cpu")
    known["latents"] = made["latents"]
    made["evaluation"] = evaluation.evaluate(
        root, config.evaluation, model=model, reference=made["reference"], sae=made["sae"],
        latents=made["latents"], device="cpu",
    )  # fmt: skip
    made["probe"] = probe.fit_probes(root, config.probe, model=model, **known)
    made["cluster"] = cluster.group_documents(root, config.cluster, **known)
    made["interpretation"] = interpretation.interpret(
        root, config.interpretation, corpus=known["corpus"], latents=known["latents"]
    )
    made["map"] = maps.lay_out(root, config.map, **known, reference=made["reference"])
    record = RunRecord(config=config, started=started, finished=datetime.now(UTC))
    publish(home, record, made)
    return made


def flipped(place: float) -> Callable[[Path, Path], None]:
    """One bit, at a share of the file."""

    def flip(file: Path, _: Path) -> None:
        content = bytearray(file.read_bytes())
        content[min(int(place * len(content)), len(content) - 1)] ^= 4
        file.write_bytes(content)

    return flip


def _cut(file: Path, _: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


SWAPPED = "swapped with its like"
DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "flipped at its begin": flipped(0),
    "flipped before its middle": flipped(0.4),
    "flipped behind its middle": flipped(0.7),
    "flipped at its end": flipped(1),
    "cut": _cut,
    "emptied": lambda file, _: file.write_bytes(b""),
    "deleted": lambda file, _: file.unlink(),
    SWAPPED: lambda file, like: shutil.copyfile(like, file),
}


@dataclass(frozen=True)
class Case:
    """Damage to one file. file, like: below the data root; the like is of the other run."""

    damage: str
    file: str
    like: str

    def __str__(self) -> str:
        return f"{re.sub('[0-9a-f]{32}', 'KEY', self.file)} {self.damage}"

    def act(self, home: Path) -> None:
        DAMAGES[self.damage](home / self.file, home / self.like)

    @property
    def view(self) -> str:
        """The view over the file, if there is one; else any."""
        stage, _, name = self.file.rpartition("/")
        for relation in RELATIONS:
            if relation.in_place and relation.file == name and relation.stage == stage[:-33]:
                return relation.name
        return "latents"


def cases(home: Path, one: dict[str, Artifact], other: dict[str, Artifact]) -> Iterator[Case]:
    """Every file of a run, in every way. ``other``: a run with the same files, and other bytes; one
    that has equal bytes all the same takes no harm from its like."""
    for stage, artifact in one.items():
        for name in (*artifact.manifest.files, MANIFEST):
            file, like = artifact.path / name, other[stage].path / name
            if like.exists():
                equal = file.read_bytes() == like.read_bytes()
                for damage in DAMAGES:
                    if equal and damage == SWAPPED:
                        continue
                    yield Case(damage, *(str(path.relative_to(home)) for path in (file, like)))


@dataclass(frozen=True)
class Said:
    """How a reader ended."""

    code: int
    out: str
    err: str

    @property
    def found(self) -> bool:
        """Whether it said in a sentence what is wrong."""
        return self.code == 1 and "error: " in self.err + self.out


def ask(home: Path, *arguments: str) -> Said:
    """A reading command, in this process."""
    result = CliRunner().invoke(app, [*arguments, "--home", str(home)])
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    err = result.stderr + (f"\nTraceback: {result.exception!r}" if unexpected else "")
    return Said(result.exit_code, result.stdout, err)


def readers(view: str, run_id: str) -> dict[str, tuple[str, ...]]:
    """Name -> the command of everyone who reads, and answers alike each time."""
    hashed = "SELECT count(*), bit_xor(hash(t)) FROM {} AS t"
    return {
        f"sql on {view}": ("sql", hashed.format(view)),
        "sql by a macro": ("sql", f"FROM top_contexts('{run_id}', 1)"),
        "sql on tables": ("sql", "SELECT run_id, name, config FROM runs ORDER BY ALL"),
        "runs": ("runs",),
        "show": ("show", run_id),
        "latent": ("latent", run_id, "1"),
        "gc": ("gc", "--unused-hours", "0"),
    }


def exported(home: Path, run_id: str, target: Path) -> Said:
    """Export a run; what it says is a digest of what is in the file."""
    target.unlink(missing_ok=True)
    said = ask(home, "export", run_id, str(target))
    if said.code:
        assert not target.exists()
        return said
    with duckdb.connect(target, read_only=True) as copy:
        hashes = [
            copy.execute(f"SELECT count(*), bit_xor(hash(t)) FROM {name} AS t").fetchall()
            for name in IN_PLACE
        ]
    return Said(0, str(hashes), "")


def again(home: Path, config: RunConfig) -> Said:
    """Run again."""
    with redirect_stderr(io.StringIO()):
        try:
            run(home, config)
        except DeconstructError as error:
            return Said(1, "", f"error: {error}")
    return Said(0, "", "")


def contents(home: Path) -> dict[str, bytes]:
    """What the files of the artifacts hold, but for manifests, which have times in them."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.glob("[!.]*/[!.]*/*")
        if path.is_file() and path.name != MANIFEST
    }
