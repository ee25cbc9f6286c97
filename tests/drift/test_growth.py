"""A corpus that grows: what was computed of it stands, and the result is the one it would be."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch
from scipy.stats import entropy
from support.texts import write_texts

from deconstruct.activations import stage as activations
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import (
    ActivationsConfig,
    CorpusConfig,
    EvaluationConfig,
    GatesConfig,
    LatentsConfig,
    SaeConfig,
)
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.drift import stage as drift
from deconstruct.drift.stage import jensen_shannon
from deconstruct.evaluation.stage import evaluate
from deconstruct.latents import stage as latents
from deconstruct.model.resolve import ResolvedModel
from deconstruct.recurring import gates
from deconstruct.sae import files
from deconstruct.sae import stage as sae

RECORDED = ActivationsConfig(sites=("1.resid_post",), shard_tokens=512)
TRAINED = SaeConfig(d_sae=64, k=4, tokens=4096, batch_size=256)


@dataclass
class Home:
    """A data root and what is made in it of a corpus."""

    root: DataRoot
    model: ResolvedModel

    def read(self, path: Path, base: Artifact | None = None) -> Artifact:
        config = CorpusConfig(source=str(path), max_tokens=24)
        source = sources.resolve(config)
        return corpus.tokenise(self.root, config, source=source, model=self.model, base=base)

    def record(self, texts: Artifact) -> Artifact:
        (made,) = activations.extract(
            self.root, RECORDED, model=self.model, corpus=texts, device="cpu"
        ).values()
        return made

    def encode(self, dictionary: Artifact, recorded: Artifact, texts: Artifact) -> Artifact:
        return latents.encode(
            self.root,
            LatentsConfig(),
            sae=dictionary,
            activations=recorded,
            corpus=texts,
            device="cpu",
        )


@pytest.fixture
def home(tmp_path: Path, model: ResolvedModel) -> Home:
    return Home(DataRoot(tmp_path / "home"), model)


@pytest.fixture
def grown(texts: Path, tmp_path: Path) -> Path:
    """The texts with 12 new ones among them, not at the end, and one that was there already."""
    rows = list(csv.reader(texts.open()))
    new = list(csv.reader(write_texts(tmp_path / "new.csv", 12, seed=9).open()))[1:]
    path = tmp_path / "grown.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([*rows[:50], *new, rows[7], *rows[50:]])
    return path


def documents(texts: Artifact) -> list[tuple[str, str, str]]:
    """(doc_key, split, label) in the corpus' order."""
    return duckdb.execute(
        "SELECT doc_key, split, label FROM read_parquet(?) ORDER BY doc_id",
        [str(texts.file("documents.parquet"))],
    ).fetchall()


def test_a_corpus_grows_at_its_end(home: Home, texts: Path, grown: Path) -> None:
    base = home.read(texts)
    more = home.read(grown, base)
    assert more.facts["segments"] == [120, 13]
    assert documents(more)[:120] == documents(base)
    alone = documents(home.read(grown))
    assert Counter(key for key, *_ in documents(more)) == Counter(key for key, *_ in alone)
    again = {key: split for key, split, _ in documents(base)}
    twin = documents(more)[120:]
    repeated = [(key, split) for key, split, _ in twin if key in again]
    assert len(repeated) == 1
    assert repeated[0][1] == again[repeated[0][0]]
    for file, order in (("tokens.parquet", "token_index"), ("documents.parquet", "doc_id")):
        (same,) = duckdb.execute(
            f"SELECT count(*) FROM (FROM read_parquet($base) ORDER BY {order}) AS base "
            f"SEMI JOIN read_parquet($more) AS more ON base = more",
            {"base": str(base.file(file)), "more": str(more.file(file))},
        ).fetchone() or (0,)
        assert same == base.manifest.files[file].rows


