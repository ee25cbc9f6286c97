"""Paired differences of runs: the macros' own SQL on tables of synthetic runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from support.old_stores import TO_VERSION_5
from support.store_artifacts import plant

from deconstruct.store import open_store, publish
from deconstruct.store.ddl import create_macros, create_views
from deconstruct.store.migrate import migrate
from deconstruct.store.rewrite import FILE

DOCUMENTS, JUDGED = 445, 48
"""Held out, and of these with losses: as in the embedded default."""
CORPORA, TEXTS = 200, ("own", "x", "y", "z")
METRICS = ("delta_loss", "fvu", "fvu_typical", "kl", "l0", "top1_agreement")

Sums = dict[str, np.ndarray]
Row = dict[str, Any]


@pytest.fixture
def store() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty store whose documents are a table."""
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
        migrate(connection, "an empty store")
        create_views(connection, Path("nowhere"))
        create_macros(connection)
        connection.execute("DROP VIEW documents")
        connection.execute(
            "CREATE TABLE documents (run_id VARCHAR, doc_id UINTEGER, group_id UINTEGER, "
            "split VARCHAR)"
        )
        yield connection


@dataclass(frozen=True)
class Run:
    """A synthetic run, of this name and id. sums: column -> [documents], NaN where there is none;
    groups: group_id of each document."""

    name: str
    sums: Sums
    groups: np.ndarray | None = None
    corpus: str = "corpus"
    text: str = "own"


def add(store: duckdb.DuckDBPyConnection, *runs: Run) -> None:
    """Put runs into the tables, as if they had been published; a name may stand for several texts,
    the first of them with the run's groups."""
    documents, metrics = [], []
    first = {run.name: run for run in reversed(runs)}
    for run in runs:
        doc_id = np.arange(len(run.sums["tokens"]))
        own = {"run_id": np.full(len(doc_id), run.name), "doc_id": doc_id}
        groups = doc_id if run.groups is None else run.groups
        if run is first[run.name]:
            documents.append(pa.table(own | {"group_id": groups}))
        sums = {column: pa.array(values, from_pandas=True) for column, values in run.sums.items()}
        metrics.append(pa.table(own | {"text": np.full(len(doc_id), run.text)} | sums))
    called = {"analysis": "corpus", "first_execution": 1, "last_execution": 1}
    made = {
        "runs": [{"run_id": name, "name": name, "d_in": 16} for name in first],
        "names": [{"run_id": name, "name": name, **called} for name in first],
        "stages": [
            {"run_id": name, "stage": "corpus", "key": run.corpus} for name, run in first.items()
        ],
    }
    tables = {name: pa.Table.from_pylist(rows) for name, rows in made.items()}
    tables["documents"] = pa.concat_tables(documents)
    tables["document_metrics"] = pa.concat_tables(metrics)
    for name, table in tables.items():
        store.register("made", table)
        store.execute(f"INSERT INTO {name} BY NAME FROM made")
    store.execute(
        "INSERT INTO sae_metrics BY NAME SELECT run_id, text, "
        "replace(metric, ' on ' || text, '') AS metric, avg(part) AS value "
        "FROM document_parts(?) GROUP BY ALL",
        [list(first)],
    )


