"""Every figure of a small published run: its numbers are the store's, its words are there, its
colours have shapes, and what people bring stays text."""

from __future__ import annotations

import csv
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.hostile import HOSTILE
from support.shown_store import NAMES, NIGHTS, emptied, published, shown

from deconstruct.common.errors import StorageError
from deconstruct.report import chart as charts
from deconstruct.report import figures, save_all
from deconstruct.report.chart import Chart, Missing, Told, finished, told, values
from deconstruct.report.drawing import OTHERS, grouped, names_for
from deconstruct.report.theme import COLOURS, SHAPES
from deconstruct.store.query import QueryError

OF_LATENT = (figures.activations, figures.lift, figures.latent_positions)
LATENT = 7
Store = duckdb.DuckDBPyConnection


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("shown")
    published(home, NAMES)
    return home


@pytest.fixture(scope="module")
def store(home: Path) -> Iterator[Store]:
    with shown(home) as store:
        yield store


@pytest.fixture(scope="module")
def drawn(store: Store) -> dict[str, Chart]:
    """All figures of the newest run, by their functions' names."""
    made: dict[str, Chart] = {one.__name__: one(store, "latest") for one in figures.ALL}
    made |= {one.__name__: one(store, "latest", LATENT) for one in OF_LATENT}
    others = [run for (run,) in store.execute("SELECT run_id FROM runs").fetchall()]
    first = next(run for run in others if run != resolved(store))
    return made | {"comparison": figures.comparison(store, "latest", first)}


def resolved(store: Store) -> str:
    [[run_id]] = store.execute("SELECT resolve_run('latest')").fetchall()
    return str(run_id)


def rows(chart: Chart) -> list[dict[str, Any]]:
    names, found = charts.table(chart)
    return [dict(zip(names, row, strict=True)) for row in found]


def asked(store: Store, sql: str) -> list[tuple[Any, ...]]:
    return store.execute(sql.replace("RUN", "resolve_run('latest')")).fetchall()


def test_all_figures_are_here(drawn: dict[str, Chart]) -> None:
    assert set(drawn) == set(figures.__all__) - {"ALL", "Figure"}
    assert len({told(chart).name for chart in drawn.values()}) == len(drawn)


def test_each_has_its_words_and_one_dataset(drawn: dict[str, Chart]) -> None:
    for name, chart in drawn.items():
        words = told(chart)
        assert 10 < len(words.title) < 80, name
        assert "not " in words.caption or "no " in words.caption, f"{name}: what it does not show"
        assert any(sign.isdigit() for sign in words.description), f"{name}: numbers, for who hears"
        names, found = charts.table(chart)
        assert found
        assert all(name.isascii() for name in names)
        assert '"values"' in json.dumps(charts.spec_of(chart)["data"]), name
        assert json.dumps(charts.spec_of(chart)).count('"values": [{') == 1, name


def test_each_is_a_drawing_that_runs_nothing_and_is_small(drawn: dict[str, Chart]) -> None:
    for name, chart in drawn.items():
        svg = charts.svg(chart)
        elements = list(ET.fromstring(svg).iter())
        tags = {element.tag.rpartition("}")[2] for element in elements}
        assert tags <= {"svg", "g", "path", "line", "rect", "text", "defs", "clipPath"}, name
        attributes = {key for element in elements for key in element.attrib}
        assert not [key for key in attributes if key.startswith("on") or "href" in key], name
        assert max(len(svg), len(json.dumps(charts.spec_of(chart)))) < 300_000, name
        assert int(elements[0].attrib["width"]) < 620, name


def test_what_is_told_apart_by_colour_is_so_by_shape(drawn: dict[str, Chart]) -> None:
    by_text = {"density", "label_mix"}  # bars, whose parts have their names or numbers
    seen = 0
    for name, chart in drawn.items():
        for part in encodings(charts.spec_of(chart)):
            field = part.get("color", {}).get("field")
            if field and "shape" in part:
                seen += 1
                assert part["shape"]["field"] == field, name
                domain = part["shape"]["scale"]["domain"]
                assert domain == part["color"]["scale"]["domain"], name
                assert len(set(part["shape"]["scale"]["range"])) == len(domain), name
    assert seen > 10
    for name in by_text:
        assert "written" in rows(drawn[name])[0] or "kind" in rows(drawn[name])[0]