def test_shards_and_firings_are_taken_over_and_the_bytes_are_the_same(
    home: Home, texts: Path, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = home.read(texts)
    recorded = home.record(base)
    dictionary = sae.train(home.root, TRAINED, activations=recorded, device="cpu")
    fired = home.encode(dictionary, recorded, base)

    written: list[str] = []
    real = activations.shards.write
    monkeypatch.setattr(
        activations.shards,
        "write",
        lambda path, *rest: (written.append(path.name), real(path, *rest)),
    )
    encoded: list[int] = []
    firings = latents._Encoding._firings

    def counting(self: object, block: object, part: slice) -> object:
        encoded.append(len(block))  # type: ignore[arg-type]
        return firings(self, block, part)  # type: ignore[arg-type]

    monkeypatch.setattr(latents._Encoding, "_firings", counting)
    more = home.read(grown, base)
    rerecorded = home.record(more)
    reencoded = home.encode(dictionary, rerecorded, more)
    old, new = set(recorded.manifest.files), set(rerecorded.manifest.files)
    assert old < new
    assert {name.removesuffix(".unfinished") for name in written} == new - old
    for name in old - {"moments.safetensors"}:
        assert os.path.samefile(recorded.file(name), rerecorded.file(name))
    rows = int(rerecorded.facts["train_rows"]) + int(rerecorded.facts["test_rows"])
    assert sum(encoded) == rows - int(fired.facts["tokens"])

    # Where nothing is there to take over, all is computed, to the same bytes.
    other = Home(DataRoot(tmp_path / "other"), home.model)
    for stage, key in (("corpus", more.key), ("sae", dictionary.key)):
        (other.root.path / stage).mkdir(parents=True)
        (other.root.path / stage / key).symlink_to(home.root.folder(stage, key))
    straight = other.record(more)
    assert straight.digest() == rerecorded.digest()
    assert straight.facts == rerecorded.facts
    assert other.encode(dictionary, straight, more).digest() == reencoded.digest()
    assert reencoded.facts["tokens"] == rows


def test_drift_of_a_transcoder(home: Home, texts: Path, grown: Path) -> None:
    """FVU of what it writes, on either side, against sums over its activations taken at once."""
    sites = ActivationsConfig(sites=("1.resid_pre", "2.mlp_out"), shard_tokens=512)

    def record(of: Artifact) -> list[Artifact]:
        made = activations.extract(home.root, sites, model=home.model, corpus=of, device="cpu")
        return list(made.values())

    base = home.read(texts)
    config = TRAINED.model_copy(update={"output_site": "2.mlp_out", "skip_connection": True})
    onto = record(base)[1]
    coder = sae.train(home.root, config, activations=record(base)[0], output=onto, device="cpu")
    more = home.read(grown, base)
    read, wanted = record(more)
    firings = home.encode(coder, read, more)
    reference = drift.reference_of(home.root, more, coder)
    assert reference is not None
    assert reference.key == base.key
    compared = {"reference": reference, "activations": read, "sae": coder, "latents": firings}
    made = drift.compare(home.root, EvaluationConfig(), **compared, output=wanted, device="cpu")
    own = drift.recipe(EvaluationConfig(), **compared, output=wanted)
    assert own.key != drift.recipe(EvaluationConfig(), **compared).key

    judged = evaluate(
        home.root, EvaluationConfig(max_documents=4, bootstrap=20), model=home.model, corpus=more,
        activations=read, sae=coder, latents=firings, device="cpu",
    )  # fmt: skip
    assert judged.manifest.inputs["activations"] == read.key  # not those it was trained on
    beside = sae.output_of(home.root, coder, read)
    assert beside is not None
    assert beside.key == wanted.key

    dictionary = files.load(coder.path)
    mean = torch.from_numpy(ActivationReader(onto).moments.mean)
    sums = {True: np.zeros(2), False: np.zeros(2)}
    for split in ("train", "test"):
        pairs = zip(
            *(ActivationReader(a, split).rows_in_order() for a in (read, wanted)), strict=True
        )
        for source, target in pairs:
            y = target.activation.double()
            error = (dictionary(source.activation).double() - y).square().sum(1).numpy()
            squares = (y - mean).square().sum(1).numpy()
            for new in (True, False):
                rows = (source.doc_id >= 120) == new
                if new or split == "test":
                    sums[new] += error[rows].sum(), squares[rows].sum()
    assert made.facts["fvu"] == pytest.approx(sums[True][0] / sums[True][1], rel=1e-5)
    assert made.facts["reference_fvu"] == pytest.approx(sums[False][0] / sums[False][1], rel=1e-5)


def test_nothing_new_is_an_empty_segment(home: Home, texts: Path, tmp_path: Path) -> None:
    base = home.read(texts)
    rows = list(csv.reader(texts.open()))
    turned = tmp_path / "turned.csv"
    with turned.open("w", newline="") as handle:
        csv.writer(handle).writerows([rows[0], *reversed(rows[1:])])
    more = home.read(turned, base)
    assert more.facts["segments"] == [120, 0]
    assert documents(more) == documents(base)
    assert home.record(more).digest() == home.record(base).digest()


def test_the_divergence_of_two_distributions() -> None:
    """Against its definition: the entropy of the mean less the mean of the entropies, in bits."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        a, b = draw.poisson(2.0, (2, 50)).astype(np.float64)
        p, q = a / a.sum(), b / b.sum()
        want = entropy((p + q) / 2, base=2) - (entropy(p, base=2) + entropy(q, base=2)) / 2
        assert jensen_shannon(a, b) == pytest.approx(want, abs=1e-12)
    assert jensen_shannon(np.array([3.0, 0.0]), np.array([0.0, 1.0])) == 1.0
    assert jensen_shannon(np.array([3.0, 1.0]), np.array([6.0, 2.0])) == pytest.approx(0, abs=1e-15)


def test_gates_say_each_figure_that_is_beyond_them() -> None:
    gates.check(GatesConfig(), {"fvu": 0.9})
    bounds = GatesConfig(max_fvu=0.2, min_probe_accuracy=0.9, max_fvu_ratio=1.5)
    gates.check(bounds, {"fvu": 0.2, "probe_accuracy": 0.95})
    with pytest.raises(gates.GateError) as caught:
        gates.check(bounds, {"fvu": 0.3, "probe_accuracy": None, "fvu_ratio": 1.25})
    said = str(caught.value)
    assert said.startswith("gates.max_fvu = 0.2, but fvu is 0.3; gates.min_probe_accuracy = 0.9, ")
    assert "this run has no probe_accuracy; the run is not published" in said
