"""Sources of many files, packed files, JSON arrays, plain text; what is bad in a sentence."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from deconstruct.common.errors import ConfigError, DataError, DeconstructError
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus.textfiles import Row
from deconstruct.suggest.sample import draw

ROWS = [{"text": f"text {n}, é", "label": "ab"[n % 2]} for n in range(9)]
WANTED = [Row(row["text"], row["label"]) for row in ROWS]


def zst(raw: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return bytes(sink.getvalue())


def csv_of(rows: list[dict[str, str]]) -> bytes:
    return ("text,label\n" + "".join(f'"{r["text"]}",{r["label"]}\n' for r in rows)).encode()


def jsonl_of(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def json_of(rows: list[dict[str, str]]) -> bytes:
    return json.dumps(rows, indent=1, ensure_ascii=False).encode()


def parquet_of(rows: list[dict[str, str]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


FORMS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "csv": csv_of,
    "jsonl": jsonl_of,
    "json": json_of,
    "csv.gz": lambda rows: gzip.compress(csv_of(rows)),
    "csv.zst": lambda rows: zst(csv_of(rows)),
    "jsonl.gz": lambda rows: gzip.compress(jsonl_of(rows[:4])) + gzip.compress(jsonl_of(rows[4:])),
    "ndjson.zst": lambda rows: zst(jsonl_of(rows[:4])) + zst(jsonl_of(rows[4:])),
    "json.gz": lambda rows: gzip.compress(json_of(rows)),
    "JSON": jsonl_of,
    "parquet": parquet_of,
}


def config(source: Any, **fields: Any) -> CorpusConfig:
    made = {"source": [str(s) for s in source] if isinstance(source, list) else str(source)}
    return CorpusConfig.model_validate(made | fields)


def read(source: Any, **fields: Any) -> list[Row]:
    settings = config(source, **fields)
    count, rows = sources.read(sources.resolve(settings), settings)
    found = list(rows)
    assert len(found) == count or settings.limit_from == "beginning"
    return found


def digest(source: Any, **fields: Any) -> str:
    return sources.resolve(config(source, **fields)).digest


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_each_form(tmp_path: Path, form: str) -> None:
    file = tmp_path / f"texts.{form}"
    file.write_bytes(FORMS[form](ROWS))
    assert read(file) == WANTED
    assert read(file, limit=3, limit_from="beginning") == WANTED[:3]
    assert draw(config(file)).documents == 9


@pytest.mark.parametrize("form", FORMS)
def test_shards_in_a_list_a_pattern_and_a_folder(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "shards" / "deep"
    folder.mkdir(parents=True)
    parts = [ROWS[:2], ROWS[2:7], ROWS[7:]]
    files = [folder / f"part-{n}.{form}" for n in range(3)]
    for file, rows in zip(files, parts, strict=True):
        file.write_bytes(FORMS[form](rows))
    (folder / "README.md").write_text("about it")
    (folder / ".hidden.csv").write_text("text,label\nno,no\n")
    named: list[Any] = [files, [folder], folder.parent, folder / f"*.{form}"]
    named += [folder.parent / "**" / "part*", [files[0], folder / "part-[12]*"]]
    if form == "parquet":
        (folder / "dataset_info.json").write_text('{"about": "it"}')
    assert [read(one) for one in named] == [WANTED] * len(named)
    assert len({digest(one) for one in named}) == 1
    assert read(folder, limit=4, limit_from="beginning") == WANTED[:4]
    assert read(folder, limit=3) == [WANTED[n] for n in (2, 5, 8)]
    assert 4 <= draw(config(folder)).documents <= 40  # by bytes, of which a small file has many

    moved = shutil.copytree(folder.parent, tmp_path / "moved")
    assert digest(moved) == digest(folder)
    assert digest(files[::-1]) != digest(files)
    assert read(files[::-1]) == WANTED[7:] + WANTED[2:7] + WANTED[:2]
    assert digest([*files, files[0]]) == digest(files)


def test_what_was_a_source_keeps_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_bytes(csv_of(ROWS))
    found = sources.resolve(config(file))
    assert (found.kind, found.path, found.files) == ("csv", file, ())
    bracketed = tmp_path / "texts[1].csv"
    bracketed.write_bytes(csv_of(ROWS))
    assert sources.resolve(config(bracketed)).digest == found.digest


def test_a_text_file_is_one_document_or_one_per_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\n two \n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("drei é\n".encode()))
    files = [tmp_path / "a.txt", tmp_path / "b.txt.gz"]
    fields = {"label_column": None}
    whole = ["one\r\n\r\n two \n", "drei é\n"]
    assert [row.text for row in read(files, **fields)] == whole
    lines = ["one", " two ", "drei é"]
    assert [row.text for row in read(files, txt_documents="line", **fields)] == lines
    assert [r.text for r in read(files[0], txt_documents="line", **fields)] == lines[:2]
    classes = tmp_path / "classes"
    for name in ("x", "y"):
        (classes / name).mkdir(parents=True)
        (classes / name / "1.txt").write_text(f"{name}1\n\n{name}2\n")
    found = [("x1", "x"), ("x2", "x"), ("y1", "y"), ("y2", "y")]
    assert read(classes, txt_documents="line") == [Row(*pair) for pair in found]
    assert read(classes) == [Row("x1\n\nx2\n", "x"), Row("y1\n\ny2\n", "y")]


def test_an_array_of_large_objects_is_read_over_many_chunks(tmp_path: Path) -> None:
    rows = [{"text": "word, [{}]\n" * n, "label": "x"} for n in (1, 20_000, 3, 40_000, 0)]
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf \n" + json_of(rows) + b" \n")
    assert read(file) == [Row(row["text"], "x") for row in rows]
    file.write_text("[]")
    with pytest.raises(DataError, match="no such column"):
        read(file)


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        (
            "a.json",
            b'[{"text": "a"} {"text": "b"}]',
            r"a.json, object 2: not JSON \(there is no co",
        ),
        ("a.json", b'[{"text": "a"}, 3]', "object 2: not JSON .*it is 3, no object"),
        ("a.json", b'[{"text": "a"}', "object 2: not JSON"),
        ("a.json", b'[{"text": "a"}] x', "object 1: not JSON .*more follows"),
        ("a.json", b'[{"text": "a"}, {"text": tru}]', "object 2: not JSON"),
        ("a.json", b'[{"text": "a"}, {"text": ["b"]}]', r"object 2: corpus.text_column 'text'"),
        ("a.json", b'[{"text": "\xff"}]', "is not UTF-8"),
        ("a.json", b'{"text": "a"}\n{"text": 1}', "line 2: corpus.text_column"),
        ("a.csv.gz", b"text\nno gzip at all", r"a.csv.gz does not unpack as .gz \("),
        (
            "a.csv.gz",
            gzip.compress(b"text\n" + b"abc\n" * 99, mtime=0)[:-9],
            "does not unpack as .gz",
        ),
        ("a.csv.zst", b"text\nno zstd at all", r"a.csv.zst does not unpack as .zst \("),
        ("a.jsonl.zst", zst(b'{"text": "a"}\n' * 99)[:-3], "does not unpack as .zst"),
        ("a.parquet.gz", b"", "is of no form that we read"),
        ("a.gz", b"", "is of no form that we read"),
        ("a.csv.gz", gzip.compress(b"text\n\xff\xff\n", mtime=0), "is not UTF-8"),
    ],
)
def test_bad_files_in_a_sentence(tmp_path: Path, name: str, raw: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DeconstructError, match=said) as raised:
        read(tmp_path / name, label_column=None)
    assert "\n" not in str(raised.value)


def test_bad_lists_patterns_and_folders(tmp_path: Path) -> None:
    csv = tmp_path / "a.csv"
    csv.write_bytes(csv_of(ROWS))
    with pytest.raises(ConfigError, match=r"'.*/b-\*.csv': no file is called so"):
        read(tmp_path / "b-*.csv")
    with pytest.raises(ConfigError, match=r"'.*/gone.csv': there is no"):
        read([csv, tmp_path / "gone.csv"])
    (tmp_path / "b.md").write_text("b")
    with pytest.raises(ConfigError, match=r"b.md' is of no form that we read"):
        read([csv, tmp_path / "b.md"])
    for bad in (["hub:a/b", str(csv)], [" "], []):
        with pytest.raises(ValidationError, match=r"by itself|empty list"):
            config(bad)
    with pytest.raises(ValidationError, match="set limit too"):
        config(csv, limit_from="beginning")
    (tmp_path / "c.parquet").write_bytes(parquet_of(ROWS))
    with pytest.raises(DataError, match=r"several forms \(1 .csv, 1 .parquet\); name .*\*.csv"):
        read(tmp_path)
    other = tmp_path / "d.csv"
    other.write_text("body,label\nx,y\n")
    with pytest.raises(DataError, match=r"'text': d.csv has no such column"):
        read([csv, other])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        read(tmp_path / "empty")
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        read([tmp_path / "empty"])


def test_one_of_many_files_is_written_to_meanwhile(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.jsonl").write_bytes(jsonl_of(ROWS))
    settings = config(tmp_path)
    _, rows = sources.read(sources.resolve(settings), settings)
    next(rows)
    (tmp_path / "1.jsonl").write_bytes(jsonl_of(ROWS[:5]))
    with pytest.raises(DataError, match="was written to while it was read"):
        list(rows)
