"""What people get wrong: commands that must end in a sentence, with all that they need made.

Each is a case of `cases`: a name, a command line, and the environment's changes. Numbers out of
bounds come from the configuration's own schema, so that a new field is tried without an edit here.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic.fields import FieldInfo
from support.running import write_config
from support.texts import write_texts
from support.tiny_models import save_tiny

from deconstruct.config import RunConfig

WRONG = ("nan", "-1", "10**20", "many", "[[]]", "{a=1}", "''")
"""Values that next to no field takes; those that one does take are left out for it."""


@dataclass(frozen=True)
class Case:
    """A command that a person may give by mistake."""

    name: str
    arguments: tuple[object, ...]
    env: dict[str, str] = field(default_factory=dict)


def cases(folder: Path) -> Iterator[Case]:
    """All of them. folder: empty; models, texts and configurations are made in it."""
    model = save_tiny("llama", folder / "tiny-llama")
    texts = write_texts(folder / "news.csv", 60)
    config = write_config(folder / "small.toml", model, texts)
    yield from _fields(config)
    yield from _files(folder, config)
    for name, source in _sources(folder, texts):
        yield Case(f"source {name}", ("run", config, "--set", f"corpus.source={source}"))
    for name, changed in _models(folder, model):
        yield Case(f"model {name}", ("run", config, "--set", f"model.name={changed}"))
    yield from _begun(folder, model, texts)
    yield from _environments(folder, config)
    yield from _commands(folder, config)


def _fields(config: Path) -> Iterator[Case]:
    for stage, section in RunConfig.model_fields.items():
        settings = section.annotation
        for name, one in getattr(settings, "model_fields", {}).items():
            for value in WRONG:
                if _refused(settings, name, one, value):
                    override = f"{stage}.{name}={value.replace('10**20', str(10**20))}"
                    yield Case(override, ("run", config, "--set", override))
    for override in (
        "sae.K=3", "sea.k=3", "sae=3", "sae.k", "k=3", "=3", "sae..k=3", "sae.architecture=TOPK",
        "activations.sites=[]", "activations.sites=['4']", "activations.sites=['1.resid']",
        "activations.sites=['4.resid_post']", "activations.sites=['-1.resid_post']",
        "activations.sites=['1.resid_post', '1.resid_post']", "sae.k=65", "sae.prefixes=[9,3]",
        "sae.output_site=9.mlp_out", "corpus.label_column=subject", "corpus.text_column=body",
        "corpus.label_columns=label,subject", "corpus.label_columns=label,label",
        "corpus.group_column=author", "corpus.split_column=fold", "corpus.keep_columns=year",
        "corpus.max_tokens=100_000", "sae.batch_size=1_000_000", "name=''", "name=[1]",
        "model.revision=main", "corpus.subset=all", "corpus.splits=[]", "probe.ks=[0]",
        "sae.pretrained=nowhere", "sae.pretrained=hub:one", "sae.pretrained=hub:a/b/../c",
        "sae.pretrained_format=sparsify",
        "analysis=3", "analysis.late.limit=3", "analysis.late=3", "analysis.late.source=/none.csv",
        "analysis.corpus.limit=3", "analysis.a/b.source=/none.csv", "analysis.x.sauce=none.csv",
        "sae.skip_connection=true", "sae.target_l0=3", "sae.warmup_share=0.9",
    ):  # fmt: skip
        yield Case(override, ("run", config, "--set", override))


def _refused(settings: type, name: str, one: FieldInfo, value: str) -> bool:
    """Whether the field's own type or bounds exclude the value."""
    kind = str(one.annotation)
    if "str" in kind or "Literal" in kind:
        return "Literal" in kind and value == "many"
    return not (value == "-1" and not _bounded(one)) and not ("float" in kind and value == "10**20")


def _bounded(one: FieldInfo) -> bool:
    return any(hasattr(bound, "ge") or hasattr(bound, "gt") for bound in one.metadata)


def _files(folder: Path, config: Path) -> Iterator[Case]:
    made = {
        "empty section": b"[sae\nk = 3\n",
        "twice": b"[sae]\nk = 3\nk = 4\n",
        "unknown section": b"[network]\nk = 3\n",
        "wrong type": b"sae = 3\n",
        "array": b"[[sae]]\nk = 3\n",
        "utf-16": "[sae]\nk = 3\n".encode("utf-16"),
        "latin-1": "name = 'caf\xe9'\n".encode("latin-1"),
        "binary": bytes(range(256)),
        "json": b'{"sae": {"k": 3}}',
        "no value": b"[sae]\nk =\n",
        "control": b"name = 'a\x1b[31m'\n",
    }
    for name, content in made.items():
        path = folder / f"{name}.toml"
        path.write_bytes(content)
        yield Case(f"config {name}", ("run", path))
    yield Case("config missing", ("run", folder / "none.toml"))
    yield Case("config is a folder", ("run", folder))
    yield Case("config is a text", ("run", folder / "news.csv"))
    yield Case("sweep without its table", ("sweep", config))
    (folder / "sweep.toml").write_text(config.read_text() + "\n[sweep]\nseed = ['x']\n")
    yield Case("sweep of words", ("sweep", folder / "sweep.toml"))


