"""Texts of other sources, judged without training."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support.judged import Bench, metrics, rough, values

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError, DataError, DeconstructError
from deconstruct.config import CorpusConfig, RunConfig
from deconstruct.config.toml import changed
from deconstruct.evaluation.others import resolve
from flows.preflight import other_texts, preflight

EQUAL = (
    "fvu", "fvu_typical", "nmse_median", "outlier_share", "outlier_variance_share", "l0", "cosine",
    "silent_share", "rare_share", "loss_clean", "loss_spliced", "delta_loss", "kl",
    "top1_agreement",
)  # fmt: skip


def written(path: Path, texts: list[str], column: str = "text") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[column], *([text] for text in texts)])
    return path


def held_out(corpus: Artifact) -> list[str]:
    table = corpus.table("documents.parquet", ["split", "text"]).to_pylist()
    return [row["text"] for row in table if row["split"] == "test"]


def test_the_own_held_out_text_given_as_another_has_the_same_figures(
    bench: Bench, d_in: int, tmp_path: Path
) -> None:
    texts = held_out(bench.corpus)
    same = str(written(tmp_path / "same.csv", texts))
    few = str(written(tmp_path / "few.csv", texts[:3]))
    names = (same, few)
    sources = [resolve(CorpusConfig(), name) for name in names]
    judged = bench.judge(rough(d_in), sources, other=names, max_documents=None)
    own = metrics(judged)
    other = metrics(judged, same)
    assert set(other) == {*EQUAL, "explained_variance", "mse", "relative_reconstruction_bias"}
    for name in EQUAL:
        for part in ("value", "ci_low", "ci_high"):
            mine, theirs = own[name][part], other[name][part]
            assert theirs == (mine and pytest.approx(mine, rel=1e-4, abs=1e-7)), name
        assert other[name]["n"] == own[name]["n"]
    assert metrics(judged, few)["fvu"]["n"] < own["fvu"]["n"]
    assert set(judged.facts) - set(own) == {"outlier_bound"}  # facts are of the own text
    rows = judged.table("document_metrics.parquet").to_pylist()
    by_text = {name: [row for row in rows if row["text"] == name] for name in ("own", *names)}
    assert [len(of) for of in by_text.values()] == [len(texts), len(texts), 3]
    for mine, theirs in zip(by_text["own"], by_text[same], strict=True):
        for name in ("tokens", "error", "variance_typical", "clean", "spliced", "kl", "fires"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3), name
    total = {name: sum(row[name] for row in by_text["own"]) for name in list(rows[0])[2:]}
    found = values(judged)
    assert total["error"] / total["variance"] == pytest.approx(found["fvu"])
    assert total["fires"] / total["tokens"] == pytest.approx(found["l0"])
    delta = (total["spliced"] - total["clean"]) / total["predictions"]
    assert delta == pytest.approx(found["delta_loss"])
    typical = total["error_typical"] / total["variance_typical"]
    assert typical == pytest.approx(found["fvu_typical"])


def test_so_many_documents_are_read_and_their_content_is_part_of_the_key(
    bench: Bench, d_in: int, tmp_path: Path
) -> None:
    name = str(written(tmp_path / "other.csv", held_out(bench.corpus)))
    config = CorpusConfig()
    judged = bench.judge(rough(d_in), [resolve(config, name)], other=(name,), max_documents=4)
    rows = judged.table("document_metrics.parquet").to_pylist()
    assert sum(row["text"] == name for row in rows) == 4
    own = [row for row in rows if row["text"] == "own"]
    assert len(own) == len(held_out(bench.corpus)) > 4  # reconstruction is judged on all
    assert sum(row["clean"] is not None for row in own) == 4
    written(tmp_path / "other.csv", held_out(bench.corpus)[1:])
    again = bench.judge(rough(d_in), [resolve(config, name)], other=(name,), max_documents=4)
    assert again.key != judged.key
    assert again.manifest.inputs["reference"] == judged.manifest.inputs["reference"]
    with pytest.raises(ConfigError, match=r"evaluation.other names 1 sources, and 0 are given"):
        bench.judge(rough(d_in), (), max_documents=4, other=(name,))


def test_a_bad_source_is_said_in_a_sentence_before_any_work(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.csv")
    with pytest.raises(DeconstructError, match=r"^evaluation.other '.*gone.csv': .*") as told:
        resolve(CorpusConfig(), gone)
    assert "\n" not in str(told.value)
    wrong = str(written(tmp_path / "wrong.csv", ["a text"], "body"))
    with pytest.raises(DataError, match=r"evaluation.other .*no such column.* are 'body'"):
        resolve(CorpusConfig(), wrong)
    resolve(CorpusConfig(text_column="body"), wrong)
    texts = str(written(tmp_path / "texts.csv", ["one text", "another text"]))
    config = changed(
        RunConfig(),
        {"corpus": {"source": texts, "label_column": None}, "evaluation": {"other": [gone]}},
        [],
    )
    with pytest.raises(DeconstructError, match=r"evaluation.other '.*gone.csv'"):
        other_texts(config)
    with pytest.raises(DeconstructError, match=r"evaluation.other '.*gone.csv'"):
        preflight(DataRoot(tmp_path / "home"), config, "cpu")


@pytest.mark.parametrize("names", [("own",), ("a.csv", "a.csv"), ("",)])
def test_names_that_would_be_mixed_up_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"evaluation.other"):
        changed(RunConfig(), {"evaluation": {"other": list(names)}}, [])
