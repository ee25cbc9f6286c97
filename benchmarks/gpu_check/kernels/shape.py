"""Two steps of one shape: every result of every kernel against float64, or exactly."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu.clock import wait
from benchmarks.gpu.sizes import topk_spec
from benchmarks.gpu_check.engine import FusedTopK, buffers_of, room_of
from benchmarks.gpu_check.inputs import Shape, device_of, shapes, start_weights, tokens
from benchmarks.gpu_check.kernels import forward, repeats, update
from benchmarks.gpu_check.kernels.auxk import dead_gradients
from benchmarks.gpu_check.kernels.findings import Findings
from benchmarks.gpu_check.kernels.gradients import check_gradients
from benchmarks.gpu_check.kernels.made import Made
from benchmarks.gpu_check.running.job import Job, Record
from deconstruct.sae.engines.engine import UnfitError

RATE = 1e-3


def measure(job: Job, record: Record) -> None:
    """Check the shape that is the job's subject."""
    device, shape = device_of(job), shapes(job.smoke)[job.subject]
    began = time.perf_counter()
    engine, dead = _begin(shape, device)
    record["compile_s"] = round(time.perf_counter() - began, 1)
    batch, silent = shape.sizes.batch, engine.spec.dead_after
    findings = Findings()
    x = tokens(2 * batch, shape.sizes.d_in, 3, device)
    first = {name: tensor.clone() for name, tensor in engine.state_dict().items()}
    for number, rows in enumerate(torch.split(x, batch)):
        made = Made.by(engine, number, rows, findings)
        wait(device)
        if shape.nests:  # the rest is checked by `_as_a_run`
            forward.check_choice_of_batch(made)
        else:
            _check(made)
        # the same latents are dead in the next step again
        engine.state_dict()["since_fired"].copy_(torch.where(dead, silent, 0))
    findings.at = ""
    some = (1, 2) if job.smoke else (3, 6)
    repeats.same_bytes(findings, engine, first, x[:batch], *some)
    repeats.not_a_number(findings, engine, first, x[:batch])
    if engine.options.moments == "float32":  # as in every run
        _as_a_run(engine, first, x[:batch], findings, record)
    record |= {"fused_product": buffers_of(engine).fused, "room": room_of(engine)}
    record |= {"checks": len(findings.rows), "bad": findings.bad, "rows": findings.rows}
    if device == "cuda":
        record["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9


def _as_a_run(
    engine: FusedTopK, first: dict[str, Tensor], x: Tensor, findings: Findings, record: Record
) -> None:
    """A run's check of its own first step raises no false alarm; how long it takes with the step,
    the second time."""
    for _ in range(2 if x.is_cuda else 1):
        engine.load_state_dict(first)
        wait(x.device.type)
        began = time.perf_counter()
        try:
            engine.first_step(x)
            said = "nothing is off"
        except UnfitError as error:
            said = str(error)
        record["first_step_s"] = round(time.perf_counter() - began, 3)
    record["first_step"] = said
    findings.true("a run's check of its first step", said == "nothing is off")


def _begin(shape: Shape, device: str) -> tuple[FusedTopK, Tensor]:
    """The compiled engine, and which latents are dead before its first step: bool [d_sae]."""
    silent = 1000 * shape.sizes.batch
    spec = topk_spec(shape.sizes, shape.clip_norm, shape.k_aux, silent, epsilon=1e-6)
    ends = tuple(shape.sizes.d_sae >> n for n in reversed(range(shape.nests)))
    if shape.nests:
        name = "matryoshka" if shape.nests > 1 else "batchtopk"
        spec = replace(spec, architecture=name, prefixes=ends if shape.nests > 1 else ())
    weights, rates = start_weights(spec, device), torch.full((64,), RATE)
    engine = FusedTopK(spec, weights, rates, device, shape.options)
    draw = torch.Generator(device).manual_seed(5)
    dead = torch.rand(spec.d_sae, generator=draw, device=device) < shape.dead_share
    engine.load_state_dict({**engine.state_dict(), "since_fired": silent * dead.long()})
    engine.prepare()
    return engine, dead


def _check(made: Made) -> None:
    """All that a step computes."""
    forward.check_center(made)
    forward.check_choice(made)
    forward.check_order(made)
    forward.check_decode(made)
    aux = dead_gradients(made)
    gradients = check_gradients(made, aux)
    due = update.check_counts(made, aux)
    update.check_rows(made, gradients, due, RATE)
    update.check_biases(made, gradients, due, RATE)
    update.check_copies(made)