def asked(store: duckdb.DuckDBPyConnection, query: str, *values: Any) -> list[Row]:
    result = store.execute(query, list(values))
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def drawn(draw: np.random.Generator, n: int, judged: int = JUDGED) -> tuple[Sums, Sums]:
    """Documents of two runs: long tails over documents; of a few tokens, massive activations."""
    tokens = np.clip(draw.lognormal(4.5, 0.5, n), 5, 127).round()
    hard = np.exp(draw.normal(0, 0.6, n) - 0.18)  # a document's own share of error
    spread = np.exp(draw.normal(0, 0.2, n))
    massive = draw.poisson(0.18, n)  # tokens; each holds as much variance as 400 others
    predictions = np.where(np.arange(n) < judged, tokens - 1, np.nan)
    noise = draw.normal(0, 0.1, (4, n))
    runs: list[Sums] = []
    for worse in (1.0, 1.03):
        own = 0.1 * worse * tokens * hard * np.exp(draw.normal(0, 0.1, n))
        lost = draw.normal(0, 0.05, (4, n))
        runs.append({
            "tokens": tokens,
            "tokens_typical": tokens - massive,
            "error": own + 4 * massive * np.exp(draw.normal(0, 0.4, n)),
            "variance": tokens * spread + 400.0 * massive,
            "error_typical": own,
            "variance_typical": tokens * spread,
            "fires": tokens * (30 + draw.normal(0, 2, n) + 20 * noise[0]),
            "predictions": predictions,
            "clean": predictions * 3 * np.exp(noise[1]),
            "spliced": predictions * (3 * np.exp(noise[1]) + 0.4 * worse * hard + lost[1]),
            "kl": predictions * 0.5 * worse * hard * np.exp(noise[2] + lost[2]),
            "top1": predictions * np.clip(0.67 + noise[3] + lost[3], 0, 1),
        })  # fmt: skip
    return runs[0], runs[1]


def ratios(sums: Sums) -> dict[str, float]:
    total = {name: float(np.nansum(values)) for name, values in sums.items()}
    return {
        "fvu": total["error"] / total["variance"],
        "fvu_typical": total["error_typical"] / total["variance_typical"],
        "l0": total["fires"] / total["tokens"],
        "delta_loss": (total["spliced"] - total["clean"]) / total["predictions"],
        "kl": total["kl"] / total["predictions"],
        "top1_agreement": total["top1"] / total["predictions"],
    }


def with_twins(draw: np.random.Generator, *runs: Sums) -> tuple[np.ndarray, list[Sums]]:
    """Each tenth document twice, as often as it is held out; group_id, and the runs."""
    n = len(runs[0]["tokens"])
    order = np.repeat(np.arange(n), np.where(draw.random(n) < 0.1, 2, 1))
    groups = np.searchsorted(order, order)  # the smallest doc_id of each
    return groups, [{name: sums[order] for name, sums in run.items()} for run in runs]


