"""What is a marker and what is text: BOS, padding, and vocabularies that know few words."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
from support.tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from deconstruct.artifacts import DataRoot
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.corpus.vocabulary import Vocabulary
from deconstruct.model.resolve import ResolvedModel


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast) -> ResolvedModel:
    tokenizer.save_pretrained(folder)
    return ResolvedModel(folder.name, folder, "0" * 64, folder.name)


def tokens_of(home: Path, texts: list[str], model: ResolvedModel, **fields: object) -> list[dict]:
    path = home / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    config = CorpusConfig(source=str(path), label_column=None, **fields)  # type: ignore[arg-type]
    made = corpus.tokenise(
        DataRoot(home / "data"), config, source=sources.resolve(config), model=model
    )
    return pq.read_table(made.file("tokens.parquet"), partitioning=None).to_pylist()


def test_a_text_that_brings_its_bos_gets_no_second(tmp_path: Path) -> None:
    model = saved(tmp_path / "bos", tiny_tokenizer(bos=True))
    plain, chat = "the market rose and fell in may", "<s>ministers said the election would be held"
    found = tokens_of(tmp_path, [plain, chat], model, max_tokens=6)
    documents = [[t for t in found if t["doc_id"] == doc] for doc in (0, 1)]
    for tokens in documents:
        assert [t["token_id"] == 1 for t in tokens] == [True] + [False] * 5
        assert [t["special"] for t in tokens] == [True] + [False] * 5
    told = "".join(t["token"] for t in documents[1][1:])
    assert chat.removeprefix("<s>").startswith(told)


def test_a_comma_that_is_padding_is_text(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.pad_token = ","
    tokenizer.eos_token = "."
    model = saved(tmp_path / "comma", tokenizer)
    found = tokens_of(tmp_path, ["rates, shares, oil.", "the film, the song."], model)
    text = [t["token"] for t in found if not t["special"]]
    assert text.count(",") == 3
    assert text.count(".") == 2
    assert {t["token"] for t in found if t["special"]} == {"<s>"}


def few_letters(unk: str | None, template: str) -> PreTrainedTokenizerFast:
    """A vocabulary of two letters, neither of them "a"."""
    known = {piece: i for i, piece in enumerate(["<s>", "m", "r", "<unk>"])}
    tokenizer = Tokenizer(models.BPE(known, [], unk_token=unk))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token=unk
    )


def test_bos_is_found_where_the_trial_text_has_no_token() -> None:
    for unk in (None, "<s>", "<unk>"):  # no piece for "a", one that is BOS too, one of its own
        assert Vocabulary(few_letters(unk, "<s> $A"), "auto").prefix == [0], unk
        assert Vocabulary(few_letters(unk, "<s> $A <s>"), "auto").prefix == [0], unk
        assert Vocabulary(few_letters(unk, "$A <s>"), "auto").prefix == [], unk
        assert Vocabulary(few_letters(unk, "$A"), "auto").prefix == [], unk
