"""Contexts chosen ahead are those that the macro contexts_by_quantile draws."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.planted import remade
from support.store_artifacts import D_SAE, DEAD, Planted, plant

from deconstruct.artifacts import Artifact
from deconstruct.map.contexts import Chosen
from deconstruct.map.tables import LATENT_CONTEXTS
from deconstruct.store import open_store, publish


def chosen(corpus: Artifact, latents: Artifact, block: int) -> Chosen:
    """Firings that are read so many at a time."""
    rows = latents.table("latents.parquet")
    found = Chosen(corpus, np.bincount(rows["latent"].to_numpy(), minlength=D_SAE))
    for first in range(0, len(rows), block):
        some = rows.slice(first, block)
        latent, token = (some[n].to_numpy().astype(np.int64) for n in ("latent", "token_index"))
        found.add(latent, token, some["activation"].to_numpy())
    return found


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Planted]:
    """Strengths of two digits: many are equal; documents of n tokens that the tables say."""
    home = tmp_path_factory.mktemp("contexts")
    made = plant(home, documents=150)
    latents = made.artifacts["latents"]
    rows = latents.table("latents.parquet")
    latent, token = (rows[name].to_numpy() for name in ("latent", "token_index"))
    coarse = np.round(rows["activation"].to_numpy(), 1)
    order = np.lexsort((token, -coarse, latent))
    equal = remade(
        latents, "latents.parquet",
        rows.schema.empty_table().from_arrays(
            [latent[order], token[order], coarse[order]], schema=rows.schema
        ),
    )  # fmt: skip
    tables = chosen(made.artifacts["corpus"], equal, 1000).table()
    maps = remade(made.artifacts["map"], LATENT_CONTEXTS.file, tables)
    publish(home, made.record, made.artifacts | {"latents": equal, "map": maps})
    made.artifacts |= {"latents": equal, "map": maps}
    return home, made


@pytest.mark.parametrize(("n", "width"), [(4, 10), (2, 3)])
def test_they_are_what_the_macro_draws(planted: tuple[Path, Planted], n: int, width: int) -> None:
    home, _ = planted
    with open_store(home) as store:
        for latent in range(D_SAE):
            both = [
                store.execute(
                    f"FROM {macro}('latest', ?, n := {n}, width := {width})", [latent]
                ).fetchall()
                for macro in ("contexts_by_quantile", "ready_contexts")
            ]
            if n == 4:
                assert both[0] == both[1], latent
            assert bool(both[1]) == (latent != DEAD)


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_it_does_not_matter_how_firings_are_read(planted: tuple[Path, Planted], block: int) -> None:
    _, made = planted
    found = chosen(made.artifacts["corpus"], made.artifacts["latents"], block).table()
    assert found.equals(made.artifacts["map"].table(LATENT_CONTEXTS.file))


def test_latents_that_fire_less_than_there_are_parts(planted: tuple[Path, Planted]) -> None:
    found = Chosen(planted[1].artifacts["corpus"], np.array([0, 0, 0, 2, 0, 1]))
    found.add(np.array([3, 3, 5]), np.array([20, 4, 9]), np.array([2, 1, 3], np.float32))
    rows = found.table().to_pylist()
    told = [(row["latent"], row["quantile"], row["token_index"], row["low"]) for row in rows]
    assert told == [(3, 1, 4, 1), (3, 2, 20, 2), (5, 1, 9, 3)]
    assert {row["n_fires"] for row in rows} == {1}


def test_a_latent_that_fires_everywhere_is_not_held_whole(
    planted: tuple[Path, Planted],
) -> None:
    """Firings of one latent, a block at a time: memory is that of a block."""
    corpus, block, peaks = planted[1].artifacts["corpus"], 1 << 12, []
    for blocks in (2, 32):
        found = Chosen(corpus, np.array([blocks * block]))
        tracemalloc.start()
        for number in range(blocks):
            strength = np.linspace(2 - number / blocks, 2 - (number + 1) / blocks, block)
            token = np.arange(number * block, (number + 1) * block) % 100
            found.add(np.zeros(block, np.int64), token, strength.astype(np.float32))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found.table()) == 40
    assert peaks[1] < 1.1 * peaks[0]
