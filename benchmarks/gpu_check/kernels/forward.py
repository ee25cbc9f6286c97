"""From a batch to its errors: centring, the product, the choice, sorted pairs, decoding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.gpu_check.kernels.findings import relative
from benchmarks.gpu_check.kernels.made import Made


def check_center(made: Made) -> None:
    """Batches without the decoder's bias, to the bit."""
    centered = (made.x.float() - made.before["b_dec"]).bfloat16()
    made.findings.equal("center_kernel, bits", made.buffers.centered, centered)


def check_choice(made: Made) -> None:
    """The product in bf16, and exactly: its maxima by group, which entries are chosen, theirs."""
    spec, b, findings = made.spec, made.buffers, made.findings
    bias = (made.before["b_enc"] if b.fused else made.bias_half).double()
    enc = made.enc.double()
    worst, gaps, squares = 0.0, 0.0, 0.0
    alike = dict.fromkeys(("maxima", "choice", "values"), True)
    for rows in made.pieces(spec.d_sae):
        exact = b.centered[rows].double() @ enc.T + bias
        gap = b.pre[rows].double() - exact
        rms = float(exact.square().mean().sqrt())
        worst = max(worst, float((gap.abs() / (exact.abs() + 0.1 * rms)).max()))
        gaps, squares = gaps + float(gap.square().sum()), squares + float(exact.square().sum())
        if not math.isfinite(gaps):
            break
        del exact, gap
        for name, same in _choice_of(made, rows).items():
            alike[name] &= same
    findings.at_most("encode, relative error", (gaps / squares) ** 0.5, 4e-3)
    findings.at_most("encode, worst entry in bf16 roundings", worst * 256, 3.0)
    findings.true("maxima of groups, bits", alike["maxima"])
    findings.true("select_kernel's choice, exactly", alike["choice"])
    findings.true("select_kernel's values, exactly", alike["values"])


def _choice_of(made: Made, rows: slice) -> dict[str, bool]:
    """Whether maxima, choice and values are those of these rows of the product, as it stands.

    Ties go to the lower latent: entries are ranked by their bits, then by how far from the end.
    """
    b, d_sae = made.buffers, made.spec.d_sae
    bits = b.pre[rows].view(torch.int16).clamp(min=0).int()
    groups = b.maxima.shape[1]
    padded = torch.nn.functional.pad(bits, (0, groups * b.group - d_sae))
    top = padded.view(len(bits), groups, b.group).amax(2)
    key = bits.long() * d_sae + torch.arange(d_sae - 1, -1, -1, device=bits.device)
    best = key.topk(made.spec.k, dim=1)
    index = torch.where(best.values >= d_sae, best.indices, d_sae).sort(1).values
    real = index < d_sae
    value = b.pre[rows].float().gather(1, index.clamp(max=d_sae - 1)) * real
    return {
        "maxima": torch.equal(b.maxima[rows].clamp(min=0).int(), top),
        "choice": torch.equal(made.by_token(b.index)[rows].long(), index),
        "values": torch.equal(made.by_token(b.value)[rows], value),
    }


def check_choice_of_batch(made: Made) -> None:
    """BatchTopK's pairs, exactly: those above the level, and of those equal to it the first."""
    spec, b, findings = made.spec, made.buffers, made.findings
    bits = b.pre.view(torch.int16).clamp(min=0)
    wanted, level = spec.batch * spec.k, int(b.level)
    left = wanted - int((bits > level).sum())
    tied = (bits == level).flatten().nonzero().squeeze(1) if level else b.order[:0]
    take = bits > level
    take.view(-1)[tied[: max(0, left)]] = True
    token, latent = take.nonzero(as_tuple=True)
    pairs = len(token)
    findings.true("level of the batch", 0 < left <= len(tied) or (level == 0 and left >= 0))
    findings.equal("list_kernel's tokens", b.token[:pairs].long(), token)
    findings.equal("list_kernel's latents", b.index[:pairs].long(), latent)
    findings.equal("list_kernel's values", b.value[:pairs], b.pre[take].float())
    findings.true("no further pairs", bool((b.index[pairs:] == spec.d_sae).all()))
    ends = torch.cat([token.new_zeros(1), take.sum(1).cumsum(0)])
    findings.equal("offsets of tokens", b.token_ptr.long(), ends)


def firings(made: Made) -> tuple[Tensor, Tensor]:
    """Latents of all pairs, [batch * k], d_sae where there is none; firings per latent, [d_sae]."""
    flat, d_sae = made.buffers.index.flatten().long(), made.spec.d_sae
    return flat, torch.bincount(flat, minlength=d_sae + 1)[:d_sae]


def check_order(made: Made) -> None:
    """The firing pairs by latent, and by token within a latent."""
    b, findings = made.buffers, made.findings
    flat, counts = firings(made)
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    pairs = int(ends[-1])
    ranked = flat.sort(stable=True)
    findings.equal("runs of the sorted pairs", b.row_ptr.long(), ends)
    findings.equal("order of the pairs", b.order[:pairs], ranked.indices[:pairs])
    for name, of in (("token", b.token), ("value", b.value), ("slope", b.slope)):
        findings.equal(f"{name} of the sorted pairs", b.runs[name], of[b.order])
    findings.equal("latents of the sorted pairs", b.latents.long(), ranked.values)


def check_decode(made: Made) -> None:
    """Errors, slopes and losses of tokens, from the pairs that were chosen."""
    spec, b, findings = made.spec, made.buffers, made.findings
    sums = dict.fromkeys(("error gap", "error", "slope gap", "slope"), 0.0)
    loss_gap = 0.0
    for rows in made.pieces(spec.k * spec.d_in):
        index = made.by_token(b.index)[rows].long()
        real = (index < spec.d_sae).unsqueeze(2)
        w = made.dec[index.clamp(max=spec.d_sae - 1)].double() * real
        value = made.by_token(b.value)[rows].double()
        e = (w * value.unsqueeze(2)).sum(1) - b.centered[rows].double()
        slope = (w * e.unsqueeze(1)).sum(2)
        del w
        sums["error gap"] += float((b.error[0, rows].double() - e).square().sum())
        sums["error"] += float(e.square().sum())
        sums["slope gap"] += float((made.by_token(b.slope)[rows].double() - slope).square().sum())
        sums["slope"] += float(slope.square().sum())
        loss = e.square().sum(1)
        loss_gap = max(loss_gap, float(((b.loss[0, rows].double() - loss) / loss).abs().max()))
    findings.at_most("decode_kernel's error", (sums["error gap"] / sums["error"]) ** 0.5, 4e-3)
    findings.at_most("decode_kernel's slopes", (sums["slope gap"] / sums["slope"]) ** 0.5, 1e-4)
    findings.at_most("decode_kernel's loss per token", loss_gap, 1e-4)
    size = b.centered.double().square().sum(1)
    findings.at_most("|centered|^2", relative(b.size, size), 1e-5)
    logged = made.engine.losses[made.number]
    findings.at_most("the loss in the log", relative(logged, b.loss.double().mean()), 1e-5)
