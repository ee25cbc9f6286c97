"""What all stages of the check share: a data root, a model of random weights, a corpus."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.gpu.clock import wait
from benchmarks.gpu_check.running.job import Job, Record, say
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import CorpusConfig, ModelConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.model.resolve import ResolvedModel, resolve

R = TypeVar("R")

_TESTS = Path(__file__).resolve().parents[3] / "tests"
_GPT2_SMALL = {"n_embd": 768, "n_head": 12}


@dataclass(frozen=True)
class Bench:
    """folder: takes what is made. device: of `torch`, with its number, as stages take it."""

    job: Job
    record: Record
    folder: Path
    device: str

    def clock(self, name: str, work: Callable[[], R]) -> R:
        """What ``work`` returns; its seconds go to the record's timings."""
        began = time.perf_counter()
        made = work()
        wait(self.device.split(":")[0])
        took = round(time.perf_counter() - began, 2)
        self.record.setdefault("timings", {})[name] = took
        self.record.keep()
        say("pipeline", name, took, "s")
        return made

    def rate(self, name: str, tokens: int) -> float:
        """Tokens a second of what `clock` has timed."""
        return tokens / max(0.01, float(self.record["timings"][name]))

    def root(self, name: str) -> DataRoot:
        """A data root of its own: nothing in it comes from another's cache."""
        return DataRoot(self.folder / name)


@dataclass(frozen=True)
class Corpus:
    """The texts as the run's own root has them, and what makes them anew in another root."""

    root: DataRoot
    model: ResolvedModel
    config: CorpusConfig
    artifact: Artifact

    @property
    def tokens(self) -> int:
        """Of all documents."""
        return int(self.artifact.facts["tokens"])


def tokenise(root: DataRoot, config: CorpusConfig, model: ResolvedModel) -> Artifact:
    """The corpus of a configuration."""
    return corpus.tokenise(root, config, source=sources.resolve(config), model=model)


def make_corpus(bench: Bench) -> Corpus:
    """GPT-2 small (in a smoke test, a tiny one) with random weights, and texts of three labels."""
    sys.path.insert(0, str(_TESTS))
    from support.texts import write_texts
    from support.tiny_models import save_tiny

    smoke, at = bench.job.smoke, bench.folder / "gpt2"
    if smoke:
        bench.clock("model made", lambda: save_tiny("gpt2", at))
    else:
        bench.clock("model made", lambda: save_tiny("gpt2", at, layers=12, changes=_GPT2_SMALL))
    texts = write_texts(bench.folder / "texts.csv", 60 if smoke else 6000, longest=60)
    root = bench.root("home")
    model = resolve(root, ModelConfig(name=str(at)))
    config = CorpusConfig(source=str(texts), max_tokens=24 if smoke else 128)
    made = Corpus(root, model, config, bench.clock("corpus", lambda: tokenise(root, config, model)))
    bench.record["tokens"] = made.tokens
    return made
