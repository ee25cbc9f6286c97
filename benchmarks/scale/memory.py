"""Peak memory and processor time of each stage, for corpora of different sizes.

    python -m benchmarks.scale.memory --documents 5000 50000
    python -m benchmarks.scale.memory --documents 5000 50000 --stages sae --tokens 128 --width 640

Each stage runs in a process of its own, whose peak resident memory is what the kernel says. Texts
and model are made from a seed: a GPT-2 of 2 layers, five labels. The second line is of the size of
the default run, whose rows are more than an SAE's training holds at a time from 3,300 documents on.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

STAGES = (
    "corpus", "activations", "reference", "sae", "latents", "evaluation", "probe", "cluster",
    "interpretation", "map",
)  # fmt: skip
WORDS, LABELS = 2000, 5


def main() -> None:
    """Measure, and print one line per stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--tokens", type=int, default=24, help="per document")
    parser.add_argument("--width", type=int, default=64, help="of the activations, d_in")
    parser.add_argument("--folder", type=Path, help="a folder to work in; none: a temporary one")
    parser.add_argument("--one", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run_stage(given.one[0], Path(given.one[1]), given.tokens)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        base = given.folder or Path(temporary)
        model = base / "model"
        save_model(model, given.width)
        found = [
            list(measured(base, model, count, given.tokens, given.stages))
            for count in given.documents
        ]
    sizes = "".join(f"{count:>14,}" for count in given.documents)
    print(f"{'peak memory, MB':<18}{sizes}{'ratio':>8}")
    for row in zip(*found, strict=True):
        cells = "".join(f"{one['peak_mb']:>14.0f}" for one in row)
        print(f"{row[0]['stage']:<18}{cells}{row[-1]['peak_mb'] / row[0]['peak_mb']:>8.2f}")
    print(f"{'us per token':<18}{sizes}{'ratio':>8}")
    for row in zip(*found, strict=True):
        cells = "".join(f"{one['us_per_token']:>14.1f}" for one in row)
        ratio = row[-1]["us_per_token"] / row[0]["us_per_token"]
        print(f"{row[0]['stage']:<18}{cells}{ratio:>8.2f}")


def measured(
    base: Path, model: Path, documents: int, tokens: int, stages: list[str]
) -> Iterator[dict[str, Any]]:
    """The stages of one size, one process after another."""
    folder = base / str(documents)
    folder.mkdir(parents=True, exist_ok=True)
    write_texts(folder / "texts.csv", documents, tokens)
    (folder / "model").symlink_to(model)
    for stage in STAGES[: 1 + max(map(STAGES.index, stages))]:
        command = [sys.executable, "-m", __spec__.name, "--one", stage, str(folder)]
        command += ["--tokens", str(tokens)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        if stage in stages:
            yield json.loads(done.stdout.splitlines()[-1])


def run_stage(stage: str, folder: Path, tokens: int) -> dict[str, Any]:
    """Run a stage on what those before it left; its figures."""
    import deconstruct as d

    config = d.load_config(None, settings(folder, tokens))
    root = d.DataRoot(folder / "data")
    model, source = d.resolve_model(root, config.model), d.resolve_source(config.corpus)

    def corpus() -> Any:
        return d.tokenise(root, config.corpus, source=source, model=model)

    def activations() -> Any:
        [found] = d.extract(root, config.activations, model=model, corpus=corpus()).values()
        return found

    judging = config.evaluation

    def reference() -> Any:
        return d.measure(root, judging, model=model, corpus=corpus(), activations=activations())

    def sae() -> Any:
        return d.train(root, config.sae, activations=activations())

    def latents() -> Any:
        return d.encode(root, config.latents, sae=sae(), activations=activations(), corpus=corpus())

    def evaluation() -> Any:
        read = {"reference": reference(), "sae": sae(), "latents": latents()}
        return d.evaluate(root, judging, model=model, **read)

    def probe() -> Any:
        read = {"corpus": corpus(), "activations": activations(), "latents": latents()}
        return d.fit_probes(root, config.probe, model=model, **read)

    def cluster() -> Any:
        read = {"corpus": corpus(), "activations": activations(), "latents": latents()}
        return d.group_documents(root, config.cluster, **read)

    def interpretation() -> Any:
        return d.interpret(root, config.interpretation, corpus=corpus(), latents=latents())

    def maps() -> Any:
        read = {"corpus": corpus(), "activations": activations(), "latents": latents()}
        return d.lay_out(root, config.map, **read, reference=reference())

    make = {
        "corpus": corpus, "activations": activations, "reference": reference, "sae": sae,
        "latents": latents, "evaluation": evaluation, "probe": probe, "cluster": cluster,
        "interpretation": interpretation, "map": maps,
    }  # fmt: skip
    began = time.process_time()
    made = make[stage]()
    seconds = time.process_time() - began
    total = int(corpus().facts["tokens"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert made.made, f"{stage} came from cache"
    return {"stage": stage, "peak_mb": peak, "us_per_token": 1e6 * seconds / total}


def settings(folder: Path, tokens: int) -> list[str]:
    """What is other than by default."""
    found = {
        "model.name": folder / "model", "corpus.source": folder / "texts.csv",
        "corpus.max_tokens": tokens, "activations.sites": "1.resid_post",
        "sae.d_sae": 512, "sae.k": 8, "sae.tokens": 100_000, "sae.batch_size": 1024,
        "probe.bootstrap": 100, "evaluation.bootstrap": 100,
    }  # fmt: skip
    return [f"{name}={value}" for name, value in found.items()]


def write_texts(path: Path, documents: int, tokens: int) -> None:
    """A CSV of texts whose words depend on their label."""
    draw = np.random.default_rng(0)
    shares = 1 / np.arange(1, WORDS + 1)
    with path.open("w") as file:
        file.write("text,label\n")
        for first in range(0, documents, 1000):
            label = draw.integers(LABELS, size=1000)
            words = draw.choice(WORDS, size=(1000, tokens + 8), p=shares / shares.sum())
            words = (words + 7 * label[:, None]) % WORDS
            for row in range(min(1000, documents - first)):
                file.write(" ".join(f"w{word}" for word in words[row]) + f",class{label[row]}\n")


def save_model(folder: Path, width: int) -> None:
    """A GPT-2 of 2 layers with a vocabulary of words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, **{f"w{number}": number + 1 for number in range(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    size = {"n_layer": 2, "n_embd": width, "n_head": 4, "n_positions": 256}
    config = GPT2Config(**size, vocab_size=len(vocabulary), bos_token_id=None, eos_token_id=None)
    GPT2LMHeadModel(config).save_pretrained(folder)


if __name__ == "__main__":
    main()
