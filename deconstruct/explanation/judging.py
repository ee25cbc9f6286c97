"""Scores by a language model's answers: intruder, detection and fuzzing, item by item.

Detection (Paulo et al. 2024, arXiv 2410.13928): in which contexts does the latent fire? Half are
such in which it does, the others silent throughout; a guess at the topic goes far. Fuzzing: are the
marked tokens those that it fires on? All contexts are such in which it fires, and in half of them
as many other tokens are marked, so that the topic alone tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from deconstruct.config import ExplanationConfig
from deconstruct.explanation import prompts
from deconstruct.explanation.endpoint import Answers
from deconstruct.explanation.questions import (
    Context,
    Side,
    firing_contexts,
    silent_contexts,
    wrong_marks,
)
from deconstruct.interpretation.intruders import CHANCE, trials_of
from deconstruct.interpretation.scores import Score, balanced_accuracy, share_found

INTRUDER, DETECTION, FUZZING = "intruder-endpoint", "detection", "fuzzing"
BALANCED = 0.5
"""Balanced accuracy of whoever always gives the same answer."""


@dataclass
class Judged:
    """Rows of ``explanation_items`` and ``explanation_scores`` of one latent."""

    items: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)

    def score(self, latent: int, method: str, floor: float, score: Score) -> None:
        value, n, failed, low, high = score
        self.scores.append(
            {"latent": latent, "method": method, "value": value, "n": n, "failed": failed,
             "floor": floor, "ci_low": low, "ci_high": high}
        )  # fmt: skip


class Question(NamedTuple):
    """A held-out context that is judged: the excerpt, and what the right answer is."""

    context: Context
    excerpt: str
    truth: bool


def judge(
    config: ExplanationConfig, side: Side, latent: int, explanation: str | None, answers: Answers
) -> Judged:
    """All scores of a latent; detection and fuzzing only where it has an explanation."""
    judged = Judged()
    draw = np.random.default_rng([config.seed, latent, 1])
    if config.trials:
        _intruders(config, side, latent, answers, judged)
    if explanation is not None:
        firing = firing_contexts(side, latent, 2 * config.scored, config.quantiles, draw)
        firing = [firing[i] for i in draw.permutation(len(firing))]
        half = min(config.scored, len(firing) // 2)
        silent = silent_contexts(side, latent, config.scored, config.width, firing, draw)
        kinds: tuple[tuple[str, Callable[[str, Sequence[str]], str], list[Question]], ...] = (
            (DETECTION, prompts.detect, _detection(config, side, firing, silent)),
            (FUZZING, prompts.fuzz, _fuzzing(config, side, latent, firing[: 2 * half], draw)),
        )
        for method, prompt, questions in kinds:
            shuffled = [questions[i] for i in draw.permutation(len(questions))]
            found = _answered(shuffled, config.batch, explanation, prompt, answers)
            _noted(judged, side, latent, method, shuffled, found)
    return judged


def _detection(
    config: ExplanationConfig, side: Side, firing: list[Context], silent: list[Context]
) -> list[Question]:
    """As many contexts in which it fires as in which it is silent, nothing marked."""
    most = min(config.scored, len(firing), len(silent))
    pairs = [(one, True) for one in firing[:most]] + [(one, False) for one in silent[:most]]
    return [Question(one, side.excerpt(one.place, config.width, ()), truth) for one, truth in pairs]


def _fuzzing(
    config: ExplanationConfig,
    side: Side,
    latent: int,
    firing: list[Context],
    draw: np.random.Generator,
) -> list[Question]:
    """Contexts in which it fires, every second one with other tokens marked than it fires on."""
    found = []
    for number, one in enumerate(firing):
        right = number % 2 == 0
        marks = side.near(latent, one.place, config.width)
        if not right:
            marks = wrong_marks(side, latent, one.place, config.width, draw)
        if marks:
            excerpt = side.excerpt(one.place, config.width, marks)
            found.append(Question(one, excerpt, right))
    return found


def _answered(
    questions: list[Question],
    batch: int,
    explanation: str,
    prompt: Callable[[str, Sequence[str]], str],
    answers: Answers,
) -> list[bool | None]:
    """What was answered to each; None to all of a batch whose answer can't be read."""
    found: list[bool | None] = []
    for start in range(0, len(questions), batch):
        own = [one.excerpt for one in questions[start : start + batch]]
        said = prompts.list_of(answers.of(prompt(explanation, own)), len(own))
        found += said if said is not None else [None] * len(own)
    return found


def _noted(
    judged: Judged,
    side: Side,
    latent: int,
    method: str,
    questions: list[Question],
    found: list[bool | None],
) -> None:
    """Items and the score of one method."""
    for item, (one, said) in enumerate(zip(questions, found, strict=True)):
        judged.items.append(
            {"latent": latent, "method": method, "item": item, "truth": one.truth,
             "token_index": int(side.texts.index[one.context.place]),
             "quantile": one.context.quantile, "answer": said}
        )  # fmt: skip
    read = [(q.truth, a) for q, a in zip(questions, found, strict=True) if a is not None]
    truth = np.array([t for t, _ in read], bool)
    answer = np.array([a for _, a in read], bool)
    score = balanced_accuracy(truth, answer, len(found) - len(read))
    judged.score(latent, method, BALANCED, score)


def _intruders(
    config: ExplanationConfig, side: Side, latent: int, answers: Answers, judged: Judged
) -> None:
    """Trials of five contexts, the token in the middle of each marked, also of the silent one."""
    trials = trials_of(
        side.texts, side.firings, latent, config.quantiles, config.trials, config.width, config.seed
    )
    right, failed = [], 0
    for item, trial in enumerate(trials):
        places = trial.places.tolist()
        excerpts = [side.excerpt(place, config.width, (place,)) for place in places]
        said = prompts.number_of(answers.of(prompts.intruder(excerpts)), len(places))
        failed += said is None
        right += [] if said is None else [said - 1 == trial.intruder]
        for number, place in enumerate(places):
            judged.items.append(
                {"latent": latent, "method": INTRUDER, "item": item,
                 "token_index": int(side.texts.index[place]), "quantile": trial.quantile,
                 "truth": number == trial.intruder,
                 "answer": None if said is None else number == said - 1}
            )  # fmt: skip
    judged.score(latent, INTRUDER, CHANCE, share_found(np.array(right, bool), failed))
