"""Runs of one SAE on several corpora, in the store."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from support.old_stores import TO_VERSION_4
from support.store_artifacts import Planted, plant

from deconstruct.config import TRAINING, AnalysisConfig
from deconstruct.store import (
    QueryError,
    garbage,
    open_store,
    pages,
    publish,
    records,
    remove_runs,
    resolve_run,
)
from deconstruct.store.migrate import BEFORE
from deconstruct.store.render import Listing
from deconstruct.store.rewrite import FILE

REVIEWS = AnalysisConfig(name="reviews", source="reviews.csv")
NEWS = AnalysisConfig(name="news", source="news.csv")


def of_one_sae(home: Path) -> tuple[dict[str, str], dict[str, Planted]]:
    """One SAE on its own corpus and on two others: run_ids and what was planted, by analysis."""
    planted = {
        TRAINING: plant(home),
        "reviews": plant(home, seed=1, corpus_seed=1, names=("good", "bad", "so-so")),
        "news": plant(home, seed=2, corpus_seed=2),
    }
    run_ids = {}
    for name, own in planted.items():
        own.artifacts["sae"] = planted[TRAINING].artifacts["sae"]
        config = own.record.config.model_copy(update={"analysis": (REVIEWS, NEWS)})
        seen = None if name == TRAINING else 3
        record = own.record.model_copy(update={"config": config, "analysis": name, "seen": seen})
        run_ids[name] = publish(home, record, own.artifacts)
    return run_ids, planted


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    home = tmp_path_factory.mktemp("analyses")
    return home, of_one_sae(home)[0]


def test_a_run_is_found_by_name_site_and_analysis(three: tuple[Path, dict[str, str]]) -> None:
    home, run_ids = three
    with open_store(home) as store:
        for name, run_id in run_ids.items():
            for called in (f"demo/{name}", f"demo@9.resid_post/{name}", run_id):
                assert resolve_run(store, called) == run_id
        assert resolve_run(store, "demo") == resolve_run(store, "latest") == run_ids["news"]
        with pytest.raises(QueryError, match=r"no run is called 'demo/imdb'; .*\(demo/news\)"):
            resolve_run(store, "demo/imdb")


def test_a_run_says_what_it_is_judged_and_was_trained_on(
    three: tuple[Path, dict[str, str]],
) -> None:
    home, run_ids = three
    with open_store(home) as store:
        rows = store.execute(
            "SELECT run_id, analysis, source, trained_on, seen_documents FROM runs ORDER BY 2"
        ).fetchall()
        assert rows == [
            (run_ids[TRAINING], TRAINING, "embedded:bbc-news", "embedded:bbc-news", 0),
            (run_ids["news"], "news", "news.csv", "embedded:bbc-news", 3),
            (run_ids["reviews"], "reviews", "reviews.csv", "embedded:bbc-news", 3),
        ]
        keys = store.execute("SELECT DISTINCT key FROM stages WHERE stage = 'sae'").fetchall()
        assert len(keys) == 1
        shown = {name: records.show(store, run_id)["run"] for name, run_id in run_ids.items()}
        assert shown["reviews"]["names"] == ["demo/reviews"]
        assert shown[TRAINING]["names"] == ["demo"]
        facts = {name: _facts(store, run_id) for name, run_id in run_ids.items()}
        assert facts["reviews"]["trained_on"] == "embedded:bbc-news"
        assert facts["reviews"]["held out, but seen in training"] == 3
        assert not {"trained_on", "held out, but seen in training"} & set(facts[TRAINING])


def _facts(store: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, object]:
    listing = pages.show(store, run_id)[0]
    assert isinstance(listing, Listing)
    return {str(name): fact for name, fact in listing.rows}


def test_probes_answer_by_corpus_and_label_in_one_query(
    three: tuple[Path, dict[str, str]],
) -> None:
    home, _ = three
    with open_store(home) as store:
        rows = store.execute(
            "SELECT r.analysis, p.label, p.value FROM probes AS p JOIN runs AS r USING (run_id) "
            "WHERE r.name = 'demo' AND p.metric = 'auroc' "
            "AND p.label IS NOT NULL ORDER BY ALL"
        ).fetchall()
    assert [row[:2] for row in rows] == [
        (TRAINING, "sp'ort; DROP TABLE runs"),
        ("news", "sp'ort; DROP TABLE runs"),
        ("reviews", "bad"),
    ]


def test_an_analysis_of_another_name_is_the_same_run(tmp_path: Path) -> None:
    run_ids, planted = of_one_sae(tmp_path)
    own = planted["reviews"]
    renamed = own.record.config.model_copy(
        update={"analysis": (REVIEWS.model_copy(update={"name": "opinions"}),)}
    )
    record = own.record.model_copy(update={"config": renamed, "analysis": "opinions"})
    assert publish(tmp_path, record, own.artifacts) == run_ids["reviews"]
    with open_store(tmp_path) as store:
        assert resolve_run(store, "demo/opinions") == resolve_run(store, "demo/reviews")
    with pytest.raises(QueryError, match="'demo/opinions' too"):
        remove_runs(tmp_path, ["demo/reviews"])
    assert remove_runs(tmp_path, ["demo/news"]) == [run_ids["news"]]
    with open_store(tmp_path) as store:
        assert resolve_run(store, "demo/corpus") == run_ids[TRAINING]
    gone = {thing.path for thing in garbage(tmp_path, unused_hours=0)}
    own_alone = {a.path for stage, a in planted["news"].artifacts.items() if stage != "sae"}
    assert own_alone <= gone
    assert planted["news"].artifacts["sae"].path not in gone  # that of the others, too


def test_fronts_of_a_sweep_are_of_one_corpus_each(three: tuple[Path, dict[str, str]]) -> None:
    home, run_ids = three
    with open_store(home) as store:
        rows = store.execute("SELECT analysis, run_id, on_front FROM pareto('demo')").fetchall()
        assert sorted(rows) == sorted((name, run_id, True) for name, run_id in run_ids.items())
        changes = store.execute(
            "SELECT fvu_typical_change FROM metrics_over_time() ORDER BY analysis"
        ).fetchall()
    assert changes == [(None,)] * 3


AS_SCHEMA_4 = f"""
{TO_VERSION_4}
{
    "".join(
        f"ALTER TABLE runs DROP COLUMN {name};"
        for name in ("analysis", "trained_on", "seen_documents")
    )
}
{
    "".join(
        f"ALTER TABLE executions DROP COLUMN {name};"
        for name in ("analysis", "training_corpus", "stands")
    )
}
CREATE TABLE n (run_id VARCHAR, name VARCHAR, first_execution UBIGINT, last_execution UBIGINT,
    PRIMARY KEY (name, run_id));
