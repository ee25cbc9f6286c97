"""Bad input through the command: one clear sentence, an exit code that is not 0, in seconds."""

from __future__ import annotations

import csv
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from safetensors.torch import load_file, save_file
from support.running import ROOT, artifacts, deconstruct, patience
from support.texts import write_texts
from support.tiny_models import save_tiny


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    home: Path
    done: CompletedProcess[str]
    seconds: float

    @property
    def sentence(self) -> str:
        """What it said, which must be one line, without any traceback."""
        assert self.done.returncode == 1, self.done.stderr
        assert "Traceback" not in self.done.stderr
        (said,) = [line for line in self.done.stderr.splitlines() if line.startswith("error: ")]
        return said


Start = Callable[..., Future[Ended]]


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, config: Path, server: str, finished: Path
) -> dict[str, Future[Ended]]:
    """Every bad input of this file, two commands at a time: they mostly import."""
    folder = tmp_path_factory.mktemp("bad")
    pool = ThreadPoolExecutor(2)

    def start(*arguments: object, home: Path | None = None, **env: str) -> Future[Ended]:
        root = home or tmp_path_factory.mktemp("bad") / "home"

        def run() -> Ended:
            began = time.monotonic()
            known = {"PREFECT_API_URL": server} | env
            done = deconstruct(root, "run", *arguments, env=known)
            return Ended(root, done, time.monotonic() - began)

        return pool.submit(run)

    empty = folder / "empty.csv"
    empty.write_text("text,label\n")
    one_class = write_texts(folder / "one.csv", 60)
    rows = list(csv.reader(one_class.open()))
    with one_class.open("w", newline="") as handle:
        csv.writer(handle).writerows([rows[0], *([text, "news"] for text, _ in rows[1:])])
    broken = save_tiny("llama", folder / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    in_the_way = folder / "file"
    in_the_way.write_text("")
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "from support.full_disk import full_for\nfull_for('train-00001.parquet')\n"
    )
    path = f"{hook}:{ROOT / 'tests'}:{ROOT}"
    return {
        "unknown field": start(config, "--set", "sae.latents=7"),
        "value": start(config, "--set", "sae.k=many"),
        "k": start(config, "--set", "sae.k=65"),
        "no config": start(folder / "none.toml"),
        "layer": start(config, "--set", "activations.sites=['4.resid_post']"),
        "label": start(config, "--set", "corpus.label_column=subject"),
        "empty": start(config, "--set", f"corpus.source={empty}"),
        "one class": start(config, "--set", f"corpus.source={one_class}"),
        "home": start(config, home=in_the_way / "home"),
        "proc": start(config, home=Path("/proc/home")),
        "full": start(config, PYTHONPATH=path),
        "nan": start(config, "--set", f"model.name={broken}"),
        "few tokens": start(config, "--set", "sae.batch_size=100_000"),
        "device": start(config, "--device", "cuda:9"),
    }


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("unknown field", "sae.latents: no such field"),
        ("value", "sae.k: Input should be a valid integer"),
        ("k", "sae: k = 65 is more than d_sae = 64; lower k"),
        ("no config", "none.toml' can't be read: No such file or directory"),
        ("layer", "'4.resid_post' is out of range, tiny-llama has 4 layers; choose a layer"),
        ("label", "corpus.label_column 'subject': news.csv has no such column; its columns are"),
        ("empty", "corpus.source 'empty.csv' is empty"),
        ("home", "can't be written (Not a directory); name a writable folder with --home"),
        ("proc", "home '/proc/home' can't be written"),
        ("full", "is full while stage activations writes; nothing of it is published"),
        ("nan", "activations at site '1.resid_post' are not finite in document"),
        ("few tokens", "sae.batch_size = 100000 is more than the"),
        ("device", "there is no device 'cuda:9' here"),
    ],
)
def test_bad_input_is_one_sentence(what: str, said: str, ended: dict[str, Future[Ended]]) -> None:
    found = ended[what].result()
    assert said in found.sentence
    assert found.seconds < patience(60)  # two at a time; 4 s alone


def test_what_failed_is_not_published(ended: dict[str, Future[Ended]]) -> None:
    for what, left in {"full": {"corpus"}, "nan": {"corpus"}, "layer": set()}.items():
        found = ended[what].result()
        assert set(artifacts(found.home)) == left
        assert not (found.home / "deconstruct.duckdb").exists()


def test_with_one_class_the_probe_is_skipped_with_a_reason_and_the_rest_runs(
    ended: dict[str, Future[Ended]],
) -> None:
    found = ended["one class"].result()
    assert found.done.returncode == 0, found.done.stderr
    assert "1 class" in found.done.stderr or "one class" in found.done.stderr
    made = artifacts(found.home)
    assert "class" in made["probe"].facts["skipped"]
    assert made["cluster"].facts
    assert "variance unexplained, no outliers" in found.done.stdout


@pytest.mark.parametrize("hub", ["refuses", "is silent"])
def test_without_a_hub_gpt2_ends_in_seconds_with_the_remedy(hub: str, tmp_path: Path) -> None:
    """A fresh home, the command's own server; nothing is waited for longer than it must."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1] if hub == "is silent" else 9
        env = {
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": "0",
        }
        started = time.monotonic()
        found = deconstruct(tmp_path / "home", "run", ROOT / "configs" / "gpt2.toml", env=env)
        seconds = time.monotonic() - started
    said = Ended(tmp_path / "home", found, seconds).sentence
    assert "hub is out of reach" in said
    assert "Take a local Parquet, CSV or JSONL file as corpus.source" in said  # before the model
    assert "configs/embedded.toml" in said
    assert seconds < patience(10)
