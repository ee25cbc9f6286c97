"""The corpus stage: tokens, splits, BOS, token texts, warnings, errors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources, tables
from deconstruct.corpus import stage as corpus
from deconstruct.corpus.columns import texts as columns
from deconstruct.corpus.splits import split_draw
from deconstruct.corpus.vocabulary import Vocabulary
from deconstruct.model.resolve import ResolvedModel


def as_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> ResolvedModel:
    tokenizer.save_pretrained(folder)
    return ResolvedModel(folder.name, folder, "0" * 64, folder.name)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    return as_model(tmp_path_factory.mktemp("plain"), tiny_tokenizer())


@pytest.fixture(scope="session")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    return as_model(tmp_path_factory.mktemp("bos"), tiny_tokenizer(bos=True))


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A BPE as Gemma's and Llama's: spaces as U+2581, bytes as <0xNN> where no piece fits."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "▁a"]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [("▁", "a")],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tokenise(
    home: Path, rows: list[dict[str, Any]], model: ResolvedModel, **fields: Any
) -> Artifact:
    path = home / "texts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    config = CorpusConfig.model_validate({"source": str(path), **fields})
    return corpus.tokenise(
        DataRoot(home / "data"), config, source=sources.resolve(config), model=model
    )


def rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(
        artifact.file(name), page_checksum_verification=True
    ).to_pylist()
    return found


def by_document(artifact: Artifact) -> dict[int, list[dict[str, Any]]]:
    documents = defaultdict(list)
    for token in rows(artifact, "tokens.parquet"):
        documents[token["doc_id"]].append(token)
    return documents


TEXTS = [
    {"text": "the market rose in london", "label": "business"},
    {"text": " the team won — 3:0, déjà vu", "label": "sport"},
    {"text": "ministers said\nthe election 🗳 would be held", "label": None},
] * 2 + [{"text": f"text number {i} of the corpus", "label": i % 3} for i in range(40)]


def test_documents_and_tokens_agree_with_the_tokenizer(
    tmp_path: Path, plain: ResolvedModel
) -> None:
    artifact = tokenise(tmp_path, TEXTS, plain, max_tokens=9)
    documents, tokens = rows(artifact, "documents.parquet"), by_document(artifact)
    tokenizer = tiny_tokenizer()
    assert [d["text"] for d in documents] == [row["text"] for row in TEXTS]
    assert [d["label"] for d in documents][:4] == ["business", "sport", None, "business"]
    assert [d["doc_id"] for d in documents] == list(range(len(TEXTS)))
    index = 0
    for document in documents:
        own = tokens[document["doc_id"]]
        expected = tokenizer(document["text"])["input_ids"][:9]
        assert [t["token_id"] for t in own] == expected
        assert [t["position"] for t in own] == list(range(len(expected)))
        assert document["n_tokens"] == len(expected)
        assert [t["token_index"] for t in own] == list(range(index, index + len(own)))
        assert not any(t["special"] for t in own)
        assert document["doc_key"] == hashlib.sha256(document["text"].encode()).hexdigest()[:16]
        index += len(own)
    assert artifact.facts == {
        "documents": 46,
        "train_documents": sum(d["split"] == "train" for d in documents),
        "test_documents": sum(d["split"] == "test" for d in documents),
        "tokens": index,
        "labels": ["0", "1", "2", "business", "sport"],
        "tokenizer": plain.name,
        "vocabulary": len(tokenizer),
        "source": "texts.jsonl",
        "groups": 4,  # of the 40 texts that are numbered, the number is cut off
        "alike_documents": 46,
        "twins_across": 0,
    }
    assert artifact.manifest.files["tokens.parquet"].rows == index
    assert pq.read_schema(artifact.file("tokens.parquet")).equals(tables.TOKENS.arrow)
    assert pq.read_schema(artifact.file("documents.parquet")).equals(tables.WITH_GROUPS.arrow)


def test_token_texts_put_together_are_the_document(tmp_path: Path, plain: ResolvedModel) -> None:
    artifact = tokenise(tmp_path, TEXTS, plain, max_tokens=500)
    for document, tokens in zip(
        rows(artifact, "documents.parquet"), by_document(artifact).values(), strict=True
    ):
        raw = b""
        for token in tokens:
            text = token["token"]
            # A piece of a character is written <0xE2>, byte by byte.
            while text.startswith("<0x"):
                raw, text = raw + bytes([int(text[3:5], 16)]), text[6:]
            raw += text.encode()
        assert raw.decode() == document["text"]
    assert " the" in {t["token"] for t in rows(artifact, "tokens.parquet")}


def test_token_texts_of_a_sentencepiece_vocabulary() -> None:
    vocabulary = Vocabulary(sentencepiece_like(), "auto")
    strings = vocabulary.strings.to_pylist()
    assert strings[:3] == ["<unk>", "<s>", "</s>"]
    assert strings[3 + 0x0A] == "\n"
    assert strings[3 + 0xE2] == "<0xE2>"
    assert strings[-4:] == [" ", "a", "b", " a"]
    assert vocabulary.prefix == [1]
    assert vocabulary.cut(["b a é"], 100)[0].ids == [261, 262, 259, 3 + 0xC3, 3 + 0xA9]
    # <unk> stands for text, so it is no marker here; in GPT-2, where it is BOS too, it is.
    assert vocabulary.special[:3].tolist() == [False, True, True]
    assert vocabulary.special.sum() == 2


@pytest.mark.parametrize(
    ("prepend", "bos", "begins"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("always", False, True),
        ("always", True, True),
        ("never", True, False),
    ],
)
def test_bos_rule(
    tmp_path: Path,
    plain: ResolvedModel,
    with_bos: ResolvedModel,
    prepend: str,
    bos: bool,
    begins: bool,
) -> None:
    model = with_bos if bos else plain
    artifact = tokenise(tmp_path, TEXTS, model, prepend_bos=prepend, max_tokens=6)
    for tokens in by_document(artifact).values():
        assert len(tokens) == 6
        assert [t["special"] for t in tokens] == [begins] + [False] * 5
        assert (tokens[0]["token"] == "<s>") is begins


def test_bos_that_the_tokenizer_has_not(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    model = as_model(tmp_path / "nobos", tokenizer)
    with pytest.raises(ConfigError, match=r"prepend_bos 'always'.* no BOS token; take 'auto'"):
        tokenise(tmp_path, TEXTS, model, prepend_bos="always")


def test_markers_inside_a_text_are_special(tmp_path: Path, plain: ResolvedModel) -> None:
    texts = [*TEXTS, {"text": "one</s>two"}, {"text": "</s></s>"}]
    artifact = tokenise(tmp_path, texts, plain)
    assert artifact.facts["documents"] == len(TEXTS) + 1  # the last has no token of text
    last = by_document(artifact)[len(TEXTS)]
    assert [t["token"] for t in last if t["special"]] == ["</s>"]
    assert sum(not t["special"] for t in last) >= 2


def test_split_is_a_function_of_text_and_seed_alone(tmp_path: Path, plain: ResolvedModel) -> None:
    texts = [{"text": f"document {i}", "label": "x"} for i in range(600)]
    for folder in ("all", "some", "seed"):
        (tmp_path / folder).mkdir()
    whole = tokenise(tmp_path / "all", texts + texts[:50], plain)
    some = tokenise(tmp_path / "some", texts[::-2], plain)
    other = tokenise(tmp_path / "seed", texts, plain, seed=1)
    split = {d["text"]: d["split"] for d in rows(whole, "documents.parquet")}
    assert all(d["split"] == split[d["text"]] for d in rows(whole, "documents.parquet"))
    assert all(d["split"] == split[d["text"]] for d in rows(some, "documents.parquet"))
    moved = sum(d["split"] != split[d["text"]] for d in rows(other, "documents.parquet"))
    assert 100 < moved < 290  # 2 * 0.2 * 0.8 of 600 is 192
    share = sum(s == "test" for s in split.values()) / len(split)
    assert 0.15 < share < 0.25  # 0.2 within three standard errors


def test_nothing_held_out_begins_as_a_train_text_does(
    tmp_path: Path, plain: ResolvedModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Texts that differ only after the tokens that are kept are one text to all that follows."""
    texts = [{"text": f"{i % 40} and so on {'.' * i}", "label": "x"} for i in range(160)]
    with caplog.at_level(logging.INFO):
        artifact = tokenise(tmp_path, texts, plain, max_tokens=4, test_share=0.5)
    kept: dict[int, list[int]] = defaultdict(list)
    for token in rows(artifact, "tokens.parquet"):
        kept[token["doc_id"]].append(token["token_id"])
    sides = defaultdict(set)
    drawn_test = 0
    for document in rows(artifact, "documents.parquet"):
        sides[tuple(kept[document["doc_id"]])].add(document["split"])
        drawn_test += split_draw(document["doc_key"], 0) < 0.5
    assert len(sides) == 40
    assert all(len(own) == 1 for own in sides.values())
    test_documents = artifact.facts["test_documents"]
    assert 0 < test_documents < drawn_test
    assert f"{drawn_test - test_documents} texts are like train texts" in caplog.text
    assert artifact.facts["train_documents"] == 160 - test_documents


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_splits_have_a_document(tmp_path: Path, plain: ResolvedModel, share: float) -> None:
    texts = [{"text": t, "label": "x"} for t in ("one", "two", "two", "three", "three")]
    artifact = tokenise(tmp_path, texts, plain, test_share=share)
    documents = rows(artifact, "documents.parquet")
    splits = {d["text"]: d["split"] for d in documents}
    assert all(splits[d["text"]] == d["split"] for d in documents)
    assert sorted(splits.values()) == sorted({0.001: ["test", "train", "train"]}.get(
        share, ["test", "test", "train"]
    ))  # fmt: skip
    assert artifact.facts["train_documents"] == sum(d["split"] == "train" for d in documents)
    assert artifact.facts["test_documents"] == sum(d["split"] == "test" for d in documents)
    assert [d["text"] for d in documents] == [row["text"] for row in texts]