INSERT INTO n BY NAME SELECT * EXCLUDE analysis FROM names; DROP TABLE names;
ALTER TABLE n RENAME TO names;
"""
"""SQL that takes a store back to what that schema had, without corpora of analyses."""


def test_a_store_of_schema_4_tells_of_runs_on_the_training_corpus(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    run_id = publish(tmp_path, planted.record, planted.artifacts)
    with duckdb.connect(tmp_path / FILE) as store:
        store.execute(AS_SCHEMA_4)
    assert 5 in BEFORE
    with open_store(tmp_path) as store:  # a copy, brought up to date
        assert resolve_run(store, "demo/corpus") == resolve_run(store, "demo") == run_id
        row = store.execute("SELECT analysis, trained_on, seen_documents FROM runs").fetchall()
        assert row == [(TRAINING, "embedded:bbc-news", 0)]
    later = plant(tmp_path, "later", seed=1)
    publish(tmp_path, later.record, later.artifacts)
    with duckdb.connect(tmp_path / FILE, read_only=True) as store:
        assert store.execute(
            "SELECT name, analysis FROM names ORDER BY last_execution"
        ).fetchall() == [("demo", TRAINING), ("later", TRAINING)]
        assert store.execute(
            "SELECT count(DISTINCT training_corpus), count(training_corpus) FROM executions"
        ).fetchall() == [(1, 2)]
        tables = {row[0] for row in store.execute("SHOW TABLES").fetchall()}
        assert not any(table.startswith("names_of") for table in tables)
