"""The stage map on planted groups: who is near whom, what is skipped, and bytes that stay."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.planted_map import D_SAE, DEAD, LENGTH, QUICK, Planted, plant
from threadpoolctl import threadpool_limits

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import MapConfig
from deconstruct.map.latents import BINS
from deconstruct.map.layout import kept, laid_out, placed_among

Made = tuple[Planted, Artifact]

ELSEWHERE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
from support.planted_map import plant
from deconstruct.artifacts import DataRoot
root = DataRoot(Path(sys.argv[1]))
print(plant(root).made(root).digest())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = DataRoot(tmp_path_factory.mktemp("map"))
    planted = plant(root)
    return planted, planted.made(root)


def columns(artifact: Artifact, table: str) -> dict[str, np.ndarray]:
    rows = artifact.table(f"{table}.parquet")
    return {name: rows[name].to_numpy() for name in rows.column_names}


def neighbours(places: np.ndarray, count: int = 5) -> np.ndarray:
    """[n, count]: those nearest to each."""
    apart = np.square(places[:, None] - places[None]).sum(2)
    np.fill_diagonal(apart, np.inf)
    return np.argsort(apart, axis=1)[:, :count]


def test_documents_stand_by_those_of_their_group(made: Made) -> None:
    planted, artifact = made
    found = columns(artifact, "document_map")
    assert found["doc_id"].tolist() == list(range(len(planted.group)))
    places = np.stack([found["x"], found["y"]], 1)
    near = planted.group[neighbours(places)] == planted.group[:, None]
    assert near.mean() > 0.9
    assert np.abs(places.mean(0)).max() < 1e-3


def test_pooled_as_they_are_documents_with_a_massive_token_are_an_island(made: Made) -> None:
    planted, artifact = made
    found = columns(artifact, "document_map")
    assert (found["massive"] > 0).tolist() == planted.holds.tolist()
    pooled = np.stack([found["pooled_x"], found["pooled_y"]], 1)
    alike = planted.holds[neighbours(pooled)] == planted.holds[:, None]
    assert alike.mean() > 0.9


def test_how_much_of_what_is_near_a_map_keeps(made: Made) -> None:
    _, artifact = made
    shares = [artifact.facts[f"{name}_kept"] for name in ("documents", "pooled", "latents")]
    assert all(0.3 < share <= 1 for share in shares)
    draw = np.random.default_rng(0)
    points = draw.normal(size=(400, 2))
    assert kept(points, 3 * points + 1) == 1
    assert kept(points, draw.normal(size=(400, 2))) == pytest.approx(10 / 399, abs=0.02)


def test_living_latents_have_a_place_each(made: Made) -> None:
    _, artifact = made
    found = columns(artifact, "latent_map")
    assert found["latent"].tolist() == [one for one in range(D_SAE) if one != DEAD]
    assert np.isfinite([found["x"], found["y"]]).all()


def test_latents_that_point_the_same_way_are_neighbours() -> None:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(4, 8)) * 5
    which = np.arange(80) % 4
    places = laid_out(centres[which] + draw.normal(size=(80, 8)), QUICK, lambda _: None)
    assert (which[neighbours(places)] == which[:, None]).mean() > 0.95


def test_histograms_count_every_firing(made: Made) -> None:
    planted, artifact = made
    found = columns(artifact, "latent_histogram")
    for latent in range(D_SAE):
        fires = planted.dense[:, latent].astype(np.float32)
        fires = fires[fires > 0]
        mine = found["latent"] == latent
        assert found["n"][mine].sum() == len(fires)
        if latent == DEAD:
            continue
        counts, edges = np.histogram(fires.astype(float), BINS, (0, float(fires.max())))
        places = found["bin"][mine]
        assert np.all(np.diff(places.astype(int)) > 0)
        assert counts[places].tolist() == found["n"][mine].tolist()
        assert counts.sum() == len(fires)
        np.testing.assert_allclose(found["low"][mine], edges[places], atol=1e-4)
        np.testing.assert_allclose(found["high"][mine], edges[places + 1], rtol=1e-5)
    assert (found["n"] > 0).all()


@pytest.mark.parametrize("threads", [1, 4])
def test_bytes_depend_on_no_number_of_threads(made: Made, tmp_path: Path, threads: int) -> None:
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path), str(threads)]
    more = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{':'.join(sys.path)}"} | more
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split()[-1] == made[1].digest()


def test_a_layout_by_a_grid_depends_on_no_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deconstruct.map.layout.BY_GRID", 10)
    points = np.random.default_rng(0).normal(size=(200, 6))
    found = []
    for threads in (1, 3):
        with threadpool_limits(threads, user_api="openmp"):
            found.append(laid_out(points, MapConfig(iterations=60), lambda _: None))
    assert np.array_equal(*found)


def test_of_many_documents_a_sample_is_laid_out_and_the_others_come_to_it(made: Made) -> None:
    planted, artifact = made
    root = DataRoot(artifact.path.parent.parent)
    sampled = planted.made(root, MapConfig(iterations=150, max_documents=30, max_latents=12))
    found = columns(sampled, "document_map")
    assert len(found["doc_id"]) == len(planted.group)
    places = np.stack([found["x"], found["y"]], 1)
    assert (planted.group[neighbours(places)] == planted.group[:, None]).mean() > 0.8
    assert len(columns(sampled, "latent_map")["latent"]) == 12


def test_those_that_come_later_stand_amid_their_nearest() -> None:
    fitted = np.repeat(np.eye(3), 5, axis=0)
    places = np.repeat([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], 5, axis=0)
    found = placed_among(np.array([[9.0, 1.0, 0.0], [0.0, 0.1, 2.0]]), fitted, places)
    assert found.tolist() == [[0, 0], [0, 10]]


@pytest.mark.parametrize("documents", [1, 4, 5, 7])
def test_few_documents(tmp_path: Path, documents: int) -> None:
    root = DataRoot(tmp_path)
    found = plant(root, documents).made(root)
    skipped = found.facts.get("skipped")
    rows = columns(found, "document_map")
    if documents < 5:
        assert skipped == (
            f"in {documents} of {documents} documents fires a latent that is not on more than 10% "
            "of all tokens; a map of documents needs 5"
        )
        assert len(rows["doc_id"]) == 0
    else:
        assert skipped is None
        assert np.isfinite([rows["x"], rows["pooled_y"]]).all()
    assert columns(found, "latent_histogram")["n"].sum() > 0


def test_equal_documents_and_points_on_a_line() -> None:
    for points in (np.ones((9, 3)), np.arange(9.0)[:, None], np.eye(2)[np.arange(9) % 2]):
        assert np.isfinite(laid_out(points, QUICK, lambda _: None)).all()


def test_what_a_map_is_made_of_is_in_its_key(made: Made) -> None:
    planted, artifact = made
    from deconstruct.map.stage import recipe

    own = artifact.manifest.recipe
    assert recipe(QUICK, **planted.inputs) == own
    assert recipe(MapConfig(iterations=150, enabled=False), **planted.inputs) == own
    assert recipe(MapConfig(iterations=150, seed=1), **planted.inputs) != own
    for name, one in planted.inputs.items():
        other = replace(one, manifest=one.manifest.model_copy(update={"key": "0" * 32}))
        assert recipe(QUICK, **planted.inputs | {name: other}) != own
    assert LENGTH * len(planted.group) == len(planted.dense)
