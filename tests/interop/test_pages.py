"""Pages of latents: every number of them is one of the planted run's."""

from __future__ import annotations

import gzip
import json
import struct
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.store_artifacts import D_SAE, DEAD, SPORT_LATENT, Planted
from support.taken_out import published, sae_of

from deconstruct.interop.export import export
from deconstruct.interop.formats import contexts

AT = "tiny/9-demo"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Planted]:
    home = tmp_path_factory.mktemp("pages")
    return home, published(home, sae_of("topk"), model={"name": "me/tiny"})


def rows(folder: Path, what: str) -> list[dict[str, Any]]:
    batches = sorted(folder.glob(f"{what}/batch-*.jsonl.gz"), key=lambda p: int(p.name[6:-9]))
    assert [p.name for p in batches] == [f"batch-{n}.jsonl.gz" for n in range(len(batches))]
    texts = [gzip.decompress(path.read_bytes()).decode("ascii") for path in batches]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def test_neuronpedia(tmp_path: Path, run: tuple[Path, Planted]) -> None:
    home, planted = run
    folder = export(home, "demo", tmp_path / "np", "neuronpedia").folder / AT
    metadata = {n: json.loads((folder / f"{n}.jsonl").read_text()) for n in
                ("release", "model", "sourceset", "source")}  # fmt: skip
    assert metadata["source"]["id"] == "9-demo"
    assert metadata["sourceset"]["releaseName"] == metadata["release"]["name"]
    features, dense = rows(folder, "features"), planted.activations
    assert [row["index"] for row in features] == [str(n) for n in range(D_SAE)]
    for number, row in enumerate(features):
        assert (row["modelId"], row["layer"], row["hookName"]) == (
            "tiny", "9-demo", "blocks.9.hook_resid_post",
        )  # fmt: skip
        fires = dense[:, number][dense[:, number] > 0]
        heights = row["freq_hist_data_bar_heights"]
        assert sum(heights) == len(fires)
        if len(fires):
            wanted, _ = np.histogram(fires, 50, (0, fires.max()))
            assert np.abs(np.cumsum(heights) - np.cumsum(wanted)).max() <= 1  # edges round
        strongest = np.argsort(-np.abs(planted.decoder[number]))[:3]
        assert row["neuron_alignment_indices"] == strongest.tolist()
    assert features[SPORT_LATENT]["pos_str"] == [" goal"]
    assert features[SPORT_LATENT]["neg_str"] == [" of"]
    check_activations(rows(folder, "activations"), planted)


def check_activations(found: list[dict[str, Any]], planted: Planted) -> None:
    assert len({row["id"] for row in found}) == len(found)
    first_of = {doc: int(np.flatnonzero(planted.doc_of == doc)[0]) for doc in set(planted.doc_of)}
    by_latent = {int(n): list(group) for n, group in groupby(found, lambda row: row["index"])}
    assert set(by_latent) == set(range(D_SAE)) - {DEAD}
    for number, shown in by_latent.items():
        dense = planted.activations[:, number]
        for row in shown:
            doc, at = int(row["dataIndex"]), row["qualifyingTokenIndex"]
            inside = [i for i in np.flatnonzero(planted.doc_of == doc) if not planted.special[i]]
            assert inside[0] == first_of[doc] + 1
            value = row["values"][at]
            places = [i for i in inside if dense[i] > 0 and abs(dense[i] - value) < 1e-5]
            start = next(
                i - at for i in places
                if [planted.tokens[j] for j in range(i - at, i - at + len(row["tokens"]))]
                == row["tokens"]
            )  # fmt: skip
            around = dense[start : start + len(row["tokens"])]
            np.testing.assert_allclose(row["values"], around, rtol=1e-5)
            assert row["maxValue"] == max(row["values"])
            assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"]
            assert len(row["tokens"]) <= 2 * contexts.WIDTH + 1
        top = [row["values"][row["qualifyingTokenIndex"]] for row in shown if row["binMin"] == -1]
        assert top == sorted(top, reverse=True)
        assert top[0] == pytest.approx(dense.max(), rel=1e-5)
        intervals = {row["binMin"]: row["binContains"] for row in shown if row["binMin"] != -1}
        assert sum(intervals.values()) == pytest.approx(1, abs=1e-4)
        for row in shown:
            if row["binMin"] != -1:
                value = row["values"][row["qualifyingTokenIndex"]]
                assert row["binMin"] - 1e-5 <= value <= row["binMax"] + 1e-5


