"""What a language model is asked of a latent, and how its answers are read.

Texts of the corpus stand in the prompts as they are, between lines of their own; whatever they ask
for, an answer is read as a sentence, a number or a list of noughts and ones, and obeyed nowhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

MOST_CHARACTERS = 500
"""Of an explanation."""

_NUMBERED = "Excerpt {number}:\n{text}\n"
_LIST = re.compile(r"\[[\s01,]*\]")
_NUMBER = re.compile(r"(?<![\w.])(\d+)(?!\w|\.\d)")


def explain(excerpts: Sequence[str]) -> str:
    """Asks for one sentence of what the marked tokens have in common."""
    return (
        "The excerpts below come from different texts. In each of them a feature of a language "
        "model responds to the tokens between << and >>, strongly in the first excerpts, weakly "
        "in the last. What do these tokens, in their contexts, have in common? Answer with one "
        "sentence of at most 25 words, and nothing else.\n\n" + _listed(excerpts)
    )


def detect(explanation: str, excerpts: Sequence[str]) -> str:
    """Asks in which excerpts an explained feature responds."""
    return (
        f"A feature of a language model is described so:\n{explanation}\n\nFor each of the "
        f"{len(excerpts)} excerpts below: does it hold something that the feature responds to? "
        f"Answer with a JSON list of {len(excerpts)} numbers, 1 for yes and 0 for no, in the "
        "order of the excerpts, and nothing else.\n\n" + _listed(excerpts)
    )


def fuzz(explanation: str, excerpts: Sequence[str]) -> str:
    """Asks in which excerpts the marked tokens are those that the feature responds to."""
    return (
        f"A feature of a language model is described so:\n{explanation}\n\nIn each of the "
        f"{len(excerpts)} excerpts below some tokens stand between << and >>. Are they the ones "
        "that the feature responds to, and not others? Answer with a JSON list of "
        f"{len(excerpts)} numbers, 1 for yes and 0 for no, in the order of the excerpts, and "
        "nothing else.\n\n" + _listed(excerpts)
    )


def intruder(excerpts: Sequence[str]) -> str:
    """Asks which excerpt does not belong to the others."""
    return (
        f"In {len(excerpts) - 1} of the {len(excerpts)} excerpts below the token between << and "
        ">> shares something with those of the others; one excerpt does not belong. Which? Answer "
        "with its number, and nothing else.\n\n" + _listed(excerpts)
    )


def sentence_of(answer: str) -> str | None:
    """An explanation, on one line; None of an empty answer."""
    return " ".join(answer.split())[:MOST_CHARACTERS] or None


def list_of(answer: str, length: int) -> list[bool] | None:
    """The first list of ``length`` noughts and ones in an answer; None if there is none."""
    for found in _LIST.findall(answer):
        try:
            values = json.loads(found)
        except ValueError:
            continue
        if len(values) == length and all(value in (0, 1) for value in values):
            return [value == 1 for value in values]
    return None


def number_of(answer: str, most: int) -> int | None:
    """The only number from 1 to ``most`` that an answer names; None if it names none, or more."""
    found = {int(number) for number in _NUMBER.findall(answer)}
    return found.pop() if len(found) == 1 and found <= set(range(1, most + 1)) else None


def _listed(excerpts: Sequence[str]) -> str:
    numbered = enumerate(excerpts, 1)
    return "\n".join(_NUMBERED.format(number=number, text=text) for number, text in numbered)
