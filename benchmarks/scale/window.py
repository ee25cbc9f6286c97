"""A training bigger than the disk: long unlabelled text through corpus, window and training.

    .venv/bin/python -m benchmarks.scale.window [--tokens 2_000_000] [--kills 3] [--recorded]

Text and a model of two layers are made from a seed. An undisturbed training and one that is killed
by SIGKILL, at moments drawn from a seed, must end with equal files; what lies on disk is looked at
all the while. With ``--recorded`` the same SAE is trained on recorded activations as well, for the
rates. Each stage is a process of its own, so that each has its own peak of memory. Figures go to
``--output`` as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WORDS, TOPICS, WIDTH, MAX_TOKENS = 2000, 64, 64, 256
SITE = "1.resid_post"
CORPUS_FIELDS = {"max_tokens": MAX_TOKENS, "label_column": None, "test_share": 0.01}


def write_text(path: Path, tokens: int, seed: int = 0) -> None:
    """Documents of some topics each, as Parquet; a word is about a token."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(draw.choice(letters, draw.integers(2, 6))) for _ in range(WORDS)])
    weights = (np.arange(WORDS) + 3.0) ** -1
    topics = np.cumsum([draw.permutation(weights) for _ in range(TOPICS)], axis=1)
    topics /= topics[:, -1:]
    length, left = 5000 if splits() else MAX_TOKENS, tokens
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="zstd") as writer:
        while left > 0:
            texts = []
            for _ in range(-(-min(left, 500_000) // length)):
                topic = topics[draw.integers(TOPICS, size=3)]
                which = np.repeat(draw.integers(3, size=1 + length // 20), 20)[:length]
                uniform = draw.random(length)
                found = np.empty(length, np.int64)
                for one in range(3):
                    at = which == one
                    found[at] = np.searchsorted(topic[one], uniform[at])
                texts.append(" ".join(words[np.minimum(found, WORDS - 1)]))
            writer.write_table(pa.table({"text": texts}))
            left -= length * len(texts)


def splits() -> bool:
    """Whether long documents can be cut into windows; if not, they are made short."""
    from deconstruct.config import CorpusConfig

    return "long_documents" in CorpusConfig.model_fields


def save_model(folder: Path, text: Path) -> None:
    """A Llama of two layers with random weights, and a byte-level BPE trained on some of the
    text."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = pq.ParquetFile(text).read_row_group(0)["text"].to_pylist()
    tokenizer.train_from_iterator(sample, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=WIDTH, intermediate_size=4 * WIDTH,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=MAX_TOKENS,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.normal_(0, weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)


def child(stage: str, options: argparse.Namespace) -> None:
    """One stage in this process: ``corpus``, ``stream``, ``record`` or ``train`` (on recorded)."""
    work, home = options.work, options.home
    started = time.perf_counter()
    from deconstruct.activations import stage as activations
    from deconstruct.activations import window
    from deconstruct.activations.window import Stream
    from deconstruct.artifacts import DataRoot
    from deconstruct.config import ActivationsConfig, CorpusConfig, ModelConfig, SaeConfig
    from deconstruct.corpus import sources
    from deconstruct.corpus import stage as corpus
    from deconstruct.model.resolve import resolve
    from deconstruct.sae import stage as sae
    from deconstruct.sae.training import checkpoint

    checkpoint.EVERY_SECONDS, window.AHEAD = options.every, options.ahead
    root = DataRoot(home)
    fields = CORPUS_FIELDS | {"source": str(work / "text.parquet")}
    if splits():
        fields["long_documents"] = "split"
    texts = CorpusConfig.model_validate(fields)
    model = resolve(root, ModelConfig(name=str(work / "model")))
    artifact = corpus.tokenise(root, texts, source=sources.resolve(texts), model=model)
    told: dict[str, Any] = {"tokens": artifact.facts["tokens"]}
    told["corpus_bytes"] = {name: e.bytes for name, e in artifact.manifest.files.items()}
    recorded = ActivationsConfig(sites=(SITE,), keep="window")
    if stage in ("record", "train"):
        made = activations.extract(root, recorded, model=model, corpus=artifact)
        told["activations_bytes"] = size(next(iter(made.values())).path)
    if stage in ("stream", "train"):
        tokens = int(options.passes * artifact.facts["tokens"] * (1 - CORPUS_FIELDS["test_share"]))
        config = SaeConfig(d_sae=512, k=16, tokens=tokens, seed=1)
        read: Any = Stream(recorded, SITE, model, artifact)
        if stage == "train":
            read = next(iter(made.values()))
        tell_of_first_step(told, started)
        trained = sae.train(root, config, activations=read)
        told |= {"digest": trained.digest(), "trained": trained.facts["tokens"]}
        told["fvu"] = trained.facts["train_fvu"]
    told["seconds"] = time.perf_counter() - started
    told["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(told), flush=True)


def tell_of_first_step(told: dict[str, Any], started: float) -> None:
    """Note which step is the first of this process and when it comes, and say so on a line."""
    from deconstruct.sae.training.trainer import Trainer

    step = Trainer.train

    def first(self: Trainer, *batch: Any) -> Any:
        Trainer.train = step  # type: ignore[method-assign]
        told["first_step"] = self.step
        told["seconds_to_it"] = time.perf_counter() - started
        print("training", flush=True)
        return step(self, *batch)

    Trainer.train = first  # type: ignore[method-assign]


def size(folder: Path) -> int:
    """Bytes on disk of all files below a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(path) / name).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


class Disk(threading.Thread):
    """Looks at what lies below a folder, twice a second."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.most, self._ended = folder, 0, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            self.most = max(self.most, size(self.folder))

    def __enter__(self) -> Disk:
        self.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._ended.set()
        self.join()


def started(
    stage: str, work: Path, home: Path, options: argparse.Namespace
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.scale.window", "--child", stage]
    command += ["--work", str(work), "--home", str(home), "--passes", str(options.passes)]
    command += ["--every", str(options.every), "--ahead", str(options.ahead)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a stage ended with {process.returncode}; run it alone to see why")
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def killed(run: Callable[[], subprocess.Popen[str]], seconds: float) -> None:
    """Start a training, and kill it so long after its first step."""
    process = run()
    assert process.stdout is not None
    if "training" not in process.stdout.readline():
        raise SystemExit("a training ended before its first step")
    time.sleep(seconds)
    if process.poll() is not None:
        raise SystemExit("a training ended before it was killed; take more tokens")
    process.send_signal(signal.SIGKILL)
    process.communicate()


def lines(options: argparse.Namespace, work: Path) -> Iterator[tuple[str, Any]]:
    """What is found, name by name."""
    write_text(work / "text.parquet", options.tokens)
    save_model(work / "model", work / "text.parquet")
    yield "text_bytes", (work / "text.parquet").stat().st_size
    home = work / "undisturbed"

    def start(stage: str) -> subprocess.Popen[str]:
        return started(stage, work, home, options)

    yield "corpus", ended(start("corpus"))
    whole = ended(start("stream"))
    yield "streamed", whole
    if options.recorded:
        yield "recorded", ended(start("record"))
        yield "trained", ended(start("train"))
    shutil.rmtree(home)
    home, draw = work / "killed", random.Random(options.kills)
    ended(start("corpus"))
    took = whole["seconds"] - whole["seconds_to_it"]
    moments = [took * draw.uniform(0.3, 0.9) / options.kills for _ in range(options.kills)]
    for seconds in moments:
        killed(lambda: start("stream"), seconds)
    again = ended(start("stream"))
    yield "kills_seconds_after_first_step", moments
    yield "resumed", again
    yield "same_bytes", again["digest"] == whole["digest"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--passes", type=float, default=1.0, help="over the corpus' train split")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between checkpoints")
    parser.add_argument("--ahead", type=int, default=0, help="windows computed beforehand")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--recorded", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        child(options.child, options)
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.work) as folder, Disk(Path(folder)) as disk:
        for name, value in lines(options, Path(folder)):
            found[name] = value
            print(name, json.dumps(value), f"(most on disk {disk.most / 1e9:.2f} GB)", flush=True)
    found["most_on_disk_gb"] = disk.most / 1e9
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    if not found["same_bytes"]:
        raise SystemExit("the killed training ended with other bytes")


if __name__ == "__main__":
    main()
