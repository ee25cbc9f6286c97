"""Which engine a GPU gets, and a whole training by the fused step: killed, resumed, logged.

Without a CUDA device the kernels run in Triton's interpreter, on tiny sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from support.cuda import DEVICE, REASON

from deconstruct.config import SaeConfig
from deconstruct.sae.engines import choice
from deconstruct.sae.engines.choice import first_that_serves, on_gpu
from deconstruct.sae.engines.cuda.check import TOLERANCE, check_spec, disagreement
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.engines.dense import DenseEngine
from deconstruct.sae.engines.engine import Engine
from deconstruct.sae.folding import Scaling
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import StepSpec, step_spec
from deconstruct.sae.training import checkpoint
from deconstruct.sae.training.trainer import Trainer

pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")
TINY = {"d_sae": 12, "k": 2, "batch_size": 4, "tokens": 20, "dead_after_tokens": 8, "aux_k": 3}


def settings(**changes: object) -> SaeConfig:
    return SaeConfig.model_validate(TINY | changes)


def choose(dtype: str = "auto", **changes: object) -> Engine:
    spec = step_spec(settings(**changes), 8)
    return gpu_engine(spec, initial_weights(spec, 0), torch.full((5,), 1e-3), DEVICE, dtype)


gpu_engine = partial(first_that_serves, on_gpu())
"""Chosen as on a GPU, wherever the kernels run."""


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What is found out here about broken kernels is not remembered."""
    disagreement.cache_clear()
    yield
    disagreement.cache_clear()


def test_the_fused_step_agrees_with_the_dense_one_and_is_chosen(
    unchecked: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "deconstruct")
    assert isinstance(choose(), FusedTopK)
    gaps = [float(r.args[1]) for r in caplog.records if "self-check" in r.msg and r.args]
    assert len(gaps) == 4
    assert 0 < max(gaps) < TOLERANCE / 3
    assert "trains by the fused GPU step, which agrees" in caplog.text
    assert isinstance(choose(k=2), FusedTopK)
    assert disagreement.cache_info().hits == 1  # once per process is enough


class Wrong:
    """A kernel after which ``spoil`` is done to its arguments."""

    def __init__(self, kernel: object, spoil: object) -> None:
        self.kernel, self.spoil = kernel, spoil

    def __getitem__(self, grid: object) -> object:
        def launch(*args: object, **more: object) -> None:
            self.kernel[grid](*args, **more)  # type: ignore[index]
            self.spoil(*args)  # type: ignore[operator]

        return launch


def miscompiled(*_: object) -> None:
    raise RuntimeError("out of resource: shared memory")


@pytest.mark.parametrize(
    ("module", "kernel", "spoil", "told"),
    [
        ("decode", "decode_kernel", lambda *a: a[7][::2].mul_(1.5), "W_enc moves otherwise"),
        ("decode", "decode_kernel", lambda *a: a[8][:, 0].fill_(torch.nan), "loss is nan"),
        ("update", "update_rows_kernel", lambda *a: a[3][3].zero_(), "moves otherwise"),
        ("latents", "pace_kernel", miscompiled, "out of resource: shared memory"),
    ],
    ids=["slopes", "nan", "copies", "compilation"],
)
def test_a_broken_kernel_is_found_out(
    module: str,
    kernel: str,
    spoil: object,
    told: str,
    unchecked: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    of = import_module(f"deconstruct.sae.engines.cuda.kernels.{module}")
    monkeypatch.setattr(of, kernel, Wrong(getattr(of, kernel), spoil))
    engine = choose()
    assert isinstance(engine, DenseEngine)
    warning = next(r for r in caplog.records if r.levelno == logging.WARNING)
    assert told in warning.getMessage()
    assert "trains by the dense step" in warning.getMessage()
    engine.step(torch.randn(4, 8))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"architecture": "jumprelu"}, "trains topk, batchtopk, matryoshka, not jumprelu"),
        ({"d_sae": 2000, "k": 600}, "k in 1..512, not 600"),
        ({"dtype": "float32"}, "multiplies in bfloat16"),
    ],
    ids=str,
)
def test_what_it_does_not_do_is_done_densely(
    changes: dict[str, object], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "deconstruct.sae.engines.choice")
    assert isinstance(choose(**changes), DenseEngine)  # type: ignore[arg-type]
    [record] = caplog.records
    assert why in record.getMessage()


def member(folder: Path, **changes: object) -> Trainer:
    """On the fused step, from what ``folder`` holds."""
    folder.mkdir(exist_ok=True)
    scaling = Scaling(torch.linspace(-1, 1, 8, dtype=torch.float64), 2.0)
    return Trainer(settings(**changes), scaling, None, folder, DEVICE)


def tokens(step: int) -> torch.Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(step)) / 8**0.5


def test_a_killed_training_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "on_cpu", on_gpu)
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)  # after every step
    straight = member(tmp_path / "a")
    assert isinstance(straight.engine, FusedTopK)
    while not straight.finished:
        straight.train(tokens(straight.step), None)
    assert [row.step for row in straight.rows] == [1, 2, 3, 4, 5]
    assert straight.rows[-1].dead_share > 0  # and so AuxK had its part
    assert straight.rows[-1].l0 <= 2
    assert straight.rows[-1].fvu == float(straight.engine.losses[4])

    killed = member(tmp_path / "b")
    for step in range(3):
        killed.train(tokens(step), None)
        killed.settle()  # on a card a thread writes the checkpoint
    resumed = member(tmp_path / "b")
    assert resumed.step == 3
    while not resumed.finished:
        resumed.train(tokens(resumed.step), None)
    assert resumed.rows == straight.rows
    ended = straight.engine.state_dict()
    for name, tensor in resumed.engine.state_dict().items():
        assert torch.equal(tensor, ended[name]), name
    sae = resumed.result()
    x = tokens(9)
    assert sae(x).shape == x.shape
    assert torch.equal(sae.W_dec, straight.result().W_dec)


def test_the_check_is_of_the_run_s_own_kernels() -> None:
    spec = StepSpec("topk", 4096, 768, 24576, 32, 0.0, 1.0, 32, 1 / 32, 10_000_000)
    small = check_spec(spec)
    assert (small.d_in, small.k) == (768, 32)
    assert (small.batch, small.d_sae) == (64, 256)