def _sources(folder: Path, texts: Path) -> Iterator[tuple[str, object]]:
    made: dict[str, bytes] = {
        "empty.csv": b"",
        "header.csv": b"text,label\n",
        "other.csv": b"body,kind\na,b\n",
        "blank.csv": b"text,label\n" + b'" ",x\n' * 40,
        "wide.csv": b"text,label\na,b,c\n",
        "twice.csv": b"text,text\na,b\n",
        "zeros.csv": b"\0" * 1000,
        "latin.csv": "text,label\ncaf\xe9,x\n".encode("latin-1"),
        "quote.csv": b'text,label\n"never ends,x\n',
        "broken.jsonl": b'{"text": "a", "label": "b"}\n{"text": \n',
        "list.jsonl": b'["a", "b"]\n',
        "number.jsonl": b'{"text": 3, "label": "b"}\n',
        "none.jsonl": b'{"text": null, "label": "b"}\n',
        "empty.jsonl": b"",
        "keys.jsonl": b'{"body": "a"}\n',
        "empty.parquet": b"",
        "noise.parquet": b"PAR1" + bytes(100),
        "packed.zip": b"PK\3\4" + bytes(100),
        "packed.csv.xz": lzma.compress(texts.read_bytes()),
        "cut.csv.gz": gzip.compress(texts.read_bytes(), mtime=0)[:-9],
        "note.docx": b"PK\3\4",
    }
    for name, content in made.items():
        path = folder / name
        path.write_bytes(content)
        yield name, path
    table = pa.table({"text": ["a"] * 9, "label": ["b"] * 9})
    pq.write_table(table, folder / "whole.parquet")
    (folder / "cut.parquet").write_bytes((folder / "whole.parquet").read_bytes()[:-20])
    pq.write_table(pa.table({"text": [[1]] * 9, "label": ["b"] * 9}), folder / "lists.parquet")
    pq.write_table(pa.table({"body": ["a"]}), folder / "body.parquet")
    pq.write_table(table.slice(0, 0), folder / "rows.parquet")
    yield from ((name, folder / name) for name in ("cut.parquet", "lists.parquet", "body.parquet"))
    yield "no rows", folder / "rows.parquet"
    (folder / "nothing").mkdir()
    yield "folder without texts", folder / "nothing"
    (folder / "pictures" / "cats").mkdir(parents=True)
    (folder / "pictures" / "cats" / "a.jpg").write_bytes(b"\xff\xd8")
    yield "folder of pictures", folder / "pictures"
    os.mkfifo(folder / "pipe.csv")
    yield "pipe", folder / "pipe.csv"
    (folder / "dangling.csv").symlink_to(folder / "gone.csv")
    yield "dangling link", folder / "dangling.csv"
    for name in (
        "missing.csv",
        "missing",
        "",
        "embedded:none",
        "hf:",
        "hf:no/such-set",
        "s3://a/b",
    ):
        yield repr(name), name
    yield "url", "https://example.org/a.csv"
    yield "device", "/dev/zero"


def _models(folder: Path, model: Path) -> Iterator[tuple[str, object]]:
    def changed(name: str, **config: object) -> Path:
        shutil.copytree(model, folder / name)
        file = folder / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return folder / name

    def without(name: str, *files: str, **others: bytes) -> Path:
        path = changed(name)
        for file in files:
            (path / file).unlink()
        for file, content in others.items():
            (path / file.replace("__", ".")).write_bytes(content)
        return path

    weights = model / "model.safetensors"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n"
    yield "missing", folder / "no-model"
    yield "empty", folder / "nothing"
    yield "a file", folder / "news.csv"
    yield "unknown embedded", "embedded:gpt-5"
    yield "no hub", "someone/no-such-model"
    yield "not a name", "a b/c d/e"
    yield "no config", without("no-config", "config.json")
    yield "no weights", without("no-weights", "model.safetensors")
    yield "bin alone", without("bin", "model.safetensors", pytorch_model__bin=b"\x80\x02")
    yield "no tokenizer", without("no-tokenizer", "tokenizer.json", "tokenizer_config.json")
    yield "lfs", without("lfs", model__safetensors=pointer)
    yield "cut", without("cut", model__safetensors=weights.read_bytes()[:-4000])
    yield "cut header", without("cut-header", model__safetensors=weights.read_bytes()[:40])
    yield "empty weights", without("empty-weights", model__safetensors=b"")
    yield "config cut", without("config-cut", config__json=b'{"model_type": "lla')
    yield "config a list", without("config-list", config__json=b"[]")
    yield "tokenizer cut", without("tokenizer-cut", tokenizer__json=b'{"version": ')
    yield "adapter", without("adapter", "model.safetensors", adapter_config__json=b"{}")
    yield "unknown type", changed("unknown-type", model_type="brand_new")
    yield "remote code", changed("remote", model_type="own", auto_map={"AutoConfig": "a.B"})
    yield "quantised", changed("quantised", quantization_config={"quant_method": "gptq", "bits": 4})
    yield "no layers", changed("no-layers", num_hidden_layers=0)
    yield "negative width", changed("negative", hidden_size=-1)
    yield "other width", changed("other-width", hidden_size=48)
    yield "encoder-decoder", changed("t5", model_type="t5")
    yield "few tokens", changed("few-tokens", vocab_size=10)
    yield "few positions", changed("few-positions", max_position_embeddings=4)


