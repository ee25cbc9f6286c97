"""The encoders of a card against float64: on a card, or in Triton's interpreter on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from support.alone import ON_GPU
from support.cuda import DEVICE, REASON
from torch import Tensor

from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.engines.cuda.options import GpuOptions, Tiling
from deconstruct.sae.engines.encoding import choice, selected
from deconstruct.sae.engines.encoding.banded import Banded
from deconstruct.sae.engines.encoding.check import fault
from deconstruct.sae.engines.encoding.encoder import BATCH_BYTES, Fired
from deconstruct.sae.engines.encoding.selected import Room, SelectedTopK, candidates_of, unsuited

needs_triton = pytest.mark.skipif(REASON is not None, reason=REASON or "")
K = 4


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes a tenth of a second for a row that is filled up."""
    if not ON_GPU:
        monkeypatch.setattr(selected, "STEP_ROWS", 2)


def drawn(d_in: int, d_sae: int, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    weights = {
        "W_enc": torch.randn(d_in, d_sae, generator=draw) / d_in**0.5,
        "b_enc": 0.1 * torch.randn(d_sae, generator=draw),
        "W_dec": torch.randn(d_sae, d_in, generator=draw),
        "b_dec": 3 * torch.randn(d_in, generator=draw),
    }
    return {name: weight.to(DEVICE) for name, weight in weights.items()}


def tokens(n: int, d_in: int, around: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return (torch.randn(n, d_in, generator=draw) + around.cpu()).to(DEVICE)


def dense(fired: Fired, d_sae: int) -> Tensor:
    """float32 [n, d_sae], on the CPU."""
    counts, latents, values = (part.cpu() for part in fired)
    found = torch.zeros(len(counts), d_sae)
    found[torch.arange(len(counts)).repeat_interleave(counts), latents.long()] = values
    return found


def chosen(weights: Mapping[str, Tensor], x: Tensor, k: int) -> Tensor:
    """The k largest positive of each token in float64, of equals the first; [n, d_sae]."""
    w = {name: weight.cpu().double() for name, weight in weights.items()}
    pre = (x.cpu().double() @ w["W_enc"] + w["b_enc"]).clamp(min=0)
    order = pre.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(pre).scatter(1, order, pre.gather(1, order))


def agree(found: Tensor, wanted: Tensor) -> None:
    assert torch.equal(found > 0, wanted > 0)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@needs_triton
@pytest.mark.parametrize("sizes", [(6, 20, 71), (1, 9, 3)], ids=str)
def test_the_k_chosen_are_those_of_float64(sizes: tuple[int, int, int]) -> None:
    n, d_in, d_sae = sizes
    weights, k = drawn(d_in, d_sae), min(K, d_sae)
    x = tokens(n, d_in, weights["b_dec"])
    agree(dense(SelectedTopK(weights, k)(x), d_sae), chosen(weights, x, k))


@needs_triton
def test_of_equal_latents_the_first_fire_and_none_where_none_is_positive() -> None:
    d_in, d_sae = 16, 160
    weights = drawn(d_in, d_sae)
    twins = torch.arange(30, 150, 10, device=DEVICE)  # more than k
    weights["W_enc"][:, 0] *= 2
    weights["W_enc"][:, twins] = weights["W_enc"][:, :1]
    weights["b_enc"][twins] = float(weights["b_enc"][0])
    x = tokens(6, d_in, weights["b_dec"])
    x[:2] = weights["b_dec"] + 20 * weights["W_enc"][:, 0]  # they are this one's largest
    found = dense(SelectedTopK(weights, K)(x), d_sae)
    agree(found, chosen(weights, x, K))
    assert found[0].nonzero()[:, 0].tolist() == [0, 30, 40, 50]
    weights["b_enc"] -= 10.0
    weights["b_enc"][[5, 50, 100]] += torch.tensor([20.0, 11.0, 20.0], device=DEVICE)
    found = dense(SelectedTopK(weights, K)(x), d_sae)
    agree(found, chosen(weights, x, K))
    assert 0 < int((found[2:] > 0).sum(1).max()) < K  # fewer than k are positive
    weights["b_enc"] -= 1000.0
    counts, latents, values = SelectedTopK(weights, K)(x)
    assert counts.tolist() == [0] * 6
    assert len(latents) == len(values) == 0


@needs_triton
@pytest.mark.skipif(ON_GPU, reason="by tiles that are the interpreter's")
def test_the_product_by_tma(monkeypatch: pytest.MonkeyPatch) -> None:
    from deconstruct.sae.engines.cuda.buffers import Card

    monkeypatch.setattr(Card, "of", classmethod(lambda cls, device: cls(3, (9, 0))))
    tiling = replace(Tiling(), encode_block=(16, 64, 16), encode_warps=4, encode_stages=2)
    weights = drawn(24, 136)
    x = tokens(17, 24, weights["b_dec"])
    encoder = SelectedTopK(weights, K, GpuOptions(encoder="fused", tiling=tiling))
    agree(dense(encoder(x), 136), chosen(weights, x, K))


@pytest.mark.parametrize("name", ["batchtopk", "jumprelu", "gated", "relu", "topk"])
def test_bands_find_what_the_formula_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = drawn(8, 40)
    some = torch.linspace(-1, 1, 40, device=DEVICE)
    weights |= {"threshold": some.abs(), "b_gate": some, "b_mag": 0.5 * some, "r_mag": some}
    monkeypatch.setattr("deconstruct.sae.engines.encoding.banded.BATCH_BYTES", 64 * 40 * 5)
    banded = Banded(ARCHITECTURES[name], weights, K)
    assert banded.rows == 5
    x = tokens(5, 8, weights["b_dec"])
    w = {n: weight.cpu() for n, weight in weights.items()}
    wanted = ARCHITECTURES[name].encode(w, x.cpu(), K)
    torch.testing.assert_close(dense(banded(x), 40), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d_sae", [8192, 24_576, 131_072, 1_048_576])
@pytest.mark.parametrize(("d_in", "k"), [(640, 32), (768, 256), (8192, 64)])
def test_a_batch_takes_no_more_memory_than_is_said(d_in: int, d_sae: int, k: int) -> None:
    a_token = Room.bytes_a_token(d_in, d_sae, candidates_of(k, d_sae))
    nowhere = {"W_enc": torch.empty(d_in, d_sae, device="meta"),
               "b_enc": torch.empty(d_sae, device="meta"),
               "b_dec": torch.empty(d_in, device="meta")}  # fmt: skip
    if REASON is not None:
        pytest.skip(REASON)
    encoder = SelectedTopK(nowhere, k)
    spec = selected._spec(encoder.rows, d_in, d_sae, encoder.candidates)
    room = Room(spec, encoder._weights, encoder._card, GpuOptions())
    taken = [value for value in vars(room).values() if isinstance(value, Tensor)]
    own = sum(t.nbytes for t in taken if t is not room.enc and t is not room.bias_half)
    assert own < encoder.rows * a_token + 4 * d_sae
    assert encoder.rows * a_token + selected.REFINE_BYTES <= BATCH_BYTES
    assert encoder.rows % selected.STEP_ROWS == 0


def test_sizes_that_are_not_for_it() -> None:
    assert "k up to 256, not 300" in (unsuited(768, 24_576, 300) or "")
    assert "d_in up to 8192, not 9000" in (unsuited(9000, 24_576, 32) or "")
    assert unsuited(768, 24_576, 256) is None


@needs_triton
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda c, latents, v: (c, latents.flip(0), v), "not in order"),
        (lambda c, latents, v: (c, latents, v * 1.001), "another activation"),
        (lambda c, latents, v: (c, latents, v[1:]), "counts"),
        (lambda c, latents, v: (c * 0, latents[:0], v[:0]), "misses one of the k largest"),
    ],
    ids=["order", "values", "counts", "misses"],
)
def test_what_is_wrong_is_found_out(spoil: object, told: str) -> None:
    weights = drawn(16, 96)
    x, sound = tokens(3, 16, weights["b_dec"]), SelectedTopK(weights, K)
    assert fault(sound, weights, K, x) is None

    class Spoilt:
        title, rows = "spoilt", sound.rows

        def __call__(self, x: Tensor) -> Fired:
            fired: Fired = spoil(*sound(x))  # type: ignore[operator]
            return fired

    assert told in (fault(Spoilt(), weights, K, x) or "")