def encodings(spec: Any) -> Iterator[dict[str, Any]]:
    if isinstance(spec, dict):
        if "encoding" in spec:
            yield spec["encoding"]
        for value in spec.values():
            yield from encodings(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from encodings(value)


def test_colours_are_few_and_of_the_theme() -> None:
    assert len(set(COLOURS)) == len(set(SHAPES)) == 8
    assert not {"stroke", "wedge", "arrow"} & set(SHAPES), "these are lines: filled, nothing shows"


def test_labels_that_mean_harm_stay_text(drawn: dict[str, Chart]) -> None:
    axis = "".join(ET.fromstring(charts.svg(drawn["confusion"])).itertext())
    assert "<script>alert(" in axis
    assert "]]> &amp; \\u202e" in axis
    for name in ("document_map", "label_mix", "confusion"):
        svg = charts.svg(drawn[name])
        assert "<script" not in svg, name
        assert "\u202e" not in svg, name
        text = "".join(ET.fromstring(svg).itertext())
        assert "<script>" in text, f"{name}: shown, as text"
    assert "<b>" in "".join(ET.fromstring(charts.svg(drawn["massive_tokens"])).itertext())


def test_harm_in_titles_fields_and_expressions_stays_text(store: Store) -> None:
    import altair as alt

    from deconstruct.report.theme import coloured

    texts = [*HOSTILE.values(), "</style>", "]]>", "'\"\\", "datum.x", "a'] || alert(1) || ['"]
    called = names_for(texts)
    assert len(set(called.values())) == len(texts)
    found = [{"name": called[text], "value": i} for i, text in enumerate(texts)]
    colour, shape = coloured("name", list(called.values()))
    y = alt.Y("name:N", sort=list(called.values()), axis=alt.Axis(labelLimit=0))
    chart = (
        alt.Chart(values(found)).mark_point().encode(x="value:Q", y=y, color=colour, shape=shape)
    )
    for text in (HOSTILE["html"], HOSTILE["isolate"], HOSTILE["placeholder"], "</style>", "]]>"):
        title = names_for([text])[text]
        drawing = ET.fromstring(charts.svg(finished(chart, Told("x", title, text, text))))
        shown = {element.text for element in drawing.iter() if element.tag.endswith("text")}
        assert title in shown
    assert {one.strip() for one in called.values()} <= {one.strip() for one in shown if one}


def test_more_labels_than_colours_are_one_group() -> None:
    given = [name for i, name in enumerate("abcdefghijkl") for _ in range(20 - i)]
    called = grouped(given, 8)
    assert list(called.values()) == [*"abcdefg", *[OTHERS] * 5]
    assert grouped(["a", None], 8) == {"a": "a", None: "(no label)"}
    assert list(names_for(["x" * 90, "x" * 80]).values()) == ["x" * 39 + "…", "x" * 39 + "… (2)"]


def test_numbers_of_the_dictionary(store: Store, drawn: dict[str, Chart]) -> None:
    [[n]] = asked(store, "SELECT sum(latents) FROM density_histogram WHERE run_id = RUN")
    assert sum(row["latents"] for row in rows(drawn["density"])) == n
    [[dead]] = asked(store, "SELECT count(*) FROM features WHERE run_id = RUN AND dead")
    assert f"{dead} are dead" in told(drawn["density"]).description
    found = rows(drawn["strength"])
    [[living, top, most]] = asked(
        store,
        "SELECT count(*), arg_max(latent, max_activation), max(max_activation) FROM features "
        "WHERE run_id = RUN AND NOT dead",
    )
    assert sum(row["latents"] for row in found) == living
    best = max(found, key=lambda row: row["its activation"])
    assert best["strongest latent"] == top
    assert best["named"] == str(top)
    assert math.isclose(best["its activation"], most, rel_tol=1e-3)
    assert [(row["from"], row["latents"]) for row in rows(drawn["nearest"])] == [(0.1, living)]
    massive = {row["what"]: row["share"] for row in rows(drawn["massive_tokens"])}
    assert massive == {"of all tokens": 0.01, "of the variance": 0.5}
    strong = {
        (r["latent"], r["where"]): r["mean activation"] for r in rows(drawn["massive_latents"])
    }
    assert strong["7  on <b>", "on massive tokens"] == 2.5
    assert strong["7  on <b>", "elsewhere"] is None


def test_numbers_of_fidelity(store: Store, drawn: dict[str, Chart]) -> None:
    own = {r["measure"]: r for r in rows(drawn["fidelity"]) if r["whose"] == "this run"}
    [[value, low, high]] = asked(
        store,
        "SELECT value, ci_low, ci_high FROM sae_metrics WHERE run_id = RUN AND text = 'own' "
        "AND metric = 'fvu_typical'",
    )
    typical = own["unexplained variance, typical tokens"]
    assert [typical[name] for name in ("value", "low", "high")] == [value, low, high]
    assert len({row["whose"] for row in rows(drawn["fidelity"])}) > 1
    assert {row["in place of the activations"]: row["loss"] for row in rows(drawn["losses"])} == {
        "the model as it is": 3.0,
        "through the SAE": 3.5,
        "the token's mean in place": 4.75,
        "shares of tokens alone": 7.25,
    }
    [[median]] = asked(
        store,
        "SELECT quantile_cont(squared_error / squared_norm, 0.5) FROM token_errors AS e "
        "JOIN tokens AS t USING (run_id, token_index) WHERE run_id = RUN AND position = 4",
    )
    [row] = [row for row in rows(drawn["positions"]) if row["position"] == 4]
    assert math.isclose(row["median"], median, rel_tol=1e-3)


def test_numbers_of_labels(store: Store, drawn: dict[str, Chart]) -> None:
    found = rows(drawn["probe_curve"])
    assert {(r["probe on"], r["k"]): r["value"] for r in found} == {
        ("latents", "all"): 0.95, ("latents", "5"): 0.9, ("activations", "all"): 0.96,
    }  # fmt: skip
    assert found[0]["low"] == pytest.approx(found[0]["value"] - 0.02)
    whole = [r for r in rows(drawn["representations"]) if r["reads"] == "all dimensions"]
    assert {r["probe on"]: r["value"] for r in whole} == {
        "latents": 0.95, "activations": 0.96, "the commonest label": 0.5,
    }  # fmt: skip
    learned = {
        (r["probe on"], r["documents of each label"]): r["value"]
        for r in rows(drawn["learning_curve"])
    }
    assert learned["latents", 2] == 0.6
    assert learned["activations", 5] == 0.9
    counted = asked(
        store,
        "SELECT label, predicted, count(*) FROM probe_predictions WHERE run_id = RUN "
        "AND representation = 'latents' AND k IS NULL GROUP BY ALL",
    )
    called = names_for(sorted({label for label, _, _ in counted}))
    cells = {(r["label"], r["predicted"]): r["documents"] for r in rows(drawn["confusion"])}
    assert {key: n for key, n in cells.items() if n} == {
        (called[a], called[b]): n for a, b, n in counted
    }
    assert len(cells) == 9


def test_numbers_of_clusters_and_maps(store: Store, drawn: dict[str, Chart]) -> None:
    sizes: dict[str, int] = {}
    for row in rows(drawn["label_mix"]):
        sizes[row["cluster"][0]] = sizes.get(row["cluster"][0], 0) + row["documents"]
    assert sizes == {
        str(cluster): n
        for cluster, n in asked(
            store, "SELECT cluster, size FROM cluster_summary WHERE run_id = RUN"
        )
    }
    [curve] = rows(drawn["stability"])
    assert (curve["clusters"], curve["stability"], curve["low"]) == (3, 0.9, 0.8608)
    assert sum(row["documents"] for row in rows(drawn["support"])) == 30
    places = [row for row in rows(drawn["document_map"]) if row["document"] is not None]
    labels = dict(asked(store, "SELECT doc_id, label FROM documents WHERE run_id = RUN"))
    called = names_for(labels.values())
    assert {row["document"]: row["label"] for row in places} == {
        doc: called[label] for doc, label in labels.items()
    }
    assert [row["cluster"] for row in rows(drawn["document_map"]) if row["document"] is None]
    holding = [row for row in rows(drawn["pooled_map"]) if row["massive tokens"]]
    assert len(holding) == 20
    assert {row["holds"] for row in holding} == {"one massive token or more"}
    told_apart = {row["latent"]: row["label"] for row in rows(drawn["latent_map"])}
    assert told_apart[7] == called[labels[2]]
    assert told_apart[4] == "tells none of them best"


def test_numbers_of_a_latent(store: Store, drawn: dict[str, Chart]) -> None:
    [[fires, most]] = asked(
        store, "SELECT n_fires, max_activation FROM features WHERE run_id = RUN AND latent = 7"
    )
    found = rows(drawn["activations"])
    assert sum(row["tokens"] for row in found) == fires
    assert found[-1]["to"] == pytest.approx(most, rel=1e-3)
    assert [r["tokens"] for r in rows(figures.activations(store, "latest", 4))] == [
        n for (n,) in asked(store, "SELECT n FROM latent_histogram WHERE run_id = RUN")
    ]
    assert sum(row["fires"] for row in rows(drawn["latent_positions"])) == fires
    [[lift, low]] = asked(
        store,
        "SELECT lift, ci_low FROM label_enrichment('latest') WHERE latent = 7 "
        "ORDER BY low_train DESC NULLS LAST, label LIMIT 1",
    )
    best = rows(drawn["lift"])[0]
    assert best["lift"] == pytest.approx(lift, rel=1e-2)
    assert best["low"] == pytest.approx(low, rel=1e-2)
    with pytest.raises(QueryError, match="has no latent 99"):
        figures.activations(store, "latest", 99)
    with pytest.raises(Missing, match="never fires"):
        figures.activations(store, "latest", 23)


def test_numbers_of_many_runs(store: Store, drawn: dict[str, Chart]) -> None:
    nights = [r for r in rows(drawn["trend"]) if r["measure"] == "FVU of typical tokens"]
    assert [(r["execution"], r["value"]) for r in nights] == [(1, 0.3), (2, 0.31), (3, 0.32)]
    assert len(rows(drawn["trend"])) == 5 * NIGHTS
    typical = [r for r in rows(drawn["sweep"]) if r["measure"] == "FVU of typical tokens"]
    front = asked(store, "SELECT run_id FROM pareto('nightly') WHERE on_front")
    assert [(r["run"],) for r in typical if r["on the front"]] == front
    assert len({r["run"] for r in typical}) == NIGHTS
    with pytest.raises(QueryError, match="goes by no name 'x'"):
        figures.trend(store, "latest", "x")
    change = {r["measure"]: r for r in rows(drawn["comparison"])}["loss added by the SAE"]
    [[difference, low]] = asked(
        store,
        f"SELECT difference, ci_low FROM differences('latest', ['{change['run']}'], "
        "metrics := ['delta_loss'])",
    )
    assert change["difference"] == pytest.approx(difference, rel=1e-3)
    assert change["low"] == pytest.approx(100 * low / change["value"], rel=1e-3)
    assert {r["run"] for r in rows(drawn["controls"])} == {"seed 1"}
    assert [r["latents"] for r in rows(drawn["matches"])] == [1] * 10
    assert "3 of 10 pairs" in told(drawn["matches"]).description


def test_numbers_of_drift_and_scores(store: Store, drawn: dict[str, Chart]) -> None:
    found = {row["of"]: row for row in rows(drawn["drift"])}
    assert found["reconstruction"]["low"] == 0.05
    assert found["label share"]["difference"] == -0.3
    assert found["label share"]["low"] is None
    pairs = rows(drawn["drifted_latents"])
    [[before]] = asked(
        store, "SELECT reference_density FROM latent_drift WHERE run_id = RUN AND latent = 0"
    )
    assert pairs[0]["share of tokens"] == pytest.approx(before, rel=1e-2)
    assert {row["times"] for row in pairs} == {0.5}
    assert [(r["score"], r["latents"], r["guessing"]) for r in rows(drawn["intruders"])] == [
        ("intruders found, by words alone", 1, 0.2)
    ]
    assert [row["value"] for row in rows(drawn["training"])] == [0.5, 0.3]


def test_a_run_that_has_nothing_says_so(home: Path) -> None:
    with emptied(home) as store:
        run_id = resolved(store)
        for make in figures.ALL:
            if make in (figures.trend,):  # documents are counted in the run itself
                continue
            with pytest.raises(Missing, match=run_id) as caught:
                make(store, run_id)
            assert "\n" not in str(caught.value)


def test_files_are_what_they_are_called(store: Store, tmp_path: Path) -> None:
    saved = save_all(store, "latest", tmp_path / "new" / "folder", ["svg", "csv"])
    assert len(saved) == len(figures.ALL)
    assert not [one for one in saved if one.missing]
    assert {file.name for one in saved for file in one.files} == {
        f"{one.name}.{ending}" for one in saved for ending in ("svg", "csv")
    }
    charts.save(figures.confusion(store, "latest"), tmp_path)
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "confusion.pdf").read_bytes().startswith(b"%PDF")
    with (tmp_path / "confusion.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert next(cell for cell in cells if "cmd" in cell).startswith("'=")
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]


def test_what_cannot_be_saved_is_said_first(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be written"):
        save_all(store, "latest", tmp_path / "file" / "below", ["csv"])
    with pytest.raises(QueryError, match="ending 'gif' is none of svg, png, pdf, csv"):
        save_all(store, "latest", tmp_path / "other", ["gif"])
    assert not (tmp_path / "other").exists()
