"""Fixtures that several test files share: a small real model, labelled texts, their artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import support.alone  # noqa: F401 - before all that reads the environment
from hypothesis import settings
from support.dense_latents import sae_of
from support.growing import Home, grow
from support.texts import write_texts
from support.tiny_models import save_tiny

from deconstruct.activations import stage as activations
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import ActivationsConfig, CorpusConfig, ModelConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.model.resolve import ResolvedModel, resolve

settings.register_profile("fixed", derandomize=True)  # the same examples on every machine
settings.load_profile("fixed")

LONGEST = ("runs", "sae")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of two processes that share the files (make test), neither gets a long one at the end."""
    if hasattr(config, "workerinput"):
        for folder in reversed(LONGEST):
            items.sort(key=lambda item: folder not in item.path.parts)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 4-layer Llama with random weights."""
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 120 labelled texts."""
    return write_texts(tmp_path_factory.mktemp("texts") / "news.csv")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> DataRoot:
    """A data root that the session's tests share; don't damage what is in it."""
    return DataRoot(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def model(root: DataRoot, tiny_model: Path) -> ResolvedModel:
    """The small model, resolved."""
    return resolve(root, ModelConfig(name=str(tiny_model), dtype="float32"))


@pytest.fixture(scope="session")
def corpus_artifact(root: DataRoot, texts: Path, model: ResolvedModel) -> Artifact:
    """The labelled texts, tokenised for the small model."""
    config = CorpusConfig(source=str(texts), max_tokens=24)
    return corpus.tokenise(root, config, source=sources.resolve(config), model=model)


@pytest.fixture
def growing(tmp_path: Path, model: ResolvedModel) -> Home:
    """A data root of its own, for a corpus that grows."""
    return Home(DataRoot(tmp_path / "home"), model)


@pytest.fixture
def grown(texts: Path, tmp_path: Path) -> Path:
    """The texts and some more."""
    return grow(texts, tmp_path)


@pytest.fixture(scope="session")
def activations_artifact(
    root: DataRoot, corpus_artifact: Artifact, model: ResolvedModel
) -> Artifact:
    """Activations of the small model at 1.resid_post, in several shards."""
    config = ActivationsConfig(sites=("1.resid_post",), shard_tokens=512)
    made = activations.extract(root, config, model=model, corpus=corpus_artifact, device="cpu")
    return next(iter(made.values()))


@pytest.fixture(scope="session", params=["topk", "relu"])
def planted_sae(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    activations_artifact: Artifact,
) -> Artifact:
    """An SAE with planted latents over those activations, of a kind that fixes k and one not."""
    d_in = ActivationReader(activations_artifact).d_in
    return sae_of(tmp_path_factory.mktemp("sae"), d_in, request.param)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """``host:port`` of a real S3 server on localhost; it takes the keys test, test."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def new_bucket(s3_server: str) -> Callable[[str], str]:
    """Makes a bucket on the local S3 server; gives the query part of its URLs."""

    def make(name: str) -> str:
        from pyarrow import fs

        keys = {"access_key": "test", "secret_key": "test", "region": "us-east-1"}
        fs.S3FileSystem(
            endpoint_override=f"http://{s3_server}", allow_bucket_creation=True, **keys
        ).create_dir(name)
        return f"?endpoint_override={s3_server}&scheme=http"

    return make