@needs_triton
@pytest.mark.parametrize("how", ["wrong", "raises"])
def test_where_it_is_wrong_dense_products_serve_and_the_log_says_why(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sound = SelectedTopK.__call__

    def broken(self: SelectedTopK, x: Tensor) -> Fired:
        counts, latents, values = sound(self, x)
        if how == "raises":
            raise RuntimeError("no such instruction")
        return counts, latents, 2 * values

    monkeypatch.setattr(SelectedTopK, "__call__", broken)
    weights = drawn(16, 96)
    x = tokens(3, 16, weights["b_dec"])
    monkeypatch.setattr("deconstruct.sae.engines.encoding.banded.BATCH_BYTES", 64 * 96 * 2)
    with caplog.at_level(logging.INFO):
        encoder = choice.Proven(weights, K, Banded(ARCHITECTURES["topk"], weights, K))
        agree(dense(encoder(x), 96), chosen(weights, x, K))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "by dense products in float32: " in record.message
    assert {"wrong": "another activation", "raises": "no such instruction"}[how] in record.message


@pytest.mark.parametrize(
    ("name", "k", "transcoder", "told"),
    [
        ("jumprelu", 4, False, "is for topk, not jumprelu"),
        ("topk", 4, True, "not transcoders"),
        ("topk", 300, False, "k up to 256"),
    ],
)
def test_what_it_is_not_for_is_said(
    name: str, k: int, transcoder: bool, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = choice.encoder_for(ARCHITECTURES[name], drawn(4, 1000), k, transcoder)
    assert isinstance(found, Banded)
    assert told in caplog.text


def test_without_triton_dense_products_serve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reason = "the fused GPU step needs Triton, which is not installed"
    monkeypatch.setattr(choice, "unavailable", lambda device: reason)
    with caplog.at_level(logging.INFO):
        found = choice.encoder_for(ARCHITECTURES["topk"], drawn(4, 40), K, False)
    assert isinstance(found, Banded)
    assert reason in caplog.text
