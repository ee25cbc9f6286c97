"""The intruder score: planted latents, noise, and what its items hold."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from support.planted import artifact_of
from support.planted_words import DENSE, NOISE, PLANTED, RARE, corpus_of, latents_of

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.config import InterpretationConfig
from deconstruct.corpus.tables import DOCUMENTS, TOKENS
from deconstruct.interpretation.stage import interpret
from deconstruct.interpretation.tables import INTERPRETATION_ITEMS, LATENT_SCORES
from deconstruct.latents.tables import LATENTS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact, Artifact]:
    root = DataRoot(tmp_path_factory.mktemp("intruders"))
    corpus, flat = corpus_of(root)
    latents = latents_of(root, flat)
    return corpus, latents, interpret(root, InterpretationConfig(), corpus=corpus, latents=latents)


def scores(made: Artifact) -> dict[int, dict[str, float | None]]:
    return {row["latent"]: row for row in made.table(LATENT_SCORES.file).to_pylist()}


def test_the_latent_of_a_word_is_found_every_time(made: tuple[Artifact, ...]) -> None:
    own = scores(made[2])[PLANTED]
    assert own["value"] == 1.0
    assert own["n"] == 20
    assert own["floor"] == 0.2


def test_noise_is_at_chance(made: tuple[Artifact, ...]) -> None:
    noise = [row for latent, row in scores(made[2]).items() if latent > DENSE]
    trials = sum(int(row["n"] or 0) for row in noise)
    found = sum(round((row["value"] or 0) * (row["n"] or 0)) for row in noise)
    assert len(noise) == NOISE
    assert trials == NOISE * 20
    assert abs(found / trials - 0.2) < 1.96 * (0.2 * 0.8 / trials) ** 0.5


def test_latents_without_trials_have_no_value(made: tuple[Artifact, ...]) -> None:
    """One fires too seldom, the other is nowhere silent."""
    for latent in (RARE, DENSE):
        row = scores(made[2])[latent]
        assert (row["value"], row["ci_low"], row["n"]) == (None, None, 0)
    assert made[2].facts["latents"] == NOISE + 3
    assert made[2].facts["scored"] == NOISE + 1


def test_trials_are_of_held_out_documents_apart_and_intruders_are_silent(
    made: tuple[Artifact, ...],
) -> None:
    corpus, latents, scored = made
    items = scored.table(INTERPRETATION_ITEMS.file).to_pandas()
    doc = corpus.table(TOKENS.file)["doc_id"].to_numpy()
    fires: dict[int, set[int]] = {}
    for row in latents.table(LATENTS.file).to_pylist():
        fires.setdefault(row["latent"], set()).add(row["token_index"])
    for (latent, _), trial in items.groupby(["latent", "item"]):
        documents = doc[trial.token_index]
        assert len(trial) == len(set(documents)) == 5
        assert set(documents % 2) == {1}
        assert trial.truth.sum() == trial.answer.sum() == 1
        assert len(set(trial["quantile"])) == 1
        for index, silent in zip(trial.token_index, trial.truth, strict=True):
            around = range(max(index - 10, 0), min(index + 11, len(doc)))
            near = {i for i in around if doc[i] == doc[index]}
            assert bool(near & fires[latent]) != silent
            assert silent or index in fires[latent]
    shown = items[~items.truth]
    assert not shown.duplicated(["latent", "token_index"]).any()


def test_scores_are_those_of_the_items(made: tuple[Artifact, ...]) -> None:
    items = made[2].table(INTERPRETATION_ITEMS.file).to_pandas()
    found = items[items.truth].groupby("latent").answer.mean()
    assert found.to_dict() == {
        latent: row["value"] for latent, row in scores(made[2]).items() if row["n"]
    }


def test_equal_inputs_give_equal_bytes(made: tuple[Artifact, ...], tmp_path: Path) -> None:
    corpus, latents, scored = made
    config = InterpretationConfig()
    again = interpret(DataRoot(tmp_path), config, corpus=corpus, latents=latents)
    assert again.digest() == scored.digest()
    other = InterpretationConfig(seed=1)
    assert (
        interpret(DataRoot(tmp_path), other, corpus=corpus, latents=latents).digest()
        != scored.digest()
    )


def test_without_held_out_documents_nothing_is_scored(
    made: tuple[Artifact, ...], tmp_path: Path
) -> None:
    corpus, latents, _ = made
    documents = corpus.table(DOCUMENTS.file)
    column = documents.schema.get_field_index("split")
    train = documents.set_column(column, "split", pa.array(["train"] * len(documents)))
    tables = {DOCUMENTS: train, TOKENS: corpus.table(TOKENS.file)}
    root = DataRoot(tmp_path)
    bare = artifact_of(root, Recipe("corpus", 1, {"split": "none"}, {}), tables)
    scored = interpret(root, InterpretationConfig(), corpus=bare, latents=latents)
    assert scored.facts["scored"] == 0
    assert len(scored.table(INTERPRETATION_ITEMS.file)) == 0