def test_equal_texts_are_shown_once(tmp_path: Path, run: tuple[Path, Planted]) -> None:
    folder = export(run[0], "demo", tmp_path / "np", "neuronpedia").folder / AT
    for _, group in groupby(rows(folder, "activations"), lambda row: row["index"]):
        top = ["".join(row["tokens"]) for row in group if row["binMin"] == -1]
        assert 0 < len(top) == len(set(top)) <= contexts.TOP


def pages(folder: Path, layer: int) -> list[dict[str, Any]]:
    """As the viewer reads them: a range of bytes for each."""
    index = json.loads(gzip.decompress((folder / "features/index.json.gz").read_bytes()))
    told = index[str(layer)]
    raw = (folder / "features" / told["filename"]).read_bytes()
    found = []
    for start, end in zip(told["offsets"], told["offsets"][1:], strict=False):
        (length,) = struct.unpack("<I", raw[start : start + 4])
        assert start + 4 + length == end
        found.append(json.loads(gzip.decompress(raw[start + 4 : end])))
    assert end == len(raw)
    return found


def test_circuit_tracer(tmp_path: Path, run: tuple[Path, Planted]) -> None:
    home, planted = run
    found = pages(export(home, "demo", tmp_path / "ct", "circuit-tracer").folder, 9)
    assert [page["index"] for page in found] == list(range(D_SAE))
    assert found[DEAD]["examples_quantiles"] == found[DEAD]["quantile_values"] == []
    for number, page in enumerate(found):
        dense = planted.activations[:, number]
        fires = dense[dense > 0]
        assert (page["act_min"], page["act_max"]) == (0, pytest.approx(dense.max(), rel=1e-5))
        assert sum(page["histogram"]) == len(fires)
        if len(fires):
            counted = [np.mean(fires <= q + dense.max() / contexts.BINS)
                       for q in page["quantile_values"]]  # fmt: skip
            assert len(counted) == 99
            assert all(c >= (p + 1) / 100 - 1e-9 for p, c in enumerate(counted))
            below = [np.mean(fires < q - dense.max() / contexts.BINS)
                     for q in page["quantile_values"]]  # fmt: skip
            assert all(b <= (p + 1) / 100 + 1e-9 for p, b in enumerate(below))
        for quantile in page["examples_quantiles"]:
            for one in quantile["examples"]:
                assert set(one) == {
                    "tokens", "tokens_acts_list", "train_token_ind", "is_repeated_datapoint"
                }  # fmt: skip
                assert len(one["tokens"]) == len(one["tokens_acts_list"])
                assert one["tokens_acts_list"][one["train_token_ind"]] > 0
    assert found[SPORT_LATENT]["top_logits"] == [" goal"]
    top = found[SPORT_LATENT]["examples_quantiles"][0]["examples"][0]
    assert top["tokens"][top["train_token_ind"]] == " goal"


@pytest.mark.parametrize("format_", ["neuronpedia", "circuit-tracer"])
def test_batches_change_nothing_and_bytes_are_the_same(
    format_: str, tmp_path: Path, run: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(name: str) -> dict[str, bytes]:
        folder = export(run[0], "demo", tmp_path / name, format_).folder
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")
                if p.is_file()}  # fmt: skip

    once = content("once")
    assert content("again") == once
    monkeypatch.setattr(contexts, "BATCH", 5)
    content("small")
    if format_ == "circuit-tracer":
        assert pages(tmp_path / "small", 9) == pages(tmp_path / "once", 9)
    else:
        for what in ("features", "activations"):
            small, whole = (rows(tmp_path / name / AT, what) for name in ("small", "once"))
            assert small == whole


def test_texts_are_escaped_in_json_and_said_to_be_there(
    tmp_path: Path, run: tuple[Path, Planted]
) -> None:
    folder = export(run[0], "demo", tmp_path / "np", "neuronpedia").folder
    raw = b"".join(gzip.decompress(path.read_bytes()) for path in folder.rglob("*.gz"))
    assert raw.isascii()
    assert rb"na\u00efve" in raw
    assert "excerpts of the texts" in (folder / "README.md").read_text()