def _begun(folder: Path, model: Path, texts: Path) -> Iterator[Case]:
    """Of what `_sources` and `_models` have made, what a first configuration is asked for."""
    (folder / "numbers.csv").write_text("id,price\n1,2.5\n2,3.5\n")
    (folder / "semicolons.csv").write_text("text;label\n" + "one two;a\n" * 9)
    (folder / "same.csv").write_text("text\n" + "one two\n" * 9)
    (folder / "bare.csv").write_text(f"{'one two three four ' * 9},a\n" + "five six seven,b\n" * 9)
    new = folder / "new.toml"
    for name in (
        "empty.csv", "header.csv", "wide.csv", "zeros.csv", "latin.csv", "quote.csv", "numbers.csv",
        "semicolons.csv", "same.csv", "bare.csv", "broken.jsonl", "list.jsonl", "number.jsonl",
        "none.jsonl", "empty.jsonl", "noise.parquet", "cut.parquet", "lists.parquet", "packed.zip",
        "no-such.csv", "nothing", "embedded:news",
    ):  # fmt: skip
        source = name if ":" in name else folder / name
        yield Case(f"init {name}", ("init", source, "--model", model, "--output", new))
    for name in ("no-model", "cut", "adapter", "no-layers", "tokenizer-cut", "embedded:gpt-5"):
        named = name if ":" in name else folder / name
        yield Case(f"init of {name}", ("init", texts, "--model", named, "--output", new))
    for name, arguments in {
        "without a source": (),
        "of an unknown kind": (texts, "--model", folder / "remote", "--output", new),
        "over a file": (texts, "--model", model, "--output", texts),
        "into no folder": (texts, "--model", model, "--output", folder / "none" / "a.toml"),
        "into a folder": (texts, "--model", model, "--output", folder),
        "of a subset": (texts, "--model", model, "--subset", "en", "--output", new),
    }.items():
        yield Case(f"init {name}", ("init", *arguments))


def _environments(folder: Path, config: Path) -> Iterator[Case]:
    run = ("run", config)
    (folder / "in-the-way").write_text("")
    for name, home in {
        "a file": folder / "in-the-way",
        "below a file": folder / "in-the-way" / "home",
        "/proc": "/proc/home",
        "a question mark": folder / "what?",
        "a backslash": folder / "back\\slash",
        "a url": "s3://bucket/data",
        "a long name": folder / ("x" * 300),
    }.items():
        yield Case(f"home is {name}", (*run, "--home", home))
    for name, value in {
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "DECONSTRUCT_REMOTE": "nowhere://bucket",
        "DECONSTRUCT_LOG_TO": "paper",
    }.items():
        yield Case(f"{name}={value}", run, {name: value})


def _commands(folder: Path, config: Path) -> Iterator[Case]:
    for arguments in (
        ("run", config, "--device", "mars"), ("run", config, "--device", "cuda:99"),
        ("run", config, "--device", "cuda:-1"), ("run", config, "--growth", "backwards"),
        ("run", config, "--engine", "steam"), ("run", config, "--workers", "0"),
        ("run", config, "--workers", "x"), ("run", config, "--colour"), ("run", config, config),
        ("runn",), ("show",), ("show", "nobody"), ("runs", "--limit", "-1"), ("latent",),
        ("latent", "latest"), ("latent", "latest", "x"), ("latent", "latest", "-1"),
        ("sql", "SELECT 1"), ("sql", "SELEC 1"), ("sql", ""), ("export", "latest"),
        ("export", "latest", folder / "none" / "a.duckdb"),
        ("export", "latest", folder / "none" / "sae", "--format", "sae_lens"),
        ("export", "latest", folder / "a.onnx", "--format", "onnx"), ("push", "latest"),
        ("push", "latest", "me/x"), ("rm", "nobody"), ("rm",),
        ("gc", "--unused-hours", "-1"), ("retry", "nobody"),
        ("analyse",), ("analyse", "nobody", "--source", config), ("serve", "--port", "99999"),
        ("serve", "--port", "x"), ("sweep",), ("config", folder / "none.toml"),
        ("sql", "--file", folder / "none.sql"), ("sql", "FROM runs", "--format", "xml"),
        ("sql", "FROM runs", "--output", folder / "none" / "a.csv"),
    ):  # fmt: skip
        yield Case(
            "deconstruct " + " ".join(str(a).rsplit("/", 1)[-1] for a in arguments), arguments
        )