def test_the_paired_interval_holds_the_truth(store: duckdb.DuckDBPyConnection) -> None:
    draw = np.random.default_rng(14)
    base, other = (ratios(sums) for sums in drawn(draw, 1_000_000, 1_000_000))
    truth = {metric: other[metric] - base[metric] for metric in METRICS}
    runs = []
    for number in range(CORPORA):  # four of them are texts of one pair of runs
        groups, pair = np.arange(DOCUMENTS), list(drawn(draw, DOCUMENTS))
        text = TEXTS[number % len(TEXTS)]
        if text == "own":
            groups, pair = with_twins(draw, *pair)
        for name, sums in zip("ab", pair, strict=True):
            runs.append(Run(f"{name}{number // len(TEXTS)}", sums, groups, text=text))
    add(store, *runs)
    held = dict.fromkeys(METRICS, 0)
    query = "SELECT metric, ci_low, ci_high FROM differences($1, [$2], metrics := $3)"
    metrics = [metric + of for metric in METRICS for of in ("", " on x", " on y", " on z")]
    for number in range(CORPORA // len(TEXTS)):
        for row in asked(store, query, f"a{number}", f"b{number}", metrics):
            metric = row["metric"].split()[0]
            held[metric] += row["ci_low"] <= truth[metric] <= row["ci_high"]
    shares = {metric: count / CORPORA for metric, count in held.items()}
    assert 0.93 <= np.mean(list(shares.values())) <= 0.97, shares
    assert all(0.9 <= share <= 0.99 for share in shares.values()), shares  # 3 binomial errors


def test_equal_runs_differ_by_nothing(store: duckdb.DuckDBPyConnection) -> None:
    sums, _ = drawn(np.random.default_rng(0), 50)
    add(store, Run("a", sums), Run("b", sums))
    for other in ("a", "b"):
        rows = asked(store, "FROM compare_runs('a', ?)", other)
        assert {row["metric"] for row in rows} >= set(METRICS)
        for row in rows:
            assert (row["difference"], row["ci_low"], row["ci_high"]) == (0, 0, 0), row
            assert (row["paired"], row["p_corrected"]) == (True, 1)


def test_intervals_are_those_of_groups(store: duckdb.DuckDBPyConnection) -> None:
    draw = np.random.default_rng(1)
    groups, (base, other) = with_twins(draw, *drawn(draw, 90, judged=20))
    add(store, Run("a", base, groups), Run("b", other, groups))
    [row] = asked(store, "FROM differences('a', ['b'], metrics := ['kl'])")
    known = np.isfinite(base["predictions"])
    parts = []
    for sums in (base, other):
        kl, predictions = sums["kl"][known], sums["predictions"][known]
        ratio = kl.sum() / predictions.sum()
        parts.append(ratio + (kl - ratio * predictions) / predictions.mean())
    delta = parts[1] - parts[0]
    spread = np.bincount(groups[known], delta - delta.mean())[np.unique(groups[known])]
    count = len(spread)
    error = np.sqrt((spread**2).sum() * count / (count - 1)) / len(delta)
    assert count < len(delta) == row["n"]
    assert row["difference"] == pytest.approx(ratios(other)["kl"] - ratios(base)["kl"])
    half = stats.t.ppf(0.975, count - 1) * error
    assert row["difference"] - row["ci_low"] == pytest.approx(half, rel=1e-3)
    assert row["ci_high"] - row["difference"] == pytest.approx(half, rel=1e-3)
    p = 2 * stats.t.sf(abs(row["difference"]) / error, count - 1)
    assert row["p_corrected"] == pytest.approx(p, rel=1e-2)


def test_holms_correction_is_over_the_rows_asked(store: duckdb.DuckDBPyConnection) -> None:
    base, other = drawn(np.random.default_rng(2), 200)
    add(store, Run("a", base), Run("b", other))
    alone = {
        metric: asked(store, "FROM differences('a', ['b'], metrics := [?])", metric)[0]
        for metric in METRICS
    }
    ordered = sorted(METRICS, key=lambda metric: alone[metric]["p_corrected"])
    held, expected = 0.0, {}
    for place, metric in enumerate(ordered):
        held = max(held, min(1.0, (len(METRICS) - place) * alone[metric]["p_corrected"]))
        expected[metric] = held
    together = asked(store, "FROM differences('a', ['b'], metrics := ?)", list(METRICS))
    assert {row["metric"]: row["p_corrected"] for row in together} == pytest.approx(expected)
    for metric, row in alone.items():  # an interval and its own p say the same
        assert (row["p_corrected"] < 0.05) == (row["ci_low"] * row["ci_high"] > 0), metric


def test_what_cannot_be_paired_says_so(store: duckdb.DuckDBPyConnection) -> None:
    base, other = drawn(np.random.default_rng(3), 60)
    late = {name: np.where(np.arange(60) < 48, np.nan, values) for name, values in other.items()}
    late["predictions"] = np.where(np.arange(60) < 48, np.nan, other["tokens"] - 1)
    late |= dict.fromkeys(("clean", "spliced", "kl", "top1"), late["predictions"] * 3)
    add(store, Run("a", base), Run("b", other), Run("else", other, corpus="another"),
        Run("late", late))  # fmt: skip
    store.execute(
        "INSERT INTO cluster_metrics BY NAME "
        "SELECT run_id, 'latents' AS representation, 'value' AS kind, 'nmi' AS metric, "
        "length(run_id) / 10 AS value FROM runs"
    )
    paired = {row["metric"]: row for row in asked(store, "FROM compare_runs('a', 'b')")}
    assert {m for m, row in paired.items() if not row["paired"]} == {"nmi"}
    unpaired = asked(store, "FROM compare_runs('a', 'else')")
    assert {row["metric"] for row in unpaired} == set(paired)
    unpaired.append(paired["nmi"])
    later = {row["metric"]: row for row in asked(store, "FROM compare_runs('a', 'late')")}
    unpaired.append(later["kl"])  # no document whose losses both judged
    assert (later["fvu"]["paired"], later["fvu"]["n"]) == (True, 12)
    for row in unpaired:
        assert row["difference"] == row["value_b"] - row["value_a"]
        assert row["paired"] is False
        assert {row[column] for column in ("ci_low", "ci_high", "n", "p_corrected")} == {None}


def test_accuracies_are_paired_by_document(store: duckdb.DuckDBPyConnection) -> None:
    draw = np.random.default_rng(5)
    sums, _ = drawn(draw, 100)
    add(store, Run("a", sums), Run("b", sums))
    right = {"a": draw.random(100) < 0.8, "b": draw.random(100) < 0.9}
    for name, hits in right.items():
        for target, score in (("x", hits.astype(float)), ("y", np.full(100, 0.5))):
            store.register("made", pa.table({"doc_id": np.arange(100), "score": score}))
            store.execute(
                "INSERT INTO probe_scores BY NAME SELECT ? AS run_id, 'desk' AS task, "
                "'latents' AS representation, 5 AS k, ? AS target, "
                "(target = 'x')::DOUBLE AS truth, made.* FROM made",
                [name, target],
            )
        store.execute(
            "INSERT INTO probes BY NAME SELECT ? AS run_id, 'desk' AS task, 'accuracy' AS metric, "
            "'latents' AS representation, 5 AS k, ? AS value",
            [name, hits.mean()],
        )
    store.execute("UPDATE runs SET label_column = 'desk'")
    metric = "accuracy of latents, k = 5"
    [row] = asked(store, "FROM differences('a', ['b'], metrics := [?])", metric)
    delta = right["b"].astype(float) - right["a"]
    assert (row["stage"], row["n"], row["paired"]) == ("probe", 100, True)
    assert row["difference"] == pytest.approx(delta.mean())
    half = stats.t.ppf(0.975, 99) * delta.std(ddof=1) / 10
    assert row["ci_high"] - row["difference"] == pytest.approx(half, rel=1e-3)


def test_other_texts_are_paired_where_both_read_the_same(store: duckdb.DuckDBPyConnection) -> None:
    base, other = drawn(np.random.default_rng(4), 60)
    fewer = {name: values[:50] for name, values in other.items()}
    add(store, Run("a", base, text="notes"), Run("b", other, text="notes"),
        Run("fewer", fewer, text="notes"))  # fmt: skip
    asked_for = "SELECT n, paired FROM differences('a', [?], metrics := ['fvu on notes'])"
    assert asked(store, asked_for, "b") == [{"n": 60, "paired": True}]
    assert asked(store, asked_for, "fewer") == [{"n": None, "paired": False}]


@pytest.mark.parametrize("freedom", [3, 10, 47, 444, 50_000])
def test_students_distribution(store: duckdb.DuckDBPyConnection, freedom: int) -> None:
    [(ratio,)] = store.execute("SELECT student_ratio(?)", [freedom]).fetchall()
    assert ratio == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.02 if freedom < 10 else 1e-3)
    [(p,)] = store.execute("SELECT student_p(?, ?)", [ratio, freedom]).fetchall()
    assert p == pytest.approx(0.05, rel=1e-6)
    if freedom > 100:
        for ratio in (0.0, 0.7, -3.0, 6.0):
            [(p,)] = store.execute("SELECT student_p(?, ?)", [ratio, freedom]).fetchall()
            assert p == pytest.approx(2 * stats.t.sf(abs(ratio), freedom), rel=1e-3)


def test_runs_of_schema_5_have_the_headlines_that_are_known_of_them(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with duckdb.connect(tmp_path / FILE) as old:
        old.execute(TO_VERSION_5)
        assert "loss_recovered" in {row[0] for row in old.execute("DESCRIBE runs").fetchall()}
    with open_store(tmp_path) as store:
        [run] = asked(store, "FROM runs")
        assert (run["loss_recovered_bos_kept"], run["delta_loss"], run["kl"]) == (0.95, 0.4, 0.5)
        assert (run["fvu_typical"], run["top1_agreement"], run["silent_share"]) == (None,) * 3
        rows = asked(store, "FROM compare_runs('demo', 'demo')")
        kinds = {row["paired"] for row in rows if row["stage"] == "evaluation"}
        assert kinds == {False}  # without sums of documents
        assert {row["difference"] for row in rows} == {0}
