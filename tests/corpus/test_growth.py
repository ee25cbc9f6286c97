"""A corpus that grows: what was computed of it stands, and the result is the one it would be."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from support.growing import TRAINED, Home

from deconstruct.activations import stage as activations
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.latents import stage as latents
from deconstruct.latents.ahead import Part
from deconstruct.sae import stage as sae


def documents(texts: Artifact) -> list[tuple[str, str, str]]:
    """(doc_key, split, label) in the corpus' order."""
    return duckdb.execute(
        "SELECT doc_key, split, label FROM read_parquet(?) ORDER BY doc_id",
        [str(texts.file("documents.parquet"))],
    ).fetchall()


def test_a_corpus_grows_at_its_end(growing: Home, texts: Path, grown: Path) -> None:
    base = growing.read(texts)
    more = growing.read(grown, base)
    assert more.facts["segments"] == [120, 13]
    assert documents(more)[:120] == documents(base)
    alone = documents(growing.read(grown))
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
    growing: Home, texts: Path, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = growing.read(texts)
    recorded = growing.record(base)
    dictionary = sae.train(growing.root, TRAINED, activations=recorded, device="cpu")
    fired = growing.encode(dictionary, recorded, base)

    written: list[str] = []
    real = activations.shards.write
    monkeypatch.setattr(
        activations.shards,
        "write",
        lambda path, *rest: (written.append(path.name), real(path, *rest)),
    )
    encoded: list[int] = []
    firings = latents._Encoding._firings

    def counting(self: object, part: Part, sparse: object) -> object:
        encoded.append(len(part.activation))
        return firings(self, part, sparse)  # type: ignore[arg-type]

    monkeypatch.setattr(latents._Encoding, "_firings", counting)
    more = growing.read(grown, base)
    rerecorded = growing.record(more)
    reencoded = growing.encode(dictionary, rerecorded, more)
    old, new = set(recorded.manifest.files), set(rerecorded.manifest.files)
    assert old < new
    assert {name.removesuffix(".unfinished") for name in written} == new - old
    for name in old - {"moments.safetensors"}:
        assert os.path.samefile(recorded.file(name), rerecorded.file(name))
    rows = int(rerecorded.facts["train_rows"]) + int(rerecorded.facts["test_rows"])
    assert sum(encoded) == rows - int(fired.facts["tokens"])

    # Where nothing is there to take over, all is computed, to the same bytes.
    other = Home(DataRoot(tmp_path / "other"), growing.model)
    for stage, key in (("corpus", more.key), ("sae", dictionary.key)):
        (other.root.path / stage).mkdir(parents=True)
        (other.root.path / stage / key).symlink_to(growing.root.folder(stage, key))
    straight = other.record(more)
    assert straight.digest() == rerecorded.digest()
    assert straight.facts == rerecorded.facts
    assert other.encode(dictionary, straight, more).digest() == reencoded.digest()
    assert reencoded.facts["tokens"] == rows


def test_nothing_new_is_an_empty_segment(growing: Home, texts: Path, tmp_path: Path) -> None:
    base = growing.read(texts)
    rows = list(csv.reader(texts.open()))
    turned = tmp_path / "turned.csv"
    with turned.open("w", newline="") as handle:
        csv.writer(handle).writerows([rows[0], *reversed(rows[1:])])
    more = growing.read(turned, base)
    assert more.facts["segments"] == [120, 0]
    assert documents(more) == documents(base)
    assert growing.record(more).digest() == growing.record(base).digest()