def test_what_has_no_text_is_left_out_and_counted(
    tmp_path: Path, plain: ResolvedModel, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [{"text": None}, {"text": " \n\t"}, *TEXTS, {"text": ""}, {"label": "no text key"}]
    with caplog.at_level(logging.WARNING):
        artifact = tokenise(tmp_path, texts, plain)
    assert f"4 of {len(texts)} documents have no text and are left out" in caplog.text
    assert "2 of 46 documents have no label" in caplog.text
    documents = rows(artifact, "documents.parquet")
    assert [d["doc_id"] for d in documents] == list(range(len(TEXTS)))


def test_hostile_texts_pass_through(tmp_path: Path, plain: ResolvedModel) -> None:
    texts = ["a\x00b", "\ud800 lone surrogate", "\u202e back", "x" * 200_000, "\ufeff mark"]
    artifact = tokenise(tmp_path, [{"text": t} for t in texts], plain, label_column=None)
    found = [d["text"] for d in rows(artifact, "documents.parquet")]
    assert found == ["a\x00b", "? lone surrogate", *texts[2:]]
    assert artifact.facts["labels"] == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([{"text": "", "label": "x"}, {"text": None}], r"none of its 2 documents has any text"),
        ([{"text": "once", "label": "x"}], r"has one text only \(1 document\); at least two"),
        ([{"text": "twice", "label": "x"}] * 2, r"has one text only \(2 documents\)"),
        (
            [{"text": "so " * 200 + end, "label": "x"} for end in "ab"],
            r"has one text only \(2 documents\).*differ in their first 128 tokens",
        ),
        ([{"text": str(i), "label": "x"} for i in range(9)], r"holds numbers \(the first is '0'\)"),
        (
            [{"text": f"t {i}", "label": f"id-{i}"} for i in range(1200)],
            r"'label' of texts\.jsonl has more than 1000 different values.*label_column=none",
        ),
    ],
)
def test_corpora_that_can_not_be_used(
    tmp_path: Path, plain: ResolvedModel, texts: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        tokenise(tmp_path, texts, plain)
    assert not [p for p in (tmp_path / "data/corpus").iterdir() if not p.name.startswith(".")]


def test_an_empty_corpus(tmp_path: Path, plain: ResolvedModel) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n")
    config = CorpusConfig(source=str(path))
    with pytest.raises(DataError, match=r"'a\.csv' is empty: it has no documents"):
        corpus.tokenise(DataRoot(tmp_path), config, source=sources.resolve(config), model=plain)


def test_bytes_do_not_depend_on_batching(
    tmp_path: Path, plain: ResolvedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = tokenise(tmp_path / "a", TEXTS, plain)
    monkeypatch.setattr(columns, "BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(columns, "BATCH_CHARACTERS", 90)
    assert tokenise(tmp_path / "b", TEXTS, plain).digest() == first.digest()


def test_key_follows_contents_and_not_names(tmp_path: Path, plain: ResolvedModel) -> None:
    def key(name: str, model: ResolvedModel = plain, kind: str = "jsonl", **fields: Any) -> str:
        named = {"source": str(tmp_path / name), "label_column": None, **fields}
        config = CorpusConfig.model_validate(named)
        source = dataclasses.replace(sources.resolve(config), kind=kind)
        return corpus.recipe(config, source=source, model=model).key

    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    (tmp_path / "b.jsonl").write_text('{"text": "one"}')
    (tmp_path / "c.jsonl").write_text('{"text": "two"}')
    other = ResolvedModel("other", plain.folder, plain.digest, "another tokenizer")
    first = key("a.jsonl")
    assert key("b.jsonl") == first
    assert len({first, key("c.jsonl"), key("a.jsonl", kind="csv"), key("a.jsonl", other)}) == 4
    assert len({first, key("a.jsonl", max_tokens=5), key("a.jsonl", seed=1)}) == 3
