"""Probes of single tokens: properties of their text, on planted latents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from support.planted import artifact_of, filled
from support.planted_latents import plant

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.config import ProbeConfig
from deconstruct.features.tables import FEATURES
from deconstruct.latents.tables import DOCUMENT_LATENTS, LATENTS_BY_TOKEN
from deconstruct.probe import stage as probe
from deconstruct.probe.tokens import PROPERTIES, _labels

D_SAE = 12


def of_tokens(root: DataRoot, corpus: Artifact, shuffled: bool = False) -> Artifact:
    """Latent 3 fires on tokens with the property, latent 5 anywhere."""
    tokens = corpus.table("tokens.parquet", ["token_index", "token", "special"]).to_pydict()
    draw = np.random.default_rng(0)
    fires = np.array([PROPERTIES["capitalised"](t, True) for t in tokens["token"]])
    if shuffled:
        fires = draw.permutation(fires)
    rows = [(index, 3, 2.0) for index, own in zip(tokens["token_index"], fires, strict=True) if own]
    rows += [(index, 5, 1.0) for index in tokens["token_index"] if draw.random() < 0.3]
    token, latent, value = zip(*sorted(rows), strict=True)
    documents = int(corpus.facts["documents"])
    pooled = plant(root, np.random.default_rng(0).gamma(1, 1, (documents, D_SAE)))
    tables = {table: pooled.table(table.file) for table in (DOCUMENT_LATENTS, FEATURES)}
    planted = {"token_index": token, "latent": latent, "activation": value}
    return artifact_of(
        root,
        Recipe("latents", 0, {"tokens": True, "shuffled": shuffled}, {}),
        {**tables, LATENTS_BY_TOKEN: filled(LATENTS_BY_TOKEN, **planted)},
    )


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts have no capitals: another property stands for that one."""
    monkeypatch.setitem(PROPERTIES, "capitalised", lambda token, _: token.strip()[:1] in {*"tmb"})


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_latent_of_a_planted_token_tells_it(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
    shuffled: bool,
    letters: None,
) -> None:
    root = DataRoot(tmp_path_factory.mktemp("tokens"))
    made = probe.fit_probes(
        root,
        ProbeConfig(ks=(1,), bootstrap=50, token_tasks=("capitalised",)),
        corpus=corpus_artifact,
        latents=of_tokens(root, corpus_artifact, shuffled),
        activations=activations_artifact,
    )
    rows = [row for row in made.table("probes.parquet").to_pylist() if row["task"] == "capitalised"]
    area = {(row["representation"], row["k"]): row for row in rows if row["metric"] == "auroc"}
    assert set(area) == {("majority", None), ("activations", None), ("activations", 1),
                         ("latents", 1)}  # fmt: skip
    found = area["latents", 1]
    assert found["n_test"] > 100
    if shuffled:
        assert found["value"] == pytest.approx(0.5, abs=0.06)
    else:
        assert found["value"] == 1
    assert area["activations", None]["value"] > 0.6
    others = {row["task"] for row in made.table("probes.parquet").to_pylist()}
    assert others == {"label", "capitalised"}


def test_properties_of_tokens() -> None:
    given = {" The": "cw", "the": "w", "ing": "", " 12": "nw", "1st": "nw", ".": "p", " --": "p",
             "\n": "", "Élan": "cw"}  # fmt: skip
    names = {"c": "capitalised", "n": "number", "p": "punctuation", "w": "word_start"}
    for token, letters in given.items():
        own = {name for name in PROPERTIES if PROPERTIES[name](token, token != "ing")}
        assert own == {names[letter] for letter in letters}, token


@pytest.mark.parametrize("block", [1, 2, 3, 8])
def test_words_begin_where_they_do_however_rows_are_cut_into_blocks(block: int) -> None:
    tokens = ["<bos>", "foot", "ball", " is", "<bos>", "play", "ed", " here"]
    table = pa.table(
        {
            "token_index": np.arange(8),
            "doc_id": [0, 0, 0, 0, 1, 1, 1, 1],
            "token": tokens,
            "special": [token == "<bos>" for token in tokens],
        }
    )

    class Corpus:
        def rows(self, name: str, columns: list[str]) -> Iterator[pa.Table]:
            return (table.slice(first, block) for first in range(0, 8, block))

    asked = np.array([1, 2, 3, 5, 6, 7])
    found = list(_labels(Corpus(), asked, ["word_start"]))  # type: ignore[arg-type]
    assert [bool(own) for own in found] == [True, False, True, True, False, True]
