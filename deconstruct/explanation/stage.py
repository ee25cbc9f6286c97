"""The stage explanation: a language model's words for latents, and how well they hold.

Of each latent it is shown contexts of train documents, from all quantiles of the activations, and
asked for a sentence; by that sentence it then judges held-out contexts (`judging`). Every question
and answer is kept, so that a second run asks nothing again. Another day the same endpoint may
answer otherwise: what is stored is what was answered, not what would be.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.common.errors import ConfigError
from deconstruct.common.progress import track
from deconstruct.config import ExplanationConfig
from deconstruct.explanation import prompts
from deconstruct.explanation.endpoint import Answers, Endpoint, Reply
from deconstruct.explanation.judging import Judged, judge
from deconstruct.explanation.questions import Side, firing_contexts
from deconstruct.explanation.tables import (
    EXPLANATION_ITEMS,
    EXPLANATION_SCORES,
    EXPLANATIONS,
    RESPONSES,
)
from deconstruct.interpretation.stage import sampled

log = logging.getLogger(__name__)

VERSION = 1


def recipe(config: ExplanationConfig, *, corpus: Artifact, latents: Artifact) -> Recipe:
    """All that decides what is asked, and who is asked by name."""
    inputs = keys_of(corpus=corpus, latents=latents)
    return Recipe("explanation", VERSION, config.key_fields(), inputs)


def explain(
    root: DataRoot, config: ExplanationConfig, *, corpus: Artifact, latents: Artifact
) -> Artifact:
    """Ask an endpoint: ``explanations``, ``explanation_items`` and ``explanation_scores``.

    Answers of earlier artifacts, and of an attempt that was ended, are taken from there. Facts:
    ``model``, ``prompts``, ``tokens_in`` and ``tokens_out`` of all of them. Raises ``ConfigError``
    without endpoint or model, or for a latent that the SAE has not; ``SourceUnreachable`` if the
    endpoint does not answer.
    """

    def write(draft: Draft) -> None:
        if config.endpoint is None or config.model is None:
            raise ConfigError(
                "explanation.endpoint and explanation.model say who is asked, and one of them is "
                "none; set both, as by --endpoint http://localhost:8000/v1 --model NAME"
            )
        endpoint = Endpoint(config.endpoint, config.model)
        wanted = chosen(latents, config)
        train, held_out = (
            Side.of(corpus, latents, split, config, wanted) for split in ("train", "test")
        )
        answers = Answers(endpoint, known(root), draft.scratch / "responses.jsonl")

        def ask(latent: int) -> tuple[dict[str, Any], Judged]:
            own = _explained(config, train, latent, answers)
            return own, judge(config, held_out, latent, own["text"], answers)

        with (
            track("explanation", len(wanted), "latents") as advance,
            ThreadPoolExecutor(config.at_once) as pool,
        ):
            waiting = [pool.submit(ask, latent) for latent in wanted.tolist()]
            found = []
            try:
                for one in waiting:
                    found.append(one.result())
                    advance()
            finally:
                answers.stopped.set()
                pool.shutdown(cancel_futures=True)
        _write(draft, config, answers, found)

    return root.make(recipe(config, corpus=corpus, latents=latents), write)


STAGE = Stage("explanation", recipe, explain)


def chosen(latents: Artifact, config: ExplanationConfig) -> NDArray[np.int64]:
    """``config.only``, or a sample of those that fire, drawn as the stage interpretation draws."""
    if not config.only:
        return sampled(latents, config.latents, config.seed)
    d_sae = len(latents.table("features.parquet", ["latent"]))
    missing = [latent for latent in config.only if not 0 <= latent < d_sae]
    if missing:
        raise ConfigError(
            f"explanation.only names latent {missing[0]}, and the SAE has {d_sae}; name latents "
            f"from 0 to {d_sae - 1}"
        )
    return np.array(sorted(set(config.only)), np.int64)


def known(root: DataRoot) -> dict[str, Reply]:
    """What was answered to the prompts of all artifacts of this stage that are there."""
    found = {}
    for artifact in root.artifacts("explanation"):
        if RESPONSES.file in artifact.manifest.files:
            for row in artifact.table(RESPONSES.file).to_pylist():
                reply = Reply(row["response"], row["tokens_in"], row["tokens_out"])
                found[str(row["prompt"])] = reply
    return found


def _explained(
    config: ExplanationConfig, train: Side, latent: int, answers: Answers
) -> dict[str, Any]:
    """A row of ``explanations``: of a latent that fires on no train token, without a text."""
    draw = np.random.default_rng([config.seed, latent])
    shown = firing_contexts(train, latent, config.shown, config.quantiles, draw)
    row: dict[str, Any] = {"latent": latent, "text": None, "model": config.model, "prompt": None}
    row["shown"] = [int(train.texts.index[one.place]) for one in shown]
    if shown:
        prompt = prompts.explain(
            [
                train.excerpt(one.place, config.width, train.near(latent, one.place, config.width))
                for one in shown
            ]
        )
        row["prompt"] = answers.endpoint.digest(prompt)
        row["text"] = prompts.sentence_of(answers.of(prompt))
    return row


def _write(
    draft: Draft,
    config: ExplanationConfig,
    answers: Answers,
    found: list[tuple[dict[str, Any], Judged]],
) -> None:
    """All tables, and the facts."""
    draft.write_table(EXPLANATIONS.file, EXPLANATIONS.of_rows([row for row, _ in found]))
    items = [item for _, judged in found for item in judged.items]
    draft.write_table(EXPLANATION_ITEMS.file, EXPLANATION_ITEMS.of_rows(items))
    scores = [score for _, judged in found for score in judged.scores]
    draft.write_table(EXPLANATION_SCORES.file, EXPLANATION_SCORES.of_rows(scores))
    used = sorted(answers.used.items())
    draft.write_table(
        RESPONSES.file,
        RESPONSES.of_rows(
            [
                {
                    "prompt": p,
                    "response": r.text,
                    "tokens_in": r.tokens_in,
                    "tokens_out": r.tokens_out,
                }
                for p, r in sorted(answers.known.items())
            ]
        ),
    )
    tokens_in = sum(reply.tokens_in for _, reply in used)
    tokens_out = sum(reply.tokens_out for _, reply in used)
    draft.facts |= {
        "model": config.model, "latents": len(found), "prompts": len(used),
        "tokens_in": tokens_in, "tokens_out": tokens_out,
        "failed": sum(score["failed"] for score in scores),
    }  # fmt: skip
    log.info(
        "explanation  %d questions, %d asked anew: %d tokens in, %d out",
        len(used), answers.asked, tokens_in, tokens_out,
    )  # fmt: skip
